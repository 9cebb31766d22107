"""One JSON line per request, written in batches. Paths are logged without their query: a query can hold a secret."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import IO

_BATCH = 128


class AccessLog:
    """`target` is a path, `-` for standard error, or empty for none. `sample` of 0.1 keeps every tenth success; errors always stay."""

    def __init__(self, target: str, sample: float) -> None:
        self._target = target
        self._file: IO[str] | None = sys.stderr if target == "-" else self._open() if target else None
        self.enabled = self._file is not None
        self._every = max(1, round(1 / sample)) if sample > 0 else 0
        self._seen = 0
        self._lines: list[str] = []

    def add(
        self, ended: float, request_id: bytes, named: str, method: bytes, target: bytes, status: int, code: str,
        connect_s: float, service_s: float, sent: int,
    ) -> None:  # fmt: skip
        """`named` is the ready-made middle of the line: client, host, Space. Times are written in microseconds."""
        if self._every != 1 and status < 500 and not code:
            self._seen += 1
            if self._every == 0 or self._seen % self._every:
                return
        path = target.partition(b"?")[0].decode("latin-1")
        if '"' in path or "\\" in path:
            path = path.replace("\\", "\\\\").replace('"', '\\"')
        self._lines.append(
            f'{{"event":"request","at_ms":{int(ended * 1000)},"id":"{request_id.decode()}{named}'
            f'{method.decode("latin-1")}","path":"{path[:512]}","status":{status},"code":"{code}",'
            f'"connect_us":{int(connect_s * 1e6)},"service_us":{int(service_s * 1e6)},"bytes":{sent}}}\n'
        )
        if len(self._lines) >= _BATCH:
            self.flush()

    def _open(self) -> IO[str]:
        return Path(self._target).open("a", encoding="utf-8")

    def reopen(self) -> None:
        """Go on in a file of the same name: the old one was moved away. When none can be opened, nothing changes."""
        if self._file is None or self._file is sys.stderr:
            return
        with contextlib.suppress(OSError):
            fresh = self._open()
            self.close()
            self._file = fresh

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
