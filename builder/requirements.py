"""Reads requirement files, and decides how much they can be trusted. Pure.

A declaration of plain requirements (names and versions) is installed from wheels: no code of any package runs, so the
result may be shared between tenants. Options that name another index, a URL, a repository, a path or a source build make
the declaration *open*: it is installed inside the build sandbox, for its tenant alone.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from builder.errors import BuildFailed
from control_plane.domain.reasons import Reason

_PLACES = ("git+", "hg+", "svn+", "bzr+", "http:", "https:", "file:", ".", "/", "~")
# Sign-in buttons and `import spaces` work in a Gradio Space without a line in requirements.txt.
_GRADIO_COMPANIONS = ("gradio[oauth]", "spaces")

MAX_LINES = 2_000
MAX_INCLUDES = 20

ReadFile = Callable[[str], str | None]

_PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9+.\-]{0,127}(:[a-z0-9\-]{1,20})?\Z")  # Debian policy 5.6.1, with an architecture
_OPEN_OPTIONS = (
    "-i",
    "--index-url",
    "--extra-index-url",
    "-f",
    "--find-links",
    "-e",
    "--editable",
    "--no-index",
    "--trusted-host",
    "--no-binary",
    "--pre",
    "--prefer-binary",
    "--only-binary",
    "--require-hashes",
    "--use-feature",
)
# of these, the ones that change nothing when only wheels of the platform's index are used
_HARMLESS = ("--prefer-binary", "--only-binary", "--require-hashes", "--use-feature", "--trusted-host")


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a tree asks to be installed. `open_because` is "" for a declaration of wheels only, else the line that opens it."""

    requirements: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    prerelease: bool = False
    open_because: str = ""
    companions: tuple[str, ...] = ()  # what the SDK brings along as on the public service, where the index has it

    @property
    def is_open(self) -> bool:
        return bool(self.open_because)

    def key(self, *facts: str) -> str:
        """A stable name of this declaration together with `facts` (interpreter, index, tenant)."""
        body = [sorted(self.requirements), sorted(self.constraints), list(self.options), self.prerelease, self.is_open, list(facts)]
        body += [list(self.companions)] if self.companions else []
        return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:40]


def read_declaration(read: ReadFile, *, sdk: str, sdk_version: str | None) -> Declaration:
    """From `pre-requirements.txt` and `requirements.txt` (with the files they include) and the SDK's own package.

    Raises BuildFailed: REQUIREMENTS_UNRESOLVED for a line that is no requirement, CONFIG_ERROR for an SDK version that the
    requirements contradict.
    """
    parser = _Parser(read)
    for name in ("pre-requirements.txt", "requirements.txt"):
        text = read(name)
        if text is not None:
            parser.file(name, text)
    if sdk in ("gradio", "streamlit"):
        parser.sdk(sdk, sdk_version)
    return Declaration(
        requirements=tuple(dict.fromkeys(parser.requirements)),
        constraints=tuple(dict.fromkeys(parser.constraints)),
        options=tuple(parser.options),
        prerelease=parser.prerelease,
        open_because=parser.open_because,
        companions=parser.companions,
    )


def read_packages(text: str) -> tuple[str, ...]:
    """Names of packages.txt. Raises BuildFailed(SOURCE_REJECTED) for anything that is not a Debian package name."""
    names: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        for word in line.partition("#")[0].split():
            if not _PACKAGE_NAME.match(word):
                raise BuildFailed(Reason.SOURCE_REJECTED, f"packages.txt line {number}: {word[:80]!r} is not a Debian package name.")
            names.append(word)
    return tuple(dict.fromkeys(names))


class _Parser:
    def __init__(self, read: ReadFile) -> None:
        self.requirements: list[str] = []
        self.constraints: list[str] = []
        self.options: list[str] = []
        self.prerelease = False
        self.open_because = ""
        self.companions: tuple[str, ...] = ()
        self._read = read
        self._lines = 0
        self._includes = 0
        self._declared: dict[str, list[Requirement]] = {}

    def file(self, name: str, text: str, *, constraint: bool = False) -> None:
        for number, line in _logical_lines(text):
            self._lines += 1
            if self._lines > MAX_LINES:
                raise _bad(f"{name}: more than {MAX_LINES} lines of requirements.")
            self._line(name, number, line, constraint)

    def sdk(self, package: str, version: str | None) -> None:
        declared = self._declared.get(package, [])
        if package == "gradio":
            self.companions = _GRADIO_COMPANIONS
        if version is None:
            if not declared:
                self.requirements.append(package)
            return
        try:
            pin = SpecifierSet(f"=={version}")
        except InvalidSpecifier as error:
            raise BuildFailed(Reason.CONFIG_ERROR, f"README.md: sdk_version {version!r} is not a version.") from error
        for requirement in declared:
            if "*" not in version and not requirement.specifier.contains(version, prereleases=True):
                raise BuildFailed(
                    Reason.CONFIG_ERROR,
                    f"README.md says sdk_version {version}, and requirements.txt says {requirement}; make them agree, or remove one.",
                )
        self.requirements.append(f"{package}{pin}")

    def _line(self, name: str, number: int, line: str, constraint: bool) -> None:
        where = f"{name} line {number}"
        if line.startswith("-"):
            self._option(name, where, line, constraint)
            return
        if line.startswith(("git+", "hg+", "svn+", "bzr+", "http:", "https:", "file:", ".", "/", "~")) or line.endswith(
            (".whl", ".tar.gz", ".zip")
        ):
            self._open(where, line)
            self.requirements.append(line)
            return
        spec = re.split(r"\s--hash[= ]", line, maxsplit=1)[0].strip()
        try:
            requirement = Requirement(spec)
        except InvalidRequirement as error:
            raise _bad(f"{where}: {line[:200]!r} is not a requirement ({str(error).splitlines()[0]}).") from error
        if requirement.url:
            self._open(where, line)
        if constraint:
            self.constraints.append(str(requirement))
        else:
            self.requirements.append(str(requirement))
            self._declared.setdefault(canonicalize_name(requirement.name), []).append(requirement)

    def _option(self, name: str, where: str, line: str, constraint: bool) -> None:
        option, value = _split_option(line)
        if option in ("-r", "--requirement", "-c", "--constraint"):
            self._includes += 1
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), value))
            text = None if path.startswith(("/", "..")) or "://" in value else self._read(path)
            if text is None or self._includes > MAX_INCLUDES:
                raise _bad(f"{where}: {value[:200]!r} is not a file of this repository.")
            self.file(path, text, constraint=constraint or option in ("-c", "--constraint"))
        elif option == "--pre":
            self.prerelease = True
        elif option in _HARMLESS:
            return
        elif option in _OPEN_OPTIONS:
            self._open(where, line)
            if option in ("-e", "--editable"):
                self.requirements.append(f"-e {value}")
            else:
                self.options.append(f"{option} {value}".strip())
        else:
            raise _bad(f"{where}: the option {option!r} is not supported in a requirements file here.")

    def _open(self, where: str, line: str) -> None:
        if not self.open_because:
            self.open_because = f"{where}: {line[:200]}"


def _bad(message: str) -> BuildFailed:
    return BuildFailed(Reason.REQUIREMENTS_UNRESOLVED, message)


def _split_option(line: str) -> tuple[str, str]:
    head = re.match(r"(--?[A-Za-z][A-Za-z-]*)[= ]?\s*(.*)\Z", line)
    if head is None:
        return line, ""
    option, value = head.group(1), head.group(2).strip()
    if not option.startswith("--") and len(option) > 2:  # "-rother.txt"
        option, value = option[:2], (option[2:] + value).strip()
    return option, value


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """(number of the first line, text) with continuations joined and comments removed, as pip reads them."""
    lines: list[tuple[int, str]] = []
    pending, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        if not pending:
            start = number
        if raw.endswith("\\") and not raw.lstrip().startswith("#"):
            pending += raw[:-1] + " "
            continue
        line = re.sub(r"(^|\s+)#.*$", "", pending + raw).strip()
        pending = ""
        if line:
            lines.append((start, line))
    if pending.strip():
        lines.append((start, pending.strip()))
    return lines
