"""Reads a Dockerfile and says what is wrong with it: the rules of hadolint that matter here, without hadolint."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

_BETWEEN = ("&&", "||", ";", "|", "&")


class Instruction(NamedTuple):
    """One instruction, its continued lines joined."""

    line: int
    name: str
    text: str


def instructions(text: str) -> list[Instruction]:
    """What a Dockerfile tells to do, in order, without comments."""
    found, started, parts = [], 0, []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not parts and not line.strip()):
            continue
        started = started if parts else number
        parts.append(line.rstrip().removesuffix("\\").strip())
        if not line.rstrip().endswith("\\"):
            name, _, rest = " ".join(parts).partition(" ")
            found.append(Instruction(started, name.upper(), rest.strip()))
            parts = []
    assert not parts, "the last line goes on"
    return found


def commands(run: str) -> list[list[str]]:
    """The words of each command of a RUN, and of what a pipe leads to."""
    lexer = shlex.shlex(run, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in _BETWEEN:
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def complaints(text: str) -> list[str]:
    """What is wrong, as `LINE RULE: why`; the names of rules are hadolint's."""
    return [f"{line} {rule}" for line, rule in _complaints(instructions(text))]


def _complaints(found: list[Instruction]) -> Iterator[tuple[int, str]]:
    names = [each.name for each in found]
    if "FROM" not in names or set(names[: names.index("FROM")]) - {"ARG"}:
        yield 1, "DL3061: FROM, or ARG before it, comes first"
        return
    for name in ("CMD", "ENTRYPOINT", "HEALTHCHECK"):
        if names.count(name) > 1:
            yield found[names.index(name)].line, f"DL4003: more than one {name}"
    users = [each for each in found if each.name == "USER"]
    if not users or users[-1].text.split(":")[0] in ("root", "0"):
        yield found[-1].line, "DL3002: the last user is root"
    shell = ""
    for each in found:
        if each.name == "SHELL":
            shell = each.text
        for rule in _rules_of(each, shell):
            yield each.line, rule


def _rules_of(each: Instruction, shell: str) -> Iterator[str]:
    text = each.text
    if each.name == "FROM":
        image = text.removeprefix("--platform=").split()[0]
        if ":" not in image.rpartition("/")[2] or image.endswith(":latest"):
            yield "DL3006: the image has no tag, or the latest"
    if each.name == "ADD":
        yield "DL3020: COPY copies; ADD unpacks and downloads"
    if each.name == "MAINTAINER":
        yield "DL4000: deprecated"
    if each.name == "WORKDIR" and not text.startswith(("/", "$")):
        yield "DL3000: not absolute"
    if each.name == "USER" and not re.fullmatch(r"\d+(:\d+)?", text):
        yield "DL3066: a name that the host may not know"
    if each.name in ("CMD", "ENTRYPOINT", "SHELL") and not _is_list(text):
        yield "DL3025: no list of words in JSON"
    words = [word for word in text.split() if not word.startswith("--")]
    if each.name == "COPY" and len(words) > 2 and not words[-1].endswith("/"):
        yield "DL3021: several sources, and the last word is no folder"
    if each.name == "RUN":
        yield from _rules_of_run(text, shell)


def _rules_of_run(text: str, shell: str) -> Iterator[str]:
    if re.search(r"(?<!\|)\|(?!\|)", text) and "pipefail" not in shell:
        yield "DL4006: a pipe hides failures without pipefail"
    for words in commands(text):
        program = words[0].rpartition("/")[2]
        if program == "cd":
            yield "DL3003: WORKDIR changes the folder"
        if program == "sudo":
            yield "DL3004: sudo"
        if program in ("apt-get", "apt") and "install" in words:
            if program == "apt":
                yield "DL3027: apt is for people"
            if "--no-install-recommends" not in words:
                yield "DL3015: recommended packages come along"
            if not {"-y", "--yes", "-qq"} & set(words):
                yield "DL3014: it would ask"
            if "/var/lib/apt/lists" not in text:
                yield "DL3009: the lists of packages stay"
        if program in ("pip", "pip3") and "install" in words:
            if "--no-cache-dir" not in words:
                yield "DL3042: the cache of pip stays"
            rest = words[words.index("install") + 1 :]
            named = [w for w in rest if re.match(r"[A-Za-z]", w) and not re.search(r"==|\.txt$|^https?:", w)]
            if named and not {"--constraint", "-c"} & set(words):
                yield f"DL3013: no version of {', '.join(named)}"


def _is_list(text: str) -> bool:
    try:
        words = json.loads(text)
    except json.JSONDecodeError:
        return False
    return isinstance(words, list) and all(isinstance(word, str) for word in words)
