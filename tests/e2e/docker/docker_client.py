"""What people have of an image: Docker's own command line, and everything that an image carries along."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Client:
    """Docker's own command line with a configuration of its own."""

    def __init__(self, engine: str, address: str, folder: Path) -> None:
        self.address, self.said = address, ""
        self._argv = ("docker", "--host", engine, "--config", str(folder))

    def image(self, name: str) -> str:
        return f"{self.address}/{name}"

    def run(self, *words: str, ok: bool = True, stdin: str = "") -> str:
        done = subprocess.run([*self._argv, *words], input=stdin, capture_output=True, text=True, timeout=120, check=False)
        self.said = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, self.said
        return self.said

    def login(self, user: str, token: str, *, ok: bool = True) -> str:
        return self.run("login", "--username", user, "--password-stdin", self.address, ok=ok, stdin=token)


def traces(image: Any, words: Sequence[str]) -> list[str]:
    """Where a word stands in what an image carries along: its configuration, its history, each file of each layer, each file's name."""
    found = [f"{word} in the history or the configuration" for word in words if word in str(image.history()) + str(image.attrs)]
    with tarfile.open(fileobj=io.BytesIO(b"".join(image.save()))) as archive:
        for layer in archive:
            if not layer.name.endswith("layer.tar"):
                continue
            opened = archive.extractfile(layer)
            assert opened is not None
            with tarfile.open(fileobj=opened) as files:
                for member in files:
                    content = files.extractfile(member) if member.isfile() else None
                    data = content.read() if content else b""
                    found += [f"{word} in {member.name}" for word in words if word.encode() in data or word in member.name]
                    if data and member.name in ("etc/pip.conf", "etc/uv/uv.toml", "etc/apt/apt.conf.d/99vitrine"):
                        found.append(f"{member.name}: {data[:200]!r}")
    return found
