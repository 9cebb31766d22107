"""From the platform's cache of models to an image: what the API sends, the builder unpacks, and links lead to the bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import BuildFailed
from builder.preload import add_models
from builder.reporter import CancelToken
from control_plane.api.preload import tar
from control_plane.domain.reasons import Reason


def cache(root: Path) -> list[Path]:
    model = root / "models--acme--small"
    (model / "blobs").mkdir(parents=True)
    (model / "blobs/etag").write_bytes(b"w" * 700)
    (model / "snapshots/abc/sub").mkdir(parents=True)
    (model / "snapshots/abc/sub/x.bin").symlink_to("../../../blobs/etag")
    return [Path("models--acme--small/snapshots/abc/sub/x.bin"), Path("models--acme--small/blobs/etag")]


def test_bytes_and_links_part_ways(tmp_path: Path) -> None:
    files, context = cache(tmp_path / "hub"), tmp_path / "context"
    context.mkdir()
    add_models(context, tar(tmp_path / "hub", [*files, Path("models--acme--small/blobs/vanished")]), 1 << 20, CancelToken())
    assert (context / "models/models--acme--small/etag").read_bytes() == b"w" * 700
    made = context / "cache/models--acme--small"
    assert str((made / "blobs/etag").readlink()) == "/opt/models/models--acme--small/etag"
    assert (made / "snapshots/abc/sub" / (made / "snapshots/abc/sub/x.bin").readlink()).resolve().name == "etag"


def test_models_that_are_too_large_are_refused(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    with pytest.raises(BuildFailed) as refused:
        add_models(context, tar(tmp_path / "hub", cache(tmp_path / "hub")), 100, CancelToken())
    assert refused.value.reason is Reason.BUILD_DISK
