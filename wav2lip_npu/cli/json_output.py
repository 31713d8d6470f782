"""Output of `--json`."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from wav2lip_npu.storage.atomic import replacing

log = logging.getLogger(__name__)

STDOUT = "-"


def write_json(content: Any, target: str) -> None:
    """Write JSON to a file, or to standard output if the target is `-`."""
    text = json.dumps(content, indent=1, ensure_ascii=True) + "\n"
    if target == STDOUT:
        sys.stdout.write(text)
        return
    with replacing(target) as part:
        part.write_text(text, encoding="ascii")
    log.info("full report: %s", target)
