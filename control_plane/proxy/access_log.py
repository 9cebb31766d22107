"""One JSON line per request, written in batches. Paths are logged without their query: a query can hold a secret."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO

from control_plane.proxy.heads import RequestHead

_BATCH = 128


class AccessLog:
    """`target` is a path, `-` for standard error, or empty for none. `sample` of 0.1 keeps every tenth success; errors always stay."""

    def __init__(self, target: str, sample: float) -> None:
        self._file: IO[str] | None = None
        if target == "-":
            self._file = sys.stderr
        elif target:
            self._file = Path(target).open("a", encoding="utf-8")  # noqa: SIM115  (lives as long as the proxy)
        self.enabled = self._file is not None
        self._every = max(1, round(1 / sample)) if sample > 0 else 0
        self._seen = 0
        self._lines: list[str] = []

    def add(
        self, ended: float, request_id: bytes, client: str, space: str, head: RequestHead | None, method: bytes, target: bytes,
        status: int, code: str, connect_s: float, service_s: float, sent: int,
    ) -> None:  # fmt: skip
        """`space` is the Space's ready-made part of the line, or empty for the platform and for refused requests."""
        if self._every != 1 and status < 500 and not code:
            self._seen += 1
            if self._every == 0 or self._seen % self._every:
                return
        path = target.partition(b"?")[0].decode("latin-1")
        if '"' in path or "\\" in path:
            path = path.replace("\\", "\\\\").replace('"', '\\"')
        host = head.host.decode("latin-1") if head is not None else ""
        self._lines.append(
            f'{{"event":"request","at":{ended:.3f},"id":"{request_id.decode()}","client":"{client}","host":"{host}",{space}'
            f'"method":"{method.decode("latin-1")}","path":"{path[:512]}","status":{status},"code":"{code}",'
            f'"connect_ms":{connect_s * 1000:.1f},"service_ms":{service_s * 1000:.1f},"bytes":{sent}}}\n'
        )
        if len(self._lines) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        if self._file is not None and self._lines:
            try:
                self._file.write("".join(self._lines))
                self._file.flush()
            except (OSError, ValueError):
                pass  # a full disk must not stop the data path
            self._lines.clear()

    def close(self) -> None:
        self.flush()
        if self._file is not None and self._file is not sys.stderr:
            self._file.close()
