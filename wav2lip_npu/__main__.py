"""`python -m wav2lip_npu`."""

import sys

from wav2lip_npu.cli.main import main

sys.exit(main())
