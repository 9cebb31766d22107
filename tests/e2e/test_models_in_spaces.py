"""Models and datasets hosted here, loaded by the Hub's own client from inside running Spaces, and shared between them."""

from __future__ import annotations

import array
import json
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from tests.e2e.conftest import Platform, Work

APP = """
import http.server, json, os, pathlib
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors.numpy import load_file
CACHE = pathlib.Path(os.environ["HF_HOME"], "hub")
def model():
    folder = pathlib.Path(snapshot_download("admin/tiny"))
    weights = load_file(folder / "model.safetensors")
    return {"sum": float(weights["w"].sum()), "config": json.loads((folder / "config.json").read_text())}
def rows(token=None):
    return pathlib.Path(hf_hub_download("admin/rows", "data/rows.csv", repo_type="dataset", token=token)).read_text()
def hidden():
    try:
        return pathlib.Path(hf_hub_download("admin/hidden", "secret.txt", token=os.environ.get("HF_TOKEN") or False)).read_text()
    except Exception as error:
        return type(error).__name__
def scribble():
    blob = next(CACHE.glob("models--admin--tiny/blobs/*"))
    blob.write_bytes(b"mine")
    (CACHE / "note").write_text("mine")
    return blob.read_bytes().decode()
QUESTIONS = {"/model": model, "/rows": rows, "/hidden": hidden, "/scribble": scribble,
             "/cache": lambda: sorted(p.name for p in CACHE.iterdir())}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            found = QUESTIONS.get(self.path, lambda: None)()
        except Exception as error:
            found = repr(error)
        body = json.dumps(found).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""


NUMBERS = [n % 7 for n in range(300_000)]


def _safetensors(name: str = "w", numbers: Sequence[float] = NUMBERS, *, width: int = 0) -> bytes:
    """A model of one tensor, in the format's own few bytes: length, header, numbers."""
    data = array.array("f", numbers).tobytes()
    shape = [len(numbers) // width, width] if width else [len(numbers)]
    header = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def _settled(platform: Platform, path: str) -> int:
    """`_resolved` once the access log, which follows the answers in their order, has come to a request that is made now."""
    mark = f"/api/models/admin/mark-{time.monotonic_ns()}"
    platform.api("GET", mark)
    end = time.monotonic() + 60
    while not _resolved(platform, mark):
        assert time.monotonic() < end, "the access log stands still"
        time.sleep(0.05)
    return _resolved(platform, path)


def _resolved(platform: Platform, path: str) -> int:
    """How often the content of a file was sent, by the proxy's own log; the log lags a moment behind."""
    log = platform.data_dir / "logs/platform/proxy.log"
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return sum(line.get("method") == "GET" and path in str(line.get("path")) for line in lines)


def _ask(platform: Platform, name: str, path: str) -> object:
    return platform.app(f"admin-{name}", path).json()


@pytest.fixture
def api(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    return HfApi(endpoint=platform.url, token=platform.token)


def test_spaces_load_models_and_datasets_of_this_platform_and_share_them(
    platform: Platform, work: Callable[..., Work], api: HfApi, tmp_path: Path
) -> None:
    weights = _safetensors()
    api.create_repo("admin/tiny")
    api.upload_file(path_or_fileobj=weights, path_in_repo="model.safetensors", repo_id="admin/tiny")
    api.upload_file(path_or_fileobj=b'{"model_type": "tiny"}', path_in_repo="config.json", repo_id="admin/tiny")
    api.create_repo("admin/rows", repo_type="dataset")
    api.upload_file(path_or_fileobj=b"a,b\n1,2\n", path_in_repo="data/rows.csv", repo_id="admin/rows", repo_type="dataset")
    api.create_repo("admin/hidden", private=True)
    api.upload_file(path_or_fileobj=b"only with a token", path_in_repo="secret.txt", repo_id="admin/hidden")

    def space(name: str, card: str = "") -> None:
        demo = work(name)
        readme = f"---\ntitle: {name}\nsdk: gradio\napp_file: app.py\n{card}---\n"
        demo.write(**{"app.py": APP, "requirements.txt": "huggingface_hub\nsafetensors\nnumpy\n", "README.md": readme})
        assert "Live at" in demo.push("x")

    expected = {"sum": float(sum(NUMBERS)), "config": {"model_type": "tiny"}}
    work_secret = {"key": "HF_TOKEN", "value": platform.token}
    space("loader-one")
    assert platform.api("POST", "/api/spaces/admin/loader-one/secrets", json=work_secret).status_code == 200
    platform.until("loader-one", "RUNNING")
    assert _ask(platform, "loader-one", "/model") == expected
    assert _ask(platform, "loader-one", "/rows") == "a,b\n1,2\n"
    assert _ask(platform, "loader-one", "/hidden") == "only with a token"

    # The second Space finds what the first one downloaded, reads it, and cannot change it for anybody else.
    before = _settled(platform, "/admin/tiny/resolve/")
    space("loader-two")
    assert _ask(platform, "loader-two", "/cache") == ["datasets--admin--rows", "models--admin--tiny"], "never what is private"
    assert _ask(platform, "loader-two", "/model") == expected
    assert _ask(platform, "loader-two", "/rows") == "a,b\n1,2\n"
    assert _ask(platform, "loader-two", "/hidden") == "RepositoryNotFoundError"
    assert _ask(platform, "loader-two", "/scribble") == "mine"
    shared = platform.data_dir / "hub-cache/hub/models--admin--tiny"
    blobs = {path.name: path for path in (shared / "blobs").iterdir()}
    large = next(path for path in blobs.values() if path.stat().st_size == len(weights))
    assert large.read_bytes() == weights and large.stat().st_nlink >= 3, "the repository's own bytes, not a copy"
    assert _settled(platform, "/admin/tiny/resolve/") == before, "nothing was downloaded a second time"

    # A revision that the card names is there before the app asks; what becomes private or gated goes at once.
    api.create_repo("admin/named")
    api.upload_file(path_or_fileobj=weights[:-4] + b"\0\0\0\1", path_in_repo="model.safetensors", repo_id="admin/named")
    space("loader-three", "preload_from_hub:\n  - admin/named\n")
    cached = _ask(platform, "loader-three", "/cache")
    assert isinstance(cached, list) and "models--admin--named" in cached
    named = shared.parent / "models--admin--named"
    assert named.exists()
    api.update_repo_settings("admin/tiny", private=True)
    api.update_repo_settings("admin/named", gated="manual")
    end = time.monotonic() + 60
    while shared.exists() or named.exists():
        assert time.monotonic() < end, "still shared after it became private, or got a gate"
        time.sleep(0.05)
    assert _ask(platform, "loader-three", "/model") != expected


LIBRARIES = """
import http.server, json, os
from datasets import Dataset, load_dataset
from model2vec import StaticModel
from transformers import AutoConfig, AutoTokenizer
rows = load_dataset("admin/table")
found = {
    "config": AutoConfig.from_pretrained("admin/tokens").model_type,
    "ids": AutoTokenizer.from_pretrained("admin/tokens")("hello world")["input_ids"],
    "rows": {split: part.to_list() for split, part in rows.items()},
    "streamed": next(iter(load_dataset("admin/table", split="test", streaming=True))),
    "vectors": StaticModel.from_pretrained("admin/vectors").encode(["hello world", "world"]).tolist(),
}
Dataset.from_dict({"n": [1, 2, 3]}).push_to_hub("admin/pushed", token=os.environ["HF_TOKEN"], private=True)
found["pushed"] = load_dataset("admin/pushed", split="train", token=os.environ["HF_TOKEN"])["n"][:]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(found).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""


WORDS = 7


def _tokenizer() -> bytes:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world"]
    model = {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": {word: number for number, word in enumerate(words)},
    }  # fmt: skip
    parts = {"normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None}
    return json.dumps({"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], **parts, "model": model}).encode()


def test_transformers_and_datasets_inside_a_space(platform: Platform, work: Callable[..., Work], api: HfApi) -> None:
    """The libraries as they are, told nothing: a tokenizer, a table of two splits, a stream, a data set pushed back, a model's answers.

    The model is one whose library needs no `torch`: that is gigabytes, and its weights come over the same calls.
    """
    api.create_repo("admin/tokens")
    bert = {"model_type": "bert", "vocab_size": 7, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    files = {"config.json": json.dumps(bert).encode(), "tokenizer.json": _tokenizer(), "tokenizer_config.json": json.dumps(named).encode()}
    for path, content in files.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id="admin/tokens")
    api.create_repo("admin/vectors")
    static = {"model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": 2, "normalize": False}
    weights = _safetensors("embeddings", range(2 * WORDS), width=2)
    for path, content in (
        ("config.json", json.dumps(static).encode()), ("tokenizer.json", _tokenizer()), ("model.safetensors", weights),
    ):  # fmt: skip
        api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id="admin/vectors")
    api.create_repo("admin/table", repo_type="dataset")
    for path, content in (("train.csv", b"a,b\n1,x\n2,y\n"), ("test.csv", b"a,b\n3,z\n")):
        api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id="admin/table", repo_type="dataset")
    demo = work("libraries")
    secret = {"key": "HF_TOKEN", "value": platform.token}
    assert platform.api("POST", "/api/spaces/admin/libraries/secrets", json=secret).status_code == 200
    readme = "---\ntitle: libraries\nsdk: gradio\napp_file: app.py\n---\n"
    demo.write(**{"app.py": LIBRARIES, "requirements.txt": "transformers\ndatasets\nmodel2vec\n", "README.md": readme})
    demo.push("x", wait=False)
    reached = platform.until("libraries", "RUNNING", "BUILD_ERROR", "RUNTIME_ERROR", seconds=150)
    assert reached["stage"] == "RUNNING", reached
    assert _ask(platform, "libraries", "/") == {
        "config": "bert",
        "ids": [5, 6],
        "rows": {"train": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}], "test": [{"a": 3, "b": "z"}]},
        "streamed": {"a": 3, "b": "z"},
        "vectors": [[11.0, 12.0], [12.0, 13.0]],
        "pushed": [1, 2, 3],
    }
    assert api.dataset_info("admin/pushed").private
