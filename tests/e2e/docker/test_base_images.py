"""Every base image that Debian's packages can give, built and looked into: `make test-images`, minutes long.

It needs root, dockerd, mmdebstrap and a Debian mirror. What has no Debian release is built from its upstream image, and not here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from builder.base_images import BaseImages
from builder.catalog import BaseImage, load_catalog
from builder.config import ToolConfig
from builder.engines.docker_engine import DockerConfig, DockerEngine
from builder.worker import uv_config
from tests.contract.docker_engine import TestEngine, can_start

pytestmark = [
    pytest.mark.images,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # docker-py leaves sockets to the collector
    pytest.mark.skipif(
        not os.environ.get("CI") and not (can_start and shutil.which("mmdebstrap")),
        reason="starts a Docker engine and makes Debian roots, which needs root, dockerd, runc, nft, mmdebstrap",
    ),
]
OFFERED = tuple(one for one in load_catalog().images if one.suite)
LOOK = r"""
import json, os, pathlib, pwd, shutil, subprocess, sys
root = pathlib.Path("/")
def there(*names): return [name for name in names if os.path.exists(name)]
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "home": os.environ["HOME"], "user": pwd.getpwuid(1000).pw_dir,
    "python": "%d.%d" % sys.version_info[:2], "cwd": os.getcwd(), "writable": os.access(".", os.W_OK),
    "venv": subprocess.run([sys.executable, "-m", "venv", "/tmp/v"], capture_output=True).returncode,
    "uv": subprocess.run(["uv", "--version"], capture_output=True, text=True).stdout.split()[:2],
    "compilers": [name for name in ("cc", "gcc", "g++", "c++", "clang", "make", "ld", "as", "cargo", "go") if shutil.which(name)],
    "left": there("/tmp/setup.sh", "/root/.cache", "/root/.bash_history", "/root/.netrc", "/root/.docker", "/etc/apt/auth.conf")
        + [str(one) for place in ("var/lib/apt/lists", "var/cache/apt/archives", "etc/apt/auth.conf.d", "run/secrets", "home/user/.cache")
           for one in (root / place).glob("**/*") if one.is_file() and one.name != "lock"],
    "sources": [line for one in root.glob("etc/apt/sources.list*") if one.is_file() for line in one.read_text().splitlines() if line],
    "tools": [name for name in ("curl", "ffmpeg", "git") if not shutil.which(name)],
    "sbom": open("/usr/share/vitrine/sbom.spdx").read(),
    "packages": subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}\n"], capture_output=True, text=True).stdout.splitlines(),
    "nvidia": {name: value for name, value in os.environ.items() if name.startswith("NVIDIA")},
}))
"""


@pytest.fixture(scope="module")
def client(host: TestEngine) -> Iterator[Any]:
    made = docker.DockerClient(base_url=host.host, version="1.41")
    yield made
    made.close()


@pytest.fixture(scope="module")
def bases(host: TestEngine) -> BaseImages:
    """One for all: images of one Debian release share its root."""
    return BaseImages(DockerEngine(DockerConfig(host.host)), uv_config(ToolConfig()).path, lambda line: None)


@pytest.mark.parametrize("image", OFFERED, ids=[one.name for one in OFFERED])
def test_a_base_image_from_debian_packages(image: BaseImage, bases: BaseImages, client: Any) -> None:
    built = bases.build(image, bootstrap="debian")
    assert {one.image.name: one.size_bytes for one in bases.list()}[image.name] == built.size_bytes
    look = ["python3", "-c", LOOK]
    found, by_root = (
        json.loads(client.containers.run(image.name, look, network_mode="none", remove=True, cap_drop=["ALL"], user=user))
        for user in ("", "0:0")  # as apps run; and as who sees what is in root's home
    )
    assert (found["uid"], found["gid"], found["home"], found["user"]) == (1000, 1000, "/home/user", "/home/user")
    assert (found["python"], found["cwd"], found["writable"], found["venv"]) == (image.python, "/home/user/app", True, 0)
    assert found["uv"][:1] == ["uv"]
    assert (found["compilers"], by_root["left"], found["tools"]) == ([], [], [])
    assert found["sources"] and all("debian.org/" in line or line.startswith("#") for line in found["sources"]), found["sources"]
    # What the NVIDIA container runtime reads: which cards ("void" = none, also where it is everybody's runtime), which parts of the driver.
    nvidia = {"NVIDIA_VISIBLE_DEVICES": "void", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    assert found["nvidia"] == (nvidia if image.family == "gpu" else {})
    config = client.images.get(image.name).attrs["Config"]
    assert not config.get("ExposedPorts") and config["User"] == "1000:1000"
    listed = {f"{one['PackageName']} {one['PackageVersion']}" for one in spdx_packages(found["sbom"])}
    assert listed == {*found["packages"], " ".join(found["uv"])}


def spdx_packages(text: str) -> list[dict[str, str]]:
    """The packages of an SPDX 2.3 document in tag-value form; asserts what the specification makes mandatory."""
    head, *rest = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]
    assert (head["SPDXVersion"], head["DataLicense"], head["SPDXID"]) == ("SPDX-2.3", "CC0-1.0", "SPDXRef-DOCUMENT")
    assert re.fullmatch(r"https://[^#\s]+", head["DocumentNamespace"]) and head["DocumentName"]
    assert re.fullmatch(r"(Person|Organization|Tool): .+", head["Creator"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", head["Created"])
    ids = [one["SPDXID"] for one in rest]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", one) for one in ids)
    for one in rest:
        assert one["PackageDownloadLocation"] == "NOASSERTION" and one["FilesAnalyzed"] == "false"
        assert re.fullmatch(r"PACKAGE-MANAGER purl pkg:(deb|pypi)/\S+@\S+", one["ExternalRef"])
        assert one["Relationship"] == f"SPDXRef-DOCUMENT DESCRIBES {one['SPDXID']}"
    return rest
