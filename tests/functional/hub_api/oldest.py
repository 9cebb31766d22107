"""The oldest supported client, as somebody with an old lock file has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

OLDEST = "1.16.0"


def environment(folder: Path, *more: str) -> str:
    """The Python of a fresh environment below `folder` with it, and with the packages that `more` names."""
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([str(uv), "venv", "-q", "--python", sys.executable, str(folder / "env")], check=True, timeout=120)
    python = str(folder / "env" / "bin" / "python")
    # With the library of its days for command lines: it does not run with what that became.
    wanted = (f"huggingface_hub[oauth]=={OLDEST}", "typer<0.21", "click<8.3", *more)
    subprocess.run([str(uv), "pip", "install", "-q", "--python", python, *wanted], check=True, timeout=240)
    return python
