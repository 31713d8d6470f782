"""The command line, with CPUs computing in the memory format of NPUs."""

import sys

from wav2lip_npu.cli import main
from wav2lip_npu.devices.device import BACKENDS

BACKENDS["cpu"] = BACKENDS["cpu"]._replace(channels_last=False)
sys.exit(main.main())
