"""The command line: subcommands, and errors that a user can fix as one line with exit code 2."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import io
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn, get_type_hints

from wav2lip_npu import __version__, signals
from wav2lip_npu.cli import streams
from wav2lip_npu.cli.resource_errors import resource_problem
from wav2lip_npu.errors import UsageError, Wav2LipError
from wav2lip_npu.options import SWITCHES
from wav2lip_npu.parallel.log_lines import log_to_stderr, one_line


class Command(NamedTuple):
    """A subcommand. Its module is imported only when it runs."""

    module: str
    options: str
    """Name of the option dataclass, whose `run` method does the work."""
    summary: str

    def load(self) -> Any:
        """Import the module and return the option dataclass."""
        return getattr(importlib.import_module(f"wav2lip_npu.cli.{self.module}"), self.options)


COMMANDS = {
    "dub": Command("dub", "DubCommand", "lip-sync one video or photo to an audio file"),
    "batch": Command("batch", "BatchCommand", "dub many videos unattended"),
    "live": Command("live", "LiveCommand", "audio chunks in, speaking frames out, through pipes"),
    "serve": Command("serve", "ServeCommand", "HTTP service with a web page"),
    "faces": Command("faces", "FacesCommand", "list the people of a video, with pictures"),
    "preprocess": Command("preprocess", "PreprocessCommand", "cut training clips out of videos"),
    "train_syncnet": Command("train", "TrainSyncnetCommand", "train SyncNet, the lip-sync expert"),
    "train": Command("train", "TrainCommand", "train the generator"),
    "export": Command("export", "ExportCommand", "export networks to ONNX and compile them for an NPU"),
    "compare": Command("compare", "CompareCommand", "compare two engines or devices on the same inputs"),
    "evaluate": Command(
        "evaluate", "EvaluateCommand", "measure generated videos, beside their original recordings"
    ),
    "doctor": Command("doctor", "DoctorCommand", "check this machine, or clips before training on them"),
}
_JSON = "--json"
"""Flag whose value is optional: a file name, or nothing for standard output."""
_NARROW, _WIDE = 40, 100_000
"""Columns of the narrowest terminal that the help is formatted for, because tyro never finishes with 2, and
of one in which every message fits in a line."""
_NEW_OBJECTS = 10_000
"""Objects between two runs of the garbage collector. With its default, it runs hundreds of times while the
libraries are imported, and finds nothing."""
_SIGNALLED = 128
"""Exit codes above this are 128 plus the number of the signal that stopped the command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    The codes are 0 (done), 1 (some of the work failed), 2 (bad input), 130 (Ctrl-C), 143 (SIGTERM) and 129
    (SIGHUP). A bug keeps its traceback, which makes Python exit with 1. `--debug` shows a traceback for bad
    input too.
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
        return _fail(f"unknown command {words[0]!r}. Choose {', '.join(COMMANDS)}, or see --help.", 2)
    log_to_stderr()
    logging.getLogger("wav2lip_npu").setLevel(logging.DEBUG if debug else logging.INFO)
    with signals.command():
        try:
            return _parse(words[0], words[1:]).run() or 0
        except Wav2LipError as error:
            if debug:
                raise
            return _fail(str(error), 2)
        except signals.StoppedError as stop:
            return _fail(str(stop), stop.exit_code)
        except Exception as error:
            problem = resource_problem(error)
            if debug or problem is None:
                raise
            return _fail(problem, 2)


def _parse(name: str, words: list[str]) -> Any:
    """Return the options of a command. Raises `UsageError`, or `SystemExit` after the help was printed."""
    options = COMMANDS[name].load()
    words = _join_dashes(_normalize_switches(words, options), options)
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages), _columns(max(shutil.get_terminal_size().columns, _NARROW)):
            return _run_tyro(name, words, options)
    except SystemExit as stop:
        if not stop.code:
            raise
        # Options check themselves at construction, inside tyro, which prints a box around the message.
        cause: BaseException | None = stop
        while cause is not None and not isinstance(cause, Wav2LipError):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
    raise UsageError(_unboxed_error(name, words, options))


def _run_tyro(name: str, words: list[str], options: Any) -> Any:
    import tyro

    from wav2lip_npu.cli.optional_values import registry

    return tyro.cli(
        options,
        args=words,
        prog=f"wav2lip-npu {name}",
        use_underscores=True,
        registry=registry,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )


def _unboxed_error(name: str, words: list[str], options: Any) -> str:
    """Return tyro's message about bad words as one line, by parsing again for a very wide terminal."""
    messages = io.StringIO()
    with contextlib.redirect_stderr(messages), _columns(_WIDE), contextlib.suppress(SystemExit):
        _run_tyro(name, words, options)
    box = messages.getvalue().partition("For full helptext")[0]
    lines = [line.strip("│| ") for line in box.splitlines()[1:]]
    text = " ".join(line for line in lines if line.strip("─-╰╯+")).partition(" Argument helptext:")[0]
    return f"{text} See wav2lip-npu {name} --help."


@contextlib.contextmanager
def _columns(width: int) -> Iterator[None]:
    """Set the width of the terminal for tyro during the block."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _normalize_switches(words: list[str], options: Any) -> list[str]:
    """Rewrite `--switch True` and `--switch=True` to `--switch`; False to nothing or `--no_switch`."""
    defaults = dict(_switches(options))
    normalized = []
    positions = iter(range(len(words)))
    for position in positions:
        flag, equals, value = words[position].partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in defaults:
            normalized.append(words[position])
            if words[position] == _JSON and (words[position + 1 :] or ["--"])[0].startswith("--"):
                normalized.append("-")
            continue
        if not equals and position + 1 < len(words) and words[position + 1].lower() in SWITCHES:
            value = words[next(positions)]
        if equals and value.lower() not in SWITCHES:
            raise UsageError(f"{flag} {value!r} is invalid. Pass true or false.")
        wanted = SWITCHES.get(value.lower(), True)
        if wanted != defaults[name]:
            normalized.append(f"--{name}" if wanted else f"--no_{name}")
    return normalized


def _join_dashes(words: list[str], options: Any) -> list[str]:
    """Rewrite `--outfile -x.mp4` to `--outfile=-x.mp4`, so that the name is not parsed as a flag."""
    names = set(_text_options(options))
    joined: list[str] = []
    for word in words:
        flag = joined[-1] if joined else ""
        is_value = word.startswith("-") and not word.startswith("--") and word not in ("-", "-h")
        if is_value and flag.startswith("--") and flag[2:].replace("-", "_") in names:
            joined[-1] = f"{flag}={word}"
        else:
            joined.append(word)
    return joined


def _text_options(options: Any) -> Iterator[str]:
    """Yield the names of the options that take one string, including nested ones."""
    for name, kind in _field_types(options):
        if kind in (str, str | None):
            yield name


def _field_types(options: Any) -> Iterator[tuple[str, Any]]:
    """Yield names and types of the options, including nested ones."""
    types = get_type_hints(options)
    for field in dataclasses.fields(options):
        if dataclasses.is_dataclass(types[field.name]):
            yield from _field_types(types[field.name])
        else:
            yield field.name, types[field.name]


def _switches(options: Any) -> Iterator[tuple[str, bool]]:
    """Yield names and defaults of the boolean options, nested ones included."""
    types = get_type_hints(options)
    for field in dataclasses.fields(options):
        if dataclasses.is_dataclass(types[field.name]):
            yield from _switches(types[field.name])
        elif isinstance(field.default, bool):
            yield field.name, field.default


def _overview() -> str:
    summaries = [f"  {name:<15}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: wav2lip-npu COMMAND [OPTIONS]",
            "",
            "Wav2Lip lip-sync on Ascend NPUs, CUDA GPUs and CPUs.",
            "",
            "commands (wav2lip-npu COMMAND --help lists the options):",
            *summaries,
            "",
            "  --version      print the version",
            "  --debug        show the traceback of an error",
            "",
        ]
    )


def _fail(message: str, code: int) -> int:
    """Print one line on standard error, and return `code`."""
    sys.stderr.write(f"wav2lip-npu: {one_line(message)}\n")
    return code


def console(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of `wav2lip-npu`, `python -m wav2lip_npu` and the scripts named as in the original."""
    output = streams.protect()  # before anything else opens a file
    gc.set_threshold(_NEW_OBJECTS)
    with signals.command():
        try:
            code = main(arguments)
        except SystemExit as stop:  # after --help of a command
            code = int(stop.code or 0)
        finally:
            signals.ignore()  # the work is done or cleaned up
    gc.freeze()  # the interpreter would look for cycles among the objects of all libraries before it ends
    sys.stdout.flush()
    if output.error is not None and not code:
        code = _fail(f"cannot write standard output: {output.error.strerror}.", 1)
    if code > _SIGNALLED:
        sys.stderr.flush()
        os._exit(code)  # threads may still be inside long calls
    sys.exit(code)
