"""A Docker Engine of its own for tests, with a bridge of its own and a way out, and an image with nothing but this machine's Python in it.

The engine keeps its hands off the host's firewall (`--iptables=false`): others may run on the same machine. What it would add there,
the masquerade, is a table of ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest

TOOLS = ("dockerd", "runc", "nft", "ldd", "ip")
can_start = os.geteuid() == 0 and all(shutil.which(tool) for tool in TOOLS)
needs_engine = pytest.mark.skipif(
    not can_start and not os.environ.get("CI"), reason=f"starts a Docker engine, which needs root and {', '.join(TOOLS)}"
)
_LEFT_OUT = {"test", "tests", "idlelib", "ensurepip", "site-packages", "dist-packages", "__pycache__", "lib2to3", "turtledemo"}


@dataclass
class TestEngine:
    __test__ = False

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    images: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)

    @property
    def bridge(self) -> str:
        return f"vt{hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]}"

    @property
    def host(self) -> str:
        return f"unix://{self.folder}/d.sock"

    def start(self) -> None:
        argv = ["dockerd", "--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec", "-H", self.host]
        argv += ["--pidfile", f"{self.folder}/d.pid", "--iptables=false", "--ip-masq=false", f"--bridge={self.bridge}", "--live-restore"]
        if not Path("/sys/class/net", self.bridge).exists():
            self._make_bridge()
        with open(self.folder / "dockerd.log", "ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        for _ in range(1200):
            with socket.socket(socket.AF_UNIX) as one:
                if one.connect_ex(f"{self.folder}/d.sock") == 0:
                    return
            assert self.process.poll() is None, (self.folder / "dockerd.log").read_text()
            time.sleep(0.05)
        raise AssertionError("the engine did not start")

    def _make_bridge(self) -> None:
        """The engine's default network, and the masquerade for all of its networks."""
        taken = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
        first = int(self.bridge[2:], 16) % 200
        number = next(one % 200 for one in range(first, first + 200) if f" 10.209.{one % 200}." not in taken)
        for command in (
            f"ip link add {self.bridge} type bridge", f"ip addr add 10.209.{number}.1/24 dev {self.bridge}",
            f"ip link set {self.bridge} up",
        ):  # fmt: skip
            subprocess.run(command.split(), check=True)
        chain = (
            "type nat hook postrouting priority 100; policy accept;\n"
            "ip saddr { 10.209.0.0/16, 10.212.0.0/15 } ip daddr != { 10.209.0.0/16, 10.212.0.0/15, 127.0.0.0/8 } masquerade\n"
        )
        subprocess.run(["nft", "-f", "-"], input=f"table ip {self.bridge} {{\nchain post {{\n{chain}}}\n}}\n", text=True, check=True)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    @contextlib.contextmanager
    def client(self) -> Iterator[docker.APIClient]:
        made = docker.APIClient(base_url=self.host, version="auto")
        try:
            yield made
        finally:
            made.close()

    def image(self, app: str, *, extra: tuple[str, ...] = ()) -> str:
        """The id of an image whose command is this program; `extra`: more Dockerfile words, such as "USER root"."""
        key = app + "\n".join(extra)
        if key not in self.images:
            with self.client() as client:
                if "" not in self.images:
                    client.import_image_from_data(_root(), repository="test/python", tag="1")
                    self.images[""] = "test/python:1"
                dockerfile = (
                    "FROM test/python:1\nENV PATH=/usr/local/bin:/usr/bin:/bin\nWORKDIR /home/user/app\nUSER 1000:1000\n"
                    'CMD ["python", "-u", "app.py"]\n'
                    + "".join(f"{line}\n" for line in extra)
                    + "COPY --chown=1000:1000 . /home/user/app/\n"
                )
                files = {"Dockerfile": dockerfile, "app.py": app}
                said = list(client.build(fileobj=_tar(files), custom_context=True, decode=True, rm=True, network_mode="none"))
                self.images[key] = next(str(one["aux"]["ID"]) for one in said if "aux" in one)
        return self.images[key]

    def remove(self) -> None:
        """Every container first: with live restore they outlive the engine."""
        if self.process is not None:
            with self.client() as client:
                for item in client.containers(all=True):
                    client.remove_container(item["Id"], force=True, v=True)
                for network in client.networks():
                    if (network.get("Labels") or {}).get("com.vitrine.platform"):
                        with contextlib.suppress(docker.errors.APIError):  # a container's end may not be known to it yet
                            client.remove_network(network["Id"])
        self.stop()
        listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout.splitlines()
        for line in listed:
            _, family, table = line.split()
            if table in (self.bridge, f"vitrine_kit_{self.bridge}") or any(table.startswith(f"vitrine_{tag}") for tag in self.tags):
                subprocess.run(["nft", "delete", "table", family, table], check=False)
        subprocess.run(["ip", "link", "delete", self.bridge], capture_output=True, check=False)
        places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in reversed([place for place in places if Path(place).is_relative_to(self.folder)]):  # left by a killed engine
            subprocess.run(["umount", "--lazy", place], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def test_engine() -> Iterator[TestEngine]:
    made = TestEngine(Path(tempfile.mkdtemp(prefix="v")))
    try:
        made.start()
        yield made
    finally:
        made.remove()


test_engine.__test__ = False  # type: ignore[attr-defined]


def _tar(files: dict[str, str]) -> io.BytesIO:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text.encode()), 0o644
            archive.addfile(info, io.BytesIO(text.encode()))
    data.seek(0)
    return data


def _root() -> bytes:
    """Interpreter, standard library, and the shared libraries that they need, at the paths they have here."""
    interpreter, library = os.path.realpath(sys.executable), sysconfig.get_path("stdlib")
    objects = [interpreter, *map(str, Path(library).rglob("*.so"))]
    listed = subprocess.run(["ldd", *objects], capture_output=True, text=True, check=False).stdout
    libraries = set(re.findall(r"(/[^ :()]+\.so[^ :()]*)", listed)) - set(objects)
    data = io.BytesIO()

    def wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if _LEFT_OUT & set(Path(info.name).parts) or info.name.endswith(".a"):
            return None
        info.uid = info.gid = 0
        return info

    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, mode in (("tmp", 0o1777), ("home", 0o755), ("home/user", 0o755), ("home/user/app", 0o755), ("etc", 0o755)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            if name.startswith("home/"):
                folder.uid = folder.gid = 1000
            archive.addfile(folder)
        passwd = b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"
        info = tarfile.TarInfo("etc/passwd")
        info.size = len(passwd)
        archive.addfile(info, io.BytesIO(passwd))
        archive.add(interpreter, interpreter.lstrip("/"), filter=wanted)
        archive.add(library, library.lstrip("/"), filter=wanted)
        for path in sorted(libraries):
            archive.add(os.path.realpath(path), path.lstrip("/"), filter=wanted)
        for name in ("usr/local/bin/python", "usr/bin/python"):
            if f"/{name}" != interpreter:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, interpreter
                archive.addfile(link)
    return data.getvalue()
