"""The header of a safetensors file as the real client reads it: by ranges, never the whole file."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import NotASafetensorsRepoError

from tests.functional.hub_api.running import WholePlatform


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[WholePlatform]:
    running = WholePlatform(tmp_path / "platform")
    running.start()
    yield running
    running.stop()


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # of the client about itself, in its LFS upload
def test_the_header_is_read_by_ranges(whole: WholePlatform) -> None:
    api = HfApi(endpoint=whole.url, token=whole.admin_token)
    repo = api.create_repo("tensors").repo_id
    with pytest.raises(NotASafetensorsRepoError):
        api.get_safetensors_metadata(repo)
    header = {"__metadata__": {"format": "pt"}, "w": {"dtype": "F32", "shape": [500, 500], "data_offsets": [0, 1_000_000]}}
    text = json.dumps(header).encode()
    body = struct.pack("<Q", len(text)) + text + bytes(1_000_000)
    api.upload_file(path_or_fileobj=body, path_in_repo="model.safetensors", repo_id=repo)
    read = api.get_safetensors_metadata(repo)
    assert read.parameter_count == {"F32": 250_000} and read.weight_map == {"w": "model.safetensors"} and not read.sharded
    one = api.parse_safetensors_file_metadata(repo, "model.safetensors")
    assert one.metadata == {"format": "pt"} and one.tensors["w"].shape == [500, 500]
