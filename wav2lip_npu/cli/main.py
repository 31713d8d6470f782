"""The command line: subcommands, and known errors as one line with exit code 2."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, get_type_hints

from wav2lip_npu import __version__
from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.options import SWITCHES

# Name: module and class of its options, what it does. The module is imported when the command runs.
COMMANDS = {
    "dub": ("wav2lip_npu.cli.dub", "DubCommand", "put speech into the mouth of a face video or photo"),
    "batch": ("wav2lip_npu.cli.batch", "BatchCommand", "dub many videos, unattended"),
    "preprocess": (
        "wav2lip_npu.cli.preprocess",
        "PreprocessCommand",
        "cut clips to train on from videos",
    ),
    "train_syncnet": (
        "wav2lip_npu.cli.train",
        "TrainSyncnetCommand",
        "train the expert on sync",
    ),
    "train": ("wav2lip_npu.cli.train", "TrainCommand", "train the generator"),
    "export": (
        "wav2lip_npu.cli.export",
        "ExportCommand",
        "write networks as ONNX files, and compile them for an NPU",
    ),
    "compare": (
        "wav2lip_npu.cli.compare",
        "CompareCommand",
        "run the same inputs through two engines or devices",
    ),
    "doctor": (
        "wav2lip_npu.cli.doctor",
        "DoctorCommand",
        "look at this machine, or at clips before training on them: what will hurt",
    ),
}
_FILE_OR_STDOUT = "--json"
"""Takes a file name, or nothing for the standard output."""
_TERMINATED, _INTERRUPTED = 143, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 some failed, 2 bad input, 130 or 143 interrupted.

    A bug keeps its traceback, which makes the exit code 1; `--debug` shows one for bad input too.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        sys.stdout.write(f"wav2lip-npu {__version__}\n")
        return 0
    if words[0] not in COMMANDS:
        return _refuse(f"unknown command {words[0]!r}. Choose {', '.join(COMMANDS)}, or see --help.", 2)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("wav2lip_npu").setLevel(logging.DEBUG if debug else logging.INFO)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(words[0], words[1:])
    except Wav2LipError as error:
        if debug:
            raise
        return _refuse(str(error), 2)
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, _TerminatedError)
        what = "terminated" if terminated else "interrupted"
        return _refuse(
            f"{what}, {str(stop) or 'nothing was written'}.", _TERMINATED if terminated else _INTERRUPTED
        )


def _run(command: str, words: list[str]) -> int:
    """Exit code of a command: what its `run` returns, 0 when that is nothing."""
    import tyro

    module, name, _ = COMMANDS[command]
    options = getattr(importlib.import_module(module), name)
    parsed = tyro.cli(
        options,
        args=_plain_switches(words, options),
        prog=f"wav2lip-npu {command}",
        use_underscores=True,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )
    return parsed.run() or 0


def _plain_switches(words: list[str], options: Any) -> list[str]:
    """`--switch True` and `--switch=True` as `--switch`, `--switch False` as nothing or `--no_switch`."""
    switches = dict(_switches(options))
    plain = []
    rest = iter(range(len(words)))
    for at in rest:
        flag, _, value = words[at].partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in switches:
            plain.append(words[at])
            if words[at] == _FILE_OR_STDOUT and (words[at + 1 :] or ["--"])[0].startswith("--"):
                plain.append("-")
            continue
        if not value and at + 1 < len(words) and words[at + 1].lower() in SWITCHES:
            value = words[next(rest)]
        wanted = SWITCHES.get(value.lower(), True)
        if wanted != switches[name]:
            plain.append(f"--{name}" if wanted else f"--no_{name}")
    return plain


def _switches(options: Any) -> Iterator[tuple[str, bool]]:
    """Names and defaults of the yes-or-no fields of a dataclass and of those inside it."""
    types = get_type_hints(options)
    for field in dataclasses.fields(options):
        if dataclasses.is_dataclass(types[field.name]):
            yield from _switches(types[field.name])
        elif isinstance(field.default, bool):
            yield field.name, field.default


def _overview() -> str:
    lines = [f"  {name:<15}{text}" for name, (_, _, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: wav2lip-npu COMMAND [OPTIONS]",
            "",
            "Wav2Lip lip-sync on Ascend NPUs, CUDA GPUs and CPUs.",
            "",
            "commands (wav2lip-npu COMMAND --help shows the options):",
            *lines,
            "",
            "  --version   print the version",
            "  --debug     show where an error comes from",
            "",
        ]
    )


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, as an exception that unwinds as Ctrl-C does."""


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise _TerminatedError


def _refuse(message: str, code: int) -> int:
    """One line on stderr, whatever a file name in it holds."""
    line = message.replace("\r", "\\r").replace("\n", "\\n")
    sys.stderr.write(f"wav2lip-npu: {line}\n".encode("utf-8", "backslashreplace").decode("utf-8"))
    return code


def console() -> NoReturn:
    """Entry point of the `wav2lip-npu` script."""
    sys.exit(main())
