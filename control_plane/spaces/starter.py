"""The files of a fresh repository. Pure."""

from __future__ import annotations

import json

from control_plane.domain.spaces import Sdk

# Suffixes that the public service stores as large files, so that a binary is never pushed into git by accident.
LFS_PATTERNS = (
    "*.7z", "*.arrow", "*.bin", "*.bz2", "*.ckpt", "*.ftz", "*.gz", "*.h5", "*.joblib", "*.lfs.*", "*.mlmodel", "*.model",
    "*.msgpack", "*.npy", "*.npz", "*.onnx", "*.ot", "*.parquet", "*.pb", "*.pickle", "*.pkl", "*.pt", "*.pth", "*.rar",
    "*.safetensors", "saved_model/**/*", "*.tar.*", "*.tar", "*.tflite", "*.tgz", "*.wasm", "*.xz", "*.zip", "*.zst", "*tfevents*",
)  # fmt: skip

# What a new Space pins: the newest when this release was made. Its owner changes one line of the README.
SDK_VERSIONS = {Sdk.GRADIO: "6.31.0", Sdk.STREAMLIT: "1.67.0"}

_INDEX = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width" />
    <title>My static Space</title>
    <link rel="stylesheet" href="style.css" />
  </head>
  <body>
    <main>
      <h1>It works</h1>
      <p>Edit <code>index.html</code>, commit and push: the page changes with the next visit.</p>
    </main>
  </body>
</html>
"""

_STYLE = """body {
  margin: 2rem auto;
  max-width: 40rem;
  padding: 0 1rem;
  font-family: system-ui, sans-serif;
  line-height: 1.5;
}
"""


def gitattributes() -> bytes:
    return "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS).encode()


def initial_files(
    sdk: Sdk | None,
    title: str = "",
    *,
    sdk_version: str | None = None,
    emoji: str = "🚀",
    color_from: str = "blue",
    color_to: str = "indigo",
    short_description: str = "",
    license: str = "",
) -> dict[str, bytes]:
    """What the first commit of a repository holds. `sdk` None = a model or dataset repository."""
    if sdk is None:
        return {".gitattributes": gitattributes()}
    # JSON strings are YAML strings, so a title with a colon or quotes stays one value.
    lines = [
        f"title: {json.dumps(title, ensure_ascii=False)}",
        f"emoji: {_plain(emoji)}",
        f"colorFrom: {_plain(color_from)}",
        f"colorTo: {_plain(color_to)}",
        f"sdk: {sdk.value}",
    ]
    if sdk in SDK_VERSIONS:
        lines += [f"sdk_version: {_plain(sdk_version or SDK_VERSIONS[sdk])}", "app_file: app.py"]
    if sdk is Sdk.DOCKER:
        lines.append("app_port: 7860")
    lines.append("pinned: false")
    if license:
        lines.append(f"license: {_plain(license)}")
    if short_description:
        lines.append(f"short_description: {json.dumps(short_description, ensure_ascii=False)}")
    files = {"README.md": ("---\n" + "\n".join(lines) + "\n---\n").encode(), ".gitattributes": gitattributes()}
    if sdk is Sdk.STATIC:
        files |= {"index.html": _INDEX.encode(), "style.css": _STYLE.encode()}
    return files


def _plain(text: str) -> str:
    """As it is where that is one plain word, else quoted: nothing a form sends can become a second key."""
    is_word = all(c.isalnum() or c in ".-_" or ord(c) > 0x2000 for c in text) and text.isprintable() and text[:1] not in ("", "-")
    return text if is_word else json.dumps(text, ensure_ascii=False)
