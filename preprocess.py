"""The original's command: `python preprocess.py --data_root ... --preprocessed_root ...`."""

import sys

from wav2lip_npu.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["preprocess", *sys.argv[1:]]))
