"""One JSON line per request, written in batches. Paths are logged without their query: a query can hold a secret."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import IO

BATCH = 128
_LINE = b'{"event":"request","at_ms":%d,"id":"%b%b%b"status":%d,"code":"%b","connect_us":%d,"service_us":%d,"bytes":%d}\n'
_PLAIN_PATH = re.compile(rb'[^?"\\]{0,512}')
Entry = tuple[float, bytes, bytes, bytes, int, bytes, float, float, int]


def client_part(client: str, host: bytes, space: bytes) -> bytes:
    """The part of a line that says who asked whom; the same for all requests of a connection to one host."""
    return b'","client":"%b","host":"%b",%b' % (client.encode("latin-1", "replace"), host, space)


def request_part(method: bytes, target: bytes) -> bytes:
    """The part of a line that says what was asked. The query is left out: it can hold a secret."""
    path = target
    if _PLAIN_PATH.fullmatch(path) is None:
        path = path.partition(b"?")[0][:512].replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'"method":"%b","path":"%b",' % (method, path)


class AccessLog:
    """`target` is a path, `-` for standard error, or empty for none. `sample` of 0.1 keeps every tenth success; errors always stay.

    What is to be written waits as tuples in `waiting`; they become lines, a batch at a time, in `flush`.
    """

    def __init__(self, target: str, sample: float) -> None:
        self._target = target
        self._is_stderr = target == "-"
        self._file: IO[bytes] | None = sys.stderr.buffer if self._is_stderr else self._open() if target else None
        self.enabled = self._file is not None
        self._every = max(1, round(1 / sample)) if sample > 0 else 0
        self.keeps_all = self.enabled and self._every == 1
        self._seen = 0
        self.waiting: list[Entry] = []

    def add(
        self, ended_ms: float, request_id: bytes, who: bytes, what: bytes, status: int, code: str, connect_us: float, service_us: float,
        sent: int,
    ) -> None:  # fmt: skip
        """`who` and `what` are the parts made by `client_part` and `request_part`. Numbers are cut to whole ones."""
        if not self.enabled:
            return
        if self._every != 1 and status < 500 and not code:
            self._seen += 1
            if self._every == 0 or self._seen % self._every:
                return
        self.waiting.append((ended_ms, request_id, who, what, status, code.encode(), connect_us, service_us, sent))
        if len(self.waiting) >= BATCH:
            self.flush()

    def _open(self) -> IO[bytes]:
        return Path(self._target).open("ab")

    def reopen(self) -> None:
        """Go on in a file of the same name: the old one was moved away. When none can be opened, nothing changes."""
        if self._file is None or self._is_stderr:
            return
        with contextlib.suppress(OSError):
            fresh = self._open()
            self.close()
            self._file = fresh

    def flush(self) -> None:
        if self._file is not None and self.waiting:
            try:
                self._file.write(b"".join([_LINE % entry for entry in self.waiting]))
                self._file.flush()
            except (OSError, ValueError):
                pass  # a full disk must not stop the data path
            self.waiting.clear()

    def close(self) -> None:
        self.flush()
        if self._file is not None and not self._is_stderr:
            self._file.close()
