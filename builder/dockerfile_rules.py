"""What a Docker Space's own Dockerfile may not ask for. Pure; every refusal names the line and the rule.

The engine is the real wall (own network, no socket, no privileges); these rules stop what would reach around it or is only ever an
attack, early and with words. A `# syntax=` line would run a frontend image of the author's choice inside the engine
(CVE-2024-23653 and its family), so it is refused; that of the usual frontend is left unread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from builder.dockerfile_images import check_image
from builder.errors import BuildFailed
from control_plane.domain.reasons import Reason

MAX_INSTRUCTIONS = 500
MAX_LAYERS = 110  # of one stage: engines stack 125 at most, and the base image has some
_DIRECTIVE = re.compile(r"#\s*([a-z]+)\s*=\s*(.*)\Z", re.IGNORECASE)
_USUAL = re.compile(r"(?:docker\.io/)?docker/dockerfile(?::[\w.-]+)?\s*\Z")  # what the engine's own frontend reads as well
_FLAG = re.compile(r"--([a-z]+)(?:=(\S*))?\s*", re.IGNORECASE)


_HEREDOC = re.compile(r"<<-?['\"]?([A-Za-z_][A-Za-z0-9_]*)")
_HEREDOC_WORDS = ("RUN", "COPY", "ADD")


@dataclass(frozen=True, slots=True)
class Instruction:
    line: int
    word: str  # upper case
    flags: tuple[tuple[str, str], ...]
    rest: str
    end: int = 0  # its last line, of a here-document's too


@dataclass(frozen=True, slots=True)
class DockerfileFacts:
    """What the builder must know of an accepted Dockerfile."""

    args: frozenset[str]  # names declared by ARG
    needs_buildkit: bool  # uses RUN --mount, COPY --link and the like
    secret_ids: frozenset[str]  # of RUN --mount=type=secret
    images: frozenset[str] = frozenset()  # that stages start from or copy from


def check_dockerfile(text: str, variables: Mapping[str, str] | None = None, registry: str = "") -> DockerfileFacts:
    """Raises BuildFailed(SOURCE_REJECTED) for what is refused, BuildFailed(DOCKERFILE_FAILED) for what is no Dockerfile.

    `variables` are what ARG may be given; `registry` is the platform's own ("host:port/prefix"), whose images are other people's.
    """
    instructions = parse(text)
    images = check_images(instructions, variables or {}, registry)
    if not any(one.word == "FROM" for one in instructions):
        raise BuildFailed(Reason.DOCKERFILE_FAILED, "The Dockerfile has no FROM instruction.")
    if len(instructions) > MAX_INSTRUCTIONS:
        raise _refused(instructions[MAX_INSTRUCTIONS].line, f"more than {MAX_INSTRUCTIONS} instructions")
    check_layers(instructions)
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
    return DockerfileFacts(frozenset(args), buildkit, frozenset(secrets), images)


def check_layers(instructions: tuple[Instruction, ...]) -> None:
    """Raises BuildFailed(SOURCE_REJECTED) for a stage that no engine could stack, before its first step is run."""
    count = 0
    for one in instructions:
        count = 0 if one.word == "FROM" else count + (one.word in ("RUN", "COPY", "ADD"))
        if count > MAX_LAYERS:
            raise _refused(one.line, f"a stage may have at most {MAX_LAYERS} steps that make a layer (RUN, COPY, ADD); join some with &&")


def check_images(instructions: tuple[Instruction, ...], variables: Mapping[str, str], registry: str) -> frozenset[str]:
    """Every image that a stage starts from or copies from. Raises BuildFailed(SOURCE_REJECTED)."""
    values: dict[str, str] = {}
    found: set[str] = set()
    stages: set[str] = set()
    for one in instructions:
        if one.word == "ARG" and not stages:
            for part in one.rest.split():
                name, _, default = part.partition("=")
                values[name] = variables.get(name, expand(default.strip("\"'"), values) or "")
        elif one.word == "FROM":
            words = one.rest.split()
            found.add(_check_name(one, words[0] if words else "", stages, values, registry))
            stages.add(str(len([s for s in stages if s.isdigit()])))
            if len(words) == 3 and words[1].upper() == "AS":
                stages.add(words[2].lower())
        for name, value in one.flags:
            if name == "from" and one.word in ("COPY", "ADD"):
                found.add(_check_name(one, value, stages, values, registry))
            if name == "mount" and (source := re.search(r"(?:^|,)from=([^,]+)", value)):
                found.add(_check_name(one, source.group(1), stages, values, registry))
    return frozenset(found - {""})


def _check_name(one: Instruction, name: str, stages: set[str], values: Mapping[str, str], registry: str) -> str:
    """The image's full name, "" for a stage of this Dockerfile."""
    full = expand(name.strip("\"'"), values)
    if full is None:
        raise _refused(one.line, f"the image {name[:80]!r} hangs on a variable that the Dockerfile does not declare before its first FROM")
    if full.lower() in stages:
        return ""
    if problem := check_image(full, registry):
        raise _refused(one.line, problem)
    return full


def expand(text: str, values: Mapping[str, str]) -> str | None:
    """`$NAME`, `${NAME}`, `${NAME:-word}` and `${NAME:+word}` replaced; None for what is left of other forms."""

    def value(found: re.Match[str]) -> str:
        name, operator, word = found.group(1) or found.group(2), found.group(3), found.group(4) or ""
        own = values.get(name, "")
        return (word if own else "") if operator == ":+" else own or (word if operator else "")

    done = re.sub(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?:(:[-+])([^}$]*))?\})", value, text)
    return None if "$" in done else done


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
                found[-1] = replace(found[-1], end=number)
            continue
        if at_top and (directive := _DIRECTIVE.match(line)) and directive.group(1).lower() in ("syntax", "escape", "check"):
            if directive.group(1).lower() == "check" or (directive.group(1).lower() == "syntax" and _USUAL.match(directive.group(2))):
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
        found.append(replace(_instruction(start, pending + line), end=number))
        pending = ""
        if found[-1].word in _HEREDOC_WORDS and (mark := _HEREDOC.search(found[-1].rest)):
            heredoc = mark.group(1)
    if pending.strip():
        found.append(replace(_instruction(start, pending), end=len(text.splitlines())))
    return tuple(found)


def is_directive(line: str, name: str) -> bool:
    match = _DIRECTIVE.match(line.strip())
    return match is not None and match.group(1).lower() == name


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
        if name == "mount" and "type=ssh" in value:
            raise _refused(one.line, "`--mount=type=ssh` is not allowed: builds have no keys of the platform")
    if one.word == "ONBUILD":
        raise _refused(one.line, "ONBUILD is not allowed")
    if one.word in ("WORKDIR", "VOLUME") and re.search(r"/(proc|sys|dev)(/|\b)", one.rest):
        raise _refused(one.line, f"{one.word} may not point into /proc, /sys or /dev")
    if one.word == "ADD":
        _check_add(one)


def _check_add(one: Instruction) -> None:
    """The engine itself fetches what ADD names, on the host's network and along any redirect: no wall of ours is there."""
    try:
        sources = json.loads(one.rest)[:-1] if one.rest.startswith("[") else one.rest.split()[:-1]
    except ValueError:
        sources = one.rest.split()
    for source in map(str, sources):
        if "://" in source or source.startswith(("git@", "//")):
            raise _refused(one.line, "ADD may not fetch from an address; use RUN with curl or git, which have the build's own network")
        if "$" in source:
            raise _refused(one.line, "ADD may not take its source from a variable; use COPY")


def _secret_of(mount: str) -> set[str]:
    fields = dict(part.partition("=")[::2] for part in mount.split(","))
    if fields.get("type") != "secret":
        return set()
    return {name} if (name := fields.get("id") or fields.get("target", "").rpartition("/")[2]) else set()


def _refused(line: int, rule: str) -> BuildFailed:
    return BuildFailed(Reason.SOURCE_REJECTED, f"Dockerfile line {line}: {rule}.")
