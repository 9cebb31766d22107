"""How uv is called, and how its words are read. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

# uv's words when wheels alone do not resolve (uv 0.9 to 0.13)
NEEDS_SOURCE_BUILD = ("no usable wheels", "building from source is disabled", "building source distributions is disabled")

# uv's words when an index does not have what a lock names: the release, or its file
_NOT_THERE = ("no solution found", "there is no version of", "was not found in the package registry", "404 not found", "410 gone")


@dataclass(frozen=True, slots=True)
class UvConfig:
    """How uv is called. `env` is the whole environment of its processes besides what this module sets."""

    path: str
    index_url: str = ""
    ca_bundle: str = ""
    env: Mapping[str, str] | None = None

    def files(self) -> tuple[Path, ...]:
        """What must be visible for uv to run as configured."""
        index = urlsplit(self.index_url)
        local = (Path(unquote(index.path)),) if index.scheme == "file" else ()
        return (Path(self.path), *((Path(self.ca_bundle),) if self.ca_bundle else ()), *local)

    def variables(self, cache: Path) -> dict[str, str]:
        variables = {
            "PATH": os.defpath,
            "HOME": str(cache),
            **(self.env or {}),
            "UV_CACHE_DIR": str(cache),
            "UV_NO_CONFIG": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
            "UV_LINK_MODE": "hardlink",
            "NO_COLOR": "1",
        }
        if self.index_url:
            variables["UV_DEFAULT_INDEX"] = self.index_url
        if self.ca_bundle:
            variables["SSL_CERT_FILE"] = self.ca_bundle
        else:
            variables["UV_SYSTEM_CERTS"] = "1"
        return variables


def lock_lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))


def lacks_what_was_resolved(text: str) -> bool:
    """Whether installing from a lock failed because the index does not have what it named before. `text`: what uv printed."""
    lower = text.lower()
    return any(words in lower for words in _NOT_THERE)


def last_words(text: str) -> str:
    """The telling part of uv's error, at most 600 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if line.lower().startswith(("cause:", "caused by", "╰─▶", "× ", "because", "error:"))]
    return " ".join(causes or lines[-3:])[:600]
