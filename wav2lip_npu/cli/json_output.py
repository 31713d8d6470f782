"""Output of `--json`."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from wav2lip_npu.storage.outputs import OutputPath, write_output

log = logging.getLogger(__name__)

STDOUT = "-"


def json_outputs(target: str | None) -> list[OutputPath]:
    """Return the file of `--json`, if it is one, for `check_outputs`."""
    return [] if target in (None, STDOUT) else [OutputPath("--json", target)]


def write_json(content: Any, target: str) -> None:
    """Write JSON to a file, or to standard output if the target is `-`. Raises `OutputError`."""
    text = json.dumps(content, indent=1, ensure_ascii=True) + "\n"
    if target == STDOUT:
        sys.stdout.write(text)
        return
    write_output(target, text)
    log.info("full report: %s", target)
