"""`python -m wav2lip_npu`."""

from wav2lip_npu.cli.main import console

console()
