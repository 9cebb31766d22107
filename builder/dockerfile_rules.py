"""What a Docker Space's own Dockerfile may not ask for. Pure; every refusal names the line and the rule.

The engine is the real wall (own network, no socket, no privileges); these rules stop what would reach around it or is only ever an
attack, early and with words. A `# syntax=` line would run a frontend image of the author's choice inside the engine
(CVE-2024-23653 and its family), so it is refused.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from builder.errors import BuildFailed
from control_plane.domain.reasons import Reason

MAX_INSTRUCTIONS = 500  # an image cannot have more than 127 layers anyway
_DIRECTIVE = re.compile(r"#\s*([a-z]+)\s*=\s*(.*)\Z", re.IGNORECASE)
_FLAG = re.compile(r"--([a-z]+)(?:=(\S*))?\s*", re.IGNORECASE)


_HEREDOC = re.compile(r"<<-?['\"]?([A-Za-z_][A-Za-z0-9_]*)")
_HEREDOC_WORDS = ("RUN", "COPY", "ADD")


@dataclass(frozen=True, slots=True)
class Instruction:
    line: int
    word: str  # upper case
    flags: tuple[tuple[str, str], ...]
    rest: str


@dataclass(frozen=True, slots=True)
class DockerfileFacts:
    """What the builder must know of an accepted Dockerfile."""

    args: frozenset[str]  # names declared by ARG
    needs_buildkit: bool  # uses RUN --mount, COPY --link and the like
    secret_ids: frozenset[str]  # of RUN --mount=type=secret


def check_dockerfile(text: str) -> DockerfileFacts:
    """Raises BuildFailed(SOURCE_REJECTED) for what is refused, BuildFailed(DOCKERFILE_FAILED) for what is no Dockerfile."""
    instructions = parse(text)
    if not any(one.word == "FROM" for one in instructions):
        raise BuildFailed(Reason.DOCKERFILE_FAILED, "The Dockerfile has no FROM instruction.")
    if len(instructions) > MAX_INSTRUCTIONS:
        raise _refused(instructions[MAX_INSTRUCTIONS].line, f"more than {MAX_INSTRUCTIONS} instructions")
    args: set[str] = set()
    secrets: set[str] = set()
    buildkit = False
    for one in instructions:
        _check(one)
        if one.word == "ARG":
            args |= {part.partition("=")[0] for part in one.rest.split()}
        for name, value in one.flags:
            if name in ("mount", "link", "exclude", "parents", "checksum"):
                buildkit = True
            if name == "mount":
                secrets |= _secret_of(value)
        if one.word in _HEREDOC_WORDS and _HEREDOC.search(one.rest):
            buildkit = True
    return DockerfileFacts(frozenset(args), buildkit, frozenset(secrets))


def parse(text: str) -> tuple[Instruction, ...]:
    """Instructions with their first line's number; continuations joined, comments dropped. Parser directives are refused."""
    found: list[Instruction] = []
    pending, start = "", 0
    heredoc = ""
    at_top = True
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if heredoc:
            if line == heredoc:
                heredoc = ""
            continue
        if at_top and (directive := _DIRECTIVE.match(line)) and directive.group(1).lower() in ("syntax", "escape", "check"):
            if directive.group(1).lower() == "check":
                continue
            raise _refused(number, f"`# {directive.group(1)}=` is not allowed: the platform's own frontend reads the Dockerfile")
        if line:
            at_top = False
        if line.startswith("#") or (not line and not pending):
            continue
        if not pending:
            start = number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        found.append(_instruction(start, pending + line))
        pending = ""
        if found[-1].word in _HEREDOC_WORDS and (mark := _HEREDOC.search(found[-1].rest)):
            heredoc = mark.group(1)
    if pending.strip():
        found.append(_instruction(start, pending))
    return tuple(found)


def _instruction(line: int, text: str) -> Instruction:
    word, _, rest = text.strip().partition(" ")
    rest = rest.strip()
    flags: list[tuple[str, str]] = []
    while match := _FLAG.match(rest):
        flags.append((match.group(1).lower(), match.group(2) or ""))
        rest = rest[match.end() :]
    if not word.isalpha():
        raise BuildFailed(Reason.DOCKERFILE_FAILED, f"Dockerfile line {line}: {word[:40]!r} is not an instruction.")
    return Instruction(line, word.upper(), tuple(flags), rest)


def _check(one: Instruction) -> None:
    for name, value in one.flags:
        if name in ("security", "device"):
            raise _refused(one.line, f"`--{name}` is not allowed")
        if name == "network" and value.lower() != "none":
            raise _refused(one.line, f"`--network={value}` is not allowed; builds have the platform's build network")
        if name == "mount" and re.search(r"(^|,)type=(ssh|bind)", value) and "from=" in value:
            continue
        if name == "mount" and "type=ssh" in value:
            raise _refused(one.line, "`--mount=type=ssh` is not allowed: builds have no keys of the platform")
    if one.word == "ONBUILD":
        raise _refused(one.line, "ONBUILD is not allowed")
    if one.word in ("WORKDIR", "VOLUME") and re.search(r"/(proc|sys|dev)(/|\b)", one.rest):
        raise _refused(one.line, f"{one.word} may not point into /proc, /sys or /dev")
    if one.word == "ADD":
        for part in one.rest.split():
            if "://" in part and _is_private(part):
                raise _refused(one.line, "ADD may not fetch from a private or metadata address")


def _is_private(url: str) -> bool:
    try:
        host = (urlsplit(url).hostname or "").rstrip(".").lower()
    except ValueError:
        return True
    if host in ("localhost", "metadata", "metadata.google.internal") or host.endswith((".localhost", ".internal", ".local")):
        return True
    try:
        address = ipaddress.ip_address(int(host, 0) if re.fullmatch(r"0x[0-9a-f]+|\d+", host) else host)
    except ValueError:
        return False
    return not address.is_global


def _secret_of(mount: str) -> set[str]:
    fields = dict(part.partition("=")[::2] for part in mount.split(","))
    if fields.get("type") != "secret":
        return set()
    return {name} if (name := fields.get("id") or fields.get("target", "").rpartition("/")[2]) else set()


def _refused(line: int, rule: str) -> BuildFailed:
    return BuildFailed(Reason.SOURCE_REJECTED, f"Dockerfile line {line}: {rule}.")
