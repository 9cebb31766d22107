"""List once, then watch: a thread that keeps one kind of object in step with the cluster.

    list (paged) ──▶ watch from its resourceVersion ──▶ ADDED / MODIFIED / DELETED, BOOKMARK moves the version on
      ▲                 │ time is up, connection broke: watch again from the last version
      └── 410 ──────────┘ 429: wait as long as the server says; other errors: wait longer each time

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from control_plane.domain.errors import Broken, VitrineError
from control_plane.runtimes.kubernetes.api import Expired, KubeApi, Stream, Throttled

log = logging.getLogger(__name__)

Item = dict[str, Any]
_PAGE = "500"


class Sink(Protocol):
    """What is kept in step. Called in the watching thread; must not block for long."""

    def replace(self, items: list[Item]) -> None:
        """The whole truth: whatever is not in `items` is gone."""

    def upsert(self, item: Item) -> None: ...
    def delete(self, item: Item) -> None: ...


class Watcher:
    """`path` names a collection. `watch_s` is how long the server holds one watch open."""

    def __init__(
        self,
        api: KubeApi,
        path: str,
        sink: Sink,
        *,
        label_selector: str = "",
        field_selector: str = "",
        watch_s: int = 290,
        first_wait_s: float = 0.5,
        longest_wait_s: float = 30.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._api, self._path, self._sink = api, path, sink
        self._selectors = {k: v for k, v in (("labelSelector", label_selector), ("fieldSelector", field_selector)) if v}
        self._watch_s, self._first_wait_s, self._longest_wait_s, self._jitter = watch_s, first_wait_s, longest_wait_s, jitter
        self._stopping = threading.Event()
        self._stream: Stream | None = None
        self._version: str | None = None
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)
        self.synced = threading.Event()
        self.lists = 0
        self.last_error: VitrineError | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Wakes the thread; `join` waits for its end."""
        self._stopping.set()
        stream = self._stream
        if stream is not None:
            stream.close()

    def join(self, timeout_s: float = 5.0) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                if self._version is None:
                    self._list()
                self._watch()
                self._failures = 0
                self.last_error = None
                if time.monotonic() - began < 1.0:  # a server that ends every watch at once must not make us spin
                    self._pause(self._first_wait_s)
            except Expired:
                self._version = None
            except Throttled as error:
                self._failed(error, error.after_s)
            except VitrineError as error:
                self._failed(error, None)
            except Exception as error:  # a sink's bug must not end the watch silently
                log.exception("watch.sink_failed", extra={"path": self._path})
                self._version = None
                self._failed(Broken(f"watch of {self._path}: {error!r}"), None)

    def _failed(self, error: VitrineError, after_s: float | None) -> None:
        if self._stopping.is_set():
            return
        self._failures += 1
        self.last_error = error
        grown = min(self._first_wait_s * 2 ** min(self._failures - 1, 10), self._longest_wait_s)
        wait_s = min(after_s, self._longest_wait_s) if after_s is not None else grown * (0.5 + self._jitter() / 2)
        log.warning("watch.failed", extra={"path": self._path, "error": error.message, "wait_s": round(wait_s, 2)})
        self._pause(wait_s)

    def _pause(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def _list(self) -> None:
        items: list[Item] = []
        query = {**self._selectors, "limit": _PAGE}
        while True:
            page = self._api.get(self._path, query, timeout_s=60.0)
            self.lists += 1
            items.extend(page.get("items") or [])
            onward = page.get("metadata", {}).get("continue")
            if not onward:
                break
            query["continue"] = onward
        self._sink.replace(items)
        self._version = str(page.get("metadata", {}).get("resourceVersion", ""))
        self.synced.set()

    def _watch(self) -> None:
        query = {
            **self._selectors,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version or "",
            "timeoutSeconds": str(self._watch_s),
        }
        with self._api.stream(self._path, query, read_timeout_s=self._watch_s + 15) as stream:
            self._stream = stream
            try:
                if self._stopping.is_set():
                    return
                for line in stream.lines():
                    self._failures = 0
                    self._take(line)
                    if self._stopping.is_set():
                        return
            finally:
                self._stream = None

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            kind, item = event["type"], event["object"]
        except (ValueError, KeyError, TypeError) as error:
            raise Expired("a watch event cannot be read") from error
        if kind == "ERROR":
            code = item.get("code")
            if code == 429:
                raise Throttled(str(item.get("message", "")), float((item.get("details") or {}).get("retryAfterSeconds") or 1))
            raise Expired(str(item.get("message", "")))
        if kind == "DELETED":
            self._sink.delete(item)
        elif kind in ("ADDED", "MODIFIED"):
            self._sink.upsert(item)
        version = item.get("metadata", {}).get("resourceVersion")
        if version:
            self._version = str(version)
