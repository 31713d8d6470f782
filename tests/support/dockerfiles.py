"""Instructions of a Dockerfile, and the commands of its RUN steps."""

from __future__ import annotations

import shlex
from typing import NamedTuple

_BETWEEN = ("&&", "||", ";", "|", "&")


class Instruction(NamedTuple):
    """One instruction with its continuation lines joined."""

    line: int
    name: str
    text: str


def instructions(text: str) -> list[Instruction]:
    """Return the instructions in order, without comments."""
    result, started, parts = [], 0, []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not parts and not line.strip()):
            continue
        started = started if parts else number
        parts.append(line.rstrip().removesuffix("\\").strip())
        if not line.rstrip().endswith("\\"):
            name, _, rest = " ".join(parts).partition(" ")
            result.append(Instruction(started, name.upper(), rest.strip()))
            parts = []
    assert not parts, "the last line ends with a backslash"
    return result


def commands(run: str) -> list[list[str]]:
    """Return the words of all commands of a RUN instruction, including those after a pipe."""
    lexer = shlex.shlex(run, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    result: list[list[str]] = [[]]
    for word in lexer:
        if word in _BETWEEN:
            result.append([])
        else:
            result[-1].append(word)
    return [words for words in result if words]
