"""A download over a wire that breaks: `python resumed.py ENDPOINT TOKEN REPO CACHE`, in a fresh environment. Prints the file's sha256."""

import hashlib
import os
import sys
from pathlib import Path

endpoint, token, repo, cache = sys.argv[1:5]
os.environ.update(
    HF_ENDPOINT=endpoint, HF_HOME=cache, HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_XET="1"
)

import huggingface_hub as hub  # noqa: E402


def download() -> str:
    return str(hub.hf_hub_download(repo, "large.bin", token=token, endpoint=endpoint, cache_dir=cache))


try:
    path = download()
except Exception:  # the older client leaves going on to the next call
    path = download()
print(hashlib.sha256(Path(path).read_bytes()).hexdigest())
