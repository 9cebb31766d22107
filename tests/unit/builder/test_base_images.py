"""Which base images there are, and which of them Debian's packages can give."""

from __future__ import annotations

import pytest

from builder.base_images import BaseImages
from builder.catalog import load_catalog
from builder.config import ToolConfig
from builder.engines.docker_engine import DockerConfig, DockerEngine
from builder.errors import BuildFailed
from builder.worker import uv_config
from control_plane.domain.reasons import Reason

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OF_DEBIAN = {"3.11": "bookworm", "3.13": "trixie"}
IMAGES = load_catalog().images


@pytest.mark.parametrize("family", ["cpu", "gpu"])
def test_every_python_has_a_base_for_every_family(family: str) -> None:
    found = {one.python: one for one in IMAGES if one.family == family}
    assert tuple(sorted(found)) == PYTHONS
    assert {version: one.suite for version, one in found.items() if one.suite} == OF_DEBIAN
    for version, one in found.items():
        assert one.upstream.startswith(f"python:{version}-slim-") and one.upstream.endswith(one.debian)
        assert load_catalog().find(family, version) == load_catalog().find(family, f"{version}.4") == one


@pytest.mark.parametrize("image", [one for one in IMAGES if not one.suite], ids=lambda one: one.name)
def test_what_debian_has_not_is_refused_in_words(image: object) -> None:
    """Before any engine is asked, and never with another Python in its place."""
    bases = BaseImages(DockerEngine(DockerConfig("unix:///nowhere")), uv_config(ToolConfig()).path, lambda line: None)
    with pytest.raises(BuildFailed) as failed:
        bases.build(image, bootstrap="debian")  # type: ignore[arg-type]
    assert failed.value.reason is Reason.PYTHON_MISSING
    assert "Debian has no release with Python 3.1" in failed.value.message and "upstream image" in failed.value.message
