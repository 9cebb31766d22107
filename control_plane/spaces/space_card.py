"""From a README's front matter to a `SpaceConfig`, or to a list of mistakes that say which key, which line, what is allowed.

Pure. `validate` finds every mistake, `parse` raises the first one. Unknown keys are ignored, as on the public service; a
key that looks like a misspelt known one gets a warning.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from control_plane.domain.accounts import OAUTH_SCOPES
from control_plane.domain.errors import SpaceConfigError
from control_plane.domain.hardware import DEFAULT_FLAVORS
from control_plane.domain.spaces import RepoType, Sdk, SpaceConfig
from control_plane.spaces import front_matter
from control_plane.spaces.front_matter import Node

COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
CUSTOM_HEADERS: Mapping[str, tuple[str, ...]] = {
    "cross-origin-embedder-policy": ("unsafe-none", "require-corp", "credentialless"),
    "cross-origin-opener-policy": ("unsafe-none", "same-origin-allow-popups", "same-origin", "noopener-allow-popups"),
    "cross-origin-resource-policy": ("same-site", "same-origin", "cross-origin"),
}
DEFAULT_APP_FILES = {Sdk.GRADIO: "app.py", Sdk.STREAMLIT: "app.py", Sdk.STATIC: "index.html", Sdk.DOCKER: "Dockerfile"}
MAX_SHORT_DESCRIPTION = 60
MAX_STARTUP_S = 24 * 3600
MAX_LIST = 500

_VERSION = re.compile(r"\d{1,4}(\.\d{1,6}){0,3}((a|b|rc|\.post|\.dev)\d{1,4})?", re.ASCII)
_PYTHON = re.compile(r"3\.\d{1,2}(\.\d{1,2})?", re.ASCII)
_REPO_NAME = re.compile(r"(?:[\w-][\w.-]{0,95}/)?[\w-][\w.-]{0,95}", re.ASCII)
_DURATION = re.compile(
    r"(?:(\d{1,3}) ?(?:h|hours?))? ?(?:(\d{1,4}) ?(?:m|min|minutes?))? ?(?:(\d{1,5}) ?(?:s|sec|seconds?))?", re.ASCII | re.IGNORECASE
)
_PRELOAD_FILES = re.compile(r"[^\s\x00-\x1f]{1,2000}")
_REVISION = re.compile(r"[\w][\w./-]{0,199}", re.ASCII)


@dataclass(frozen=True, slots=True)
class CardIssue:
    """`line` is the line of README.md (first = 1); `allowed` is empty where no list of values exists."""

    message: str
    key: str | None = None
    line: int | None = None
    allowed: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"README.md line {self.line}: " if self.line else "README.md: "
        return f"{where}{self.message}"


@dataclass(frozen=True, slots=True)
class CardReport:
    """`card` is the front matter as JSON-safe data; `config` is set for a Space without errors."""

    errors: tuple[CardIssue, ...] = ()
    warnings: tuple[CardIssue, ...] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    config: SpaceConfig | None = None


def parse(readme: bytes | None, *, flavors: tuple[str, ...] | None = None) -> SpaceConfig:
    """The configuration of a Space, or SpaceConfigError with the first mistake. `readme` None = the file is missing."""
    if readme is None:
        raise SpaceConfigError("README.md is missing; it tells which SDK the Space uses", key="sdk", line=1, allowed=tuple(Sdk))
    report = validate(readme, RepoType.SPACE, flavors=flavors)
    if report.config is None:
        issue = report.errors[0]
        raise SpaceConfigError(issue.message, key=issue.key, line=issue.line, allowed=issue.allowed)
    return report.config


def validate(readme: bytes, repo_type: RepoType, *, flavors: tuple[str, ...] | None = None) -> CardReport:
    """Every mistake and every doubt about a README. `flavors` = names of the hardware of this platform."""
    try:
        root = front_matter.read(readme)
    except SpaceConfigError as error:
        return CardReport(errors=(CardIssue(error.message, error.key, error.line, error.allowed),))
    if repo_type is not RepoType.SPACE:
        return _plain_card(root)
    if root is None:
        message = "README.md has no front matter: begin it with a block between two `---` lines that holds at least `sdk`"
        return CardReport(errors=(CardIssue(message, "sdk", 1, tuple(Sdk)),))
    reader = _Reader(root)
    config = _space(reader, flavors or tuple(f.name for f in DEFAULT_FLAVORS))
    errors = tuple(sorted(reader.errors, key=lambda issue: issue.line or 0))
    return CardReport(errors, tuple(reader.warnings), root.value(), config if not errors else None)


def _plain_card(root: Node | None) -> CardReport:
    if root is None:
        return CardReport(warnings=(CardIssue("README.md has no front matter", line=1),))
    reader = _Reader(root)
    reader.strings("tags")
    for key in ("thumbnail", "pretty_name"):
        reader.text(key)
    return CardReport(tuple(reader.errors), tuple(reader.warnings), root.value())


def _space(reader: _Reader, flavors: tuple[str, ...]) -> SpaceConfig | None:
    word = reader.choice("sdk", tuple(Sdk), required=True)
    sdk = Sdk(word) if word else Sdk.GRADIO
    config = SpaceConfig(
        sdk=sdk,
        title=reader.text("title", 200) or "",
        emoji=reader.checked("emoji", _is_emoji, "one emoji is needed") or "",
        color_from=reader.choice("colorFrom", COLORS) or "",
        color_to=reader.choice("colorTo", COLORS) or "",
        short_description=reader.text("short_description", MAX_SHORT_DESCRIPTION) or "",
        sdk_version=reader.checked("sdk_version", _VERSION.fullmatch, "a plain version such as 5.49.1 is needed"),
        python_version=reader.checked("python_version", _PYTHON.fullmatch, "a version such as 3.11 or 3.11.9 is needed"),
        app_file=reader.checked("app_file", _is_inner_path, "a path inside the repository is needed, without '..' and not absolute")
        or DEFAULT_APP_FILES[sdk],
        app_port=reader.number("app_port", 1, 65535, 7860),
        app_build_command=reader.text("app_build_command", 1000),
        base_path=reader.checked("base_path", _is_url_path, "a path that starts with one '/' is needed, without '..' or spaces") or "/",
        suggested_hardware=reader.choice("suggested_hardware", flavors),
        full_width=reader.flag("fullWidth", True),
        header=reader.choice("header", ("default", "mini")) or "default",
        models=reader.strings("models", _REPO_NAME.fullmatch, "a repository id such as 'name' or 'owner/name' is needed"),
        datasets=reader.strings("datasets", _REPO_NAME.fullmatch, "a repository id such as 'name' or 'owner/name' is needed"),
        tags=reader.strings("tags"),
        thumbnail=reader.checked("thumbnail", _is_web_address, "an http or https address is needed") or "",
        pinned=reader.flag("pinned", False),
        license=reader.text_or_first("license"),
        hf_oauth=reader.flag("hf_oauth", False),
        hf_oauth_scopes=reader.strings("hf_oauth_scopes", allowed=OAUTH_SCOPES),
        hf_oauth_expiration_minutes=reader.number("hf_oauth_expiration_minutes", 1, 43200, 480),
        hf_oauth_authorized_org=reader.strings(
            "hf_oauth_authorized_org", lambda s: _REPO_NAME.fullmatch(s) and "/" not in s, "an organisation's name is needed"
        ),
        disable_embedding=reader.flag("disable_embedding", False),
        startup_timeout_s=reader.duration("startup_duration_timeout", 1800),
        custom_headers=reader.headers("custom_headers"),
        preload_from_hub=reader.strings("preload_from_hub", _is_preload, "'repo', 'repo file1,file2' or 'repo files revision' is needed"),
    )
    if reader.choice("suggested_storage", ("small", "medium", "large")):
        reader.warn("suggested_storage", "suggested_storage has no effect")
    return _fitting_sdk(reader, config) if word else None


def _fitting_sdk(reader: _Reader, config: SpaceConfig) -> SpaceConfig:
    """Keys that mean something for other SDKs only are answered with a warning and lose their effect."""
    sdk = config.sdk
    if reader.has("app_port") and sdk is not Sdk.DOCKER:
        reader.warn("app_port", f"app_port is for sdk: docker only; this {sdk} Space is reached on port 7860")
        config = replace(config, app_port=7860)
    if reader.has("app_build_command") and sdk is not Sdk.STATIC:
        reader.warn("app_build_command", "app_build_command is for sdk: static only and is ignored")
        config = replace(config, app_build_command=None)
    if reader.has("base_path") and sdk is Sdk.STATIC:
        reader.warn("base_path", "base_path has no effect for sdk: static; use app_file")
        config = replace(config, base_path="/")
    for key in ("sdk_version", "python_version"):
        if reader.has(key) and (sdk is Sdk.STATIC or (sdk is Sdk.DOCKER and key == "sdk_version")):
            reader.warn(key, f"{key} has no effect for sdk: {sdk}")
    for key in ("hf_oauth_scopes", "hf_oauth_expiration_minutes", "hf_oauth_authorized_org"):
        if reader.has(key) and not config.hf_oauth:
            reader.warn(key, f"{key} has no effect without hf_oauth: true")
    reader.warn_about_misspelt()
    return config


def _is_emoji(text: str) -> bool:
    keycap = "\u20e3" in text
    if not 0 < len(text) <= 12 or any(c.isalpha() or c.isspace() for c in text):
        return False
    return all(ord(c) > 0xA8 or (keycap and c in "0123456789#*") for c in text)


def _is_inner_path(text: str) -> bool:
    plain = text.isprintable() and "\\" not in text and len(text) <= 1000 and not text.startswith(("/", "-", "~"))
    return plain and all(part not in ("", "..", ".git") for part in text.split("/"))


def _is_url_path(text: str) -> bool:
    plain = text.startswith("/") and not text.startswith("//") and text.isprintable() and len(text) <= 1000
    return plain and not any(c in text for c in " \\\"'<>") and ".." not in text.split("?")[0].split("/")


def _is_web_address(text: str) -> bool:
    return re.fullmatch(r"https?://[^\s\"'<>\\\x00-\x20]{1,2000}", text) is not None


def _is_preload(text: str) -> bool:
    repo, *rest = text.split()
    return (
        _REPO_NAME.fullmatch(repo) is not None
        and len(rest) <= 2
        and (not rest or _PRELOAD_FILES.fullmatch(rest[0]) is not None)
        and (len(rest) < 2 or _REVISION.fullmatch(rest[1]) is not None)
        and not any(".." in part.split("/") or part.startswith(("/", "-")) for part in (rest[0].split(",") if rest else []))
    )


_KNOWN = frozenset(
    [
        "title",
        "emoji",
        "colorFrom",
        "colorTo",
        "sdk",
        "sdk_version",
        "python_version",
        "app_file",
        "app_build_command",
        "app_port",
        "base_path",
        "suggested_hardware",
        "suggested_storage",
        "fullWidth",
        "header",
        "short_description",
        "models",
        "datasets",
        "tags",
        "thumbnail",
        "pinned",
        "license",
        "hf_oauth",
        "hf_oauth_scopes",
        "hf_oauth_expiration_minutes",
        "hf_oauth_authorized_org",
        "disable_embedding",
        "startup_duration_timeout",
        "custom_headers",
        "preload_from_hub",
    ]
)


class _Reader:
    """Typed access to the front matter; collects mistakes instead of raising them."""

    def __init__(self, root: Node) -> None:
        self._root = root
        self.errors: list[CardIssue] = []
        self.warnings: list[CardIssue] = []

    def has(self, key: str) -> bool:
        node = self._root.entries.get(key)
        return node is not None and not (node.kind == "text" and node.value() is None)

    def warn(self, key: str, message: str) -> None:
        self.warnings.append(CardIssue(message, key, self._root.key_lines.get(key)))

    def warn_about_misspelt(self) -> None:
        for key in list(self._root.entries)[:200]:
            near = difflib.get_close_matches(key, _KNOWN, 1, 0.85) if key not in _KNOWN and len(key) < 40 else []
            if near:
                self.warn(key, f"'{key}' is not a known key and is ignored; did you mean '{near[0]}'?")

    def _fail(self, key: str, node: Node | None, message: str, allowed: tuple[str, ...] = ()) -> None:
        line = node.line if node else self._root.key_lines.get(key, self._root.line)
        self.errors.append(CardIssue(f"{key}: {message}", key, line, allowed))

    def _scalar(self, key: str) -> Node | None:
        if not self.has(key):
            return None
        node = self._root.entries[key]
        if node.kind != "text":
            self._fail(key, node, "one value is needed, not a list or a map")
            return None
        return node

    def text(self, key: str, longest: int = 500) -> str | None:
        return self.checked(key, lambda s: len(s) <= longest and s.isprintable(), f"at most {longest} printable characters are allowed")

    def checked(self, key: str, test: Callable[[str], object], need: str) -> str | None:
        node = self._scalar(key)
        if node is None:
            return None
        text = node.text.strip()
        if not text or not test(text):
            self._fail(key, node, f"'{_short(node.text)}' cannot be used; {need}")
            return None
        return text

    def text_or_first(self, key: str) -> str:
        node = self._root.entries.get(key)
        if node is not None and node.kind == "list":
            return next(iter(self.strings(key)), "")
        return self.text(key) or ""

    def choice(self, key: str, allowed: tuple[str, ...], *, required: bool = False) -> str | None:
        node = self._scalar(key)
        if node is None:
            if required and not self.has(key):
                self._fail(key, None, f"it is missing; allowed: {', '.join(allowed)}", tuple(map(str, allowed)))
            return None
        if node.text not in allowed:
            near = difflib.get_close_matches(node.text[:40], allowed, 1, 0.75)
            guess = f"; did you mean '{near[0]}'?" if near else ""
            self._fail(key, node, f"'{_short(node.text)}' is not one of {', '.join(allowed)}{guess}", tuple(map(str, allowed)))
            return None
        return node.text

    def flag(self, key: str, default: bool) -> bool:
        node = self._scalar(key)
        if node is None:
            return default
        value = node.value()
        if not isinstance(value, bool):
            self._fail(key, node, f"'{_short(node.text)}' is not one of true, false", ("true", "false"))
            return default
        return value

    def number(self, key: str, low: int, high: int, default: int) -> int:
        node = self._scalar(key)
        if node is None:
            return default
        if not re.fullmatch(r"\d{1,9}", node.text, re.ASCII) or not low <= int(node.text) <= high:
            self._fail(
                key, node, f"'{_short(node.text)}' cannot be used; a whole number from {low} to {high} is needed", (f"{low}–{high}",)
            )
            return default
        return int(node.text)

    def duration(self, key: str, default: int) -> int:
        node = self._scalar(key)
        if node is None:
            return default
        found = _DURATION.fullmatch(node.text.strip())
        seconds = sum(int(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
        if not 0 < seconds <= MAX_STARTUP_S:
            self._fail(key, node, f"'{_short(node.text)}' is not a duration; write 30m, 1h or 1h30m, at most 24h")
            return default
        return seconds

    def strings(
        self, key: str, test: Callable[[str], object] | None = None, need: str = "a word is needed", *, allowed: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        if not self.has(key):
            return ()
        node = self._root.entries[key]
        items = node.items
        if node.kind == "text" and key == "hf_oauth_authorized_org":
            items = [node]
        elif node.kind != "list":
            self._fail(key, node, "a list is needed")
            return ()
        if len(items) > MAX_LIST:
            self._fail(key, node, f"at most {MAX_LIST} items are allowed")
            return ()
        for item in items:
            if item.kind != "text" or not item.text.strip() or not item.text.isprintable() or len(item.text) > 3000:
                self._fail(key, item, "each item must be one line of text")
            elif allowed and item.text not in allowed:
                self._fail(key, item, f"'{_short(item.text)}' is not one of {', '.join(allowed)}", allowed)
            elif test is not None and not test(item.text.strip()):
                self._fail(key, item, f"'{_short(item.text)}' cannot be used; {need}")
        return tuple(item.text.strip() for item in items)

    def headers(self, key: str) -> Mapping[str, str]:
        if not self.has(key):
            return {}
        node = self._root.entries[key]
        if node.kind != "map":
            self._fail(key, node, f"a map is needed; allowed keys: {', '.join(CUSTOM_HEADERS)}", tuple(CUSTOM_HEADERS))
            return {}
        found = {}
        for name, value in node.entries.items():
            allowed = CUSTOM_HEADERS.get(name)
            if allowed is None:
                names = tuple(CUSTOM_HEADERS)
                self._fail(key, value, f"the header '{_short(name)}' cannot be set; allowed: {', '.join(names)}", names)
            elif value.kind != "text" or value.text not in allowed:
                self._fail(key, value, f"'{_short(value.text)}' is not a value of {name}; allowed: {', '.join(allowed)}", allowed)
            else:
                found[name] = value.text
        return found


def _short(text: str) -> str:
    clean = "".join(c if c.isprintable() else "\ufffd" for c in text[:60])
    return clean + ("…" if len(text) > 60 else "")
