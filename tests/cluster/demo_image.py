"""A Python image made from this machine's own interpreter and pushed over the registry's HTTP API: no engine is needed.

It is the lowest layer of every Python Space that is built without one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from builder.interpreters import Interpreters
from builder.layered import interpreter_layer
from builder.oci import Registry
from builder.reporter import CancelToken

_CONFIG = {
    "User": "1000:1000",
    "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "PYTHONUNBUFFERED=1"],
    "WorkingDir": "/home/user",
}


def push(registry: str, login: tuple[str, str] | None = None) -> str:
    """Push the image to `host:port[/prefix]`; gives its reference by digest. Raises BuildFailed in words."""
    with tempfile.TemporaryDirectory(prefix="vitrine-test-") as folder:
        layer = interpreter_layer(Interpreters().default, Path(folder, "layer"), CancelToken())
        return Registry(registry, login).push("vitrine-test/python", [layer], _CONFIG, "latest", CancelToken())
