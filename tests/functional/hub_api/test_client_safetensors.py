"""The header of a safetensors file as the real client reads it: by ranges, never the whole file."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import httpx
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import NotASafetensorsRepoError

from tests.functional.hub_api.running import WholePlatform

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # of the client about itself, in its LFS upload


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholePlatform]:
    running = WholePlatform(tmp_path_factory.mktemp("tensors"))
    running.start()
    yield running
    running.stop()


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


def _file(header: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + bytes(8)


BROKEN = {
    "empty": b"", "short": b"\x01\x02", "endless": _file(b"{}", 1 << 62), "no json": _file(b"{]"), "a list": _file(b"[1]"),
    "deep": _file(b"[" * 100_000), "no number": _file(b'{"w":{"dtype":"F32","shape":[NaN]}}'), "cut off": _file(b"{", 5000),
}  # fmt: skip
INDEXES = (
    b"",
    b"[]",
    b'{"weight_map":{}}',
    b'{"weight_map":{"w":"../../../etc/passwd"}}',
    b'{"weight_map":{"w":"/etc/passwd"}}',
    b'{"weight_map":[1]}',
)


def test_what_is_no_header_is_refused_and_left_out(whole: WholePlatform) -> None:
    """With a sentence, never with a crash; the info of the model goes on without its numbers."""
    api = HfApi(endpoint=whole.url, token=whole.admin_token)
    asking = {"Authorization": f"Bearer {whole.admin_token}"}
    repo = api.create_repo("broken-tensors").repo_id
    files = {f"{name}.safetensors": body for name, body in BROKEN.items()}
    files |= {f"{number}.index.json": body for number, body in enumerate(INDEXES)}
    half = json.dumps({"w": {"dtype": "\ud800", "shape": [1], "data_offsets": [0, 4]}}).encode()
    files["model.safetensors"] = _file(half)
    api.create_commit(repo, [CommitOperationAdd(path, body) for path, body in files.items()], commit_message="Broken")
    with httpx.Client(base_url=f"{whole.url}/api/models/{repo}", headers=asking, timeout=60) as client:
        for path in (*files, "nothing.safetensors", "nothing.json", "../x.safetensors", ".git/config"):
            reply = client.get(f"/safetensors-metadata/{path}")
            if path == "model.safetensors":  # JSON can say it, so it is passed on
                assert reply.json()["w"]["shape"] == [1]
            else:
                assert 400 <= reply.status_code < 500 and reply.headers["x-error-message"], path
        assert "safetensors" not in client.get("").json()
