"""Models of `preload_from_hub` in an image: their bytes where nothing changes them, and a small cache in the home that points at them.

The home is copied at each start and may be written, so the Hub's client finds its cache there; the bytes are in a layer of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from builder.dockerfile import HUB_CACHE, MODELS, MODELS_DIR
from builder.reporter import CancelToken
from builder.source import unpack


def add_models(context: Path, chunks: Iterator[bytes], max_bytes: int, cancel: CancelToken) -> None:
    """Unpacks a tar of the client's cache into the build context. Raises BuildFailed."""
    cache, models = context / HUB_CACHE, context / MODELS
    cache.mkdir()
    models.mkdir()
    unpack(chunks, cache, max_bytes=max(max_bytes, 0), cancel=cancel)
    for blobs in cache.glob("*/blobs"):
        kept = models / blobs.parent.name
        blobs.rename(kept)
        blobs.mkdir()
        for blob in kept.iterdir():
            (blobs / blob.name).symlink_to(f"{MODELS_DIR}/{kept.name}/{blob.name}")
