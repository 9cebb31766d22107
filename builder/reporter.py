"""The worker's side of the internal door: events, log lines and the source, over HTTP on a Unix socket or a URL.

    POST /internal/builds/{id}/events   a BuildEvent payload          → {"verdict": "go-on" | "stop"}
    POST /internal/builds/{id}/log      {"attempt": n, "lines": [[iso8601, text], …]}
    GET  /internal/builds/{id}/source   → a tar of the tree at the build's commit
    GET, PUT /internal/builds/{id}/site → whether the API has a static Space's tree; the tree as a tar
    GET  /internal/builds/{id}/secrets  → {name: value}; asked for only by builds that mount secrets

A lost connection is tried again for `RETRY_S`; after that the build stops and the control plane, which has heard no
heartbeat, gives it to another worker.
"""

from __future__ import annotations

import logging
import tarfile
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import httpx

from builder.config import DoorConfig
from builder.errors import BuildFailed, BuildStopped, DoorClosed
from control_plane.domain.builds import BuildEvent, BuildEventKind, BuildPhase, BuildRequest, BuildResult, BuildVerdict
from control_plane.domain.ids import BuildId
from control_plane.domain.reasons import Reason

logger = logging.getLogger("vitrine.builder")


def log_facts(request: BuildRequest) -> dict[str, str | int]:
    """What every line of the builder's own log about a build carries: the revision is the deployment's, the build's id the trace's."""
    return {
        "build_id": request.build_id, "attempt": request.attempt, "space_id": request.space_id, "space": request.space_name,
        "revision": request.revision,
    }  # fmt: skip


RETRY_S = 60.0
HURRY_S = 0.5
LOG_FLUSH_S = 0.1
LOG_BATCH_LINES = 500
LOG_QUEUE_LINES = 20_000  # more than this unsent is thrown away with a line that says so; the build never waits for its log
LINE_CHARS = 4_000


class CancelToken:
    """Set once, from any thread. `on_stop` callbacks run at once (in the setter's thread) and must be quick."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def stop(self) -> None:
        with self._lock:
            if self._event.is_set():
                return
            self._event.set()
            callbacks = tuple(self._callbacks)
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raises BuildStopped when somebody said stop."""
        if self._event.is_set():
            raise BuildStopped

    def wait(self, seconds: float) -> bool:
        return self._event.wait(seconds)

    @contextmanager
    def on_stop(self, callback: Callable[[], None]) -> Iterator[None]:
        with self._lock:
            self._callbacks.append(callback)
            late = self._event.is_set()
        if late:
            callback()
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)


class BuildLog(Protocol):
    """Where a build's words for its owner go."""

    def line(self, text: str) -> None: ...


class BuildDoor:
    """The HTTP client of the internal door; one per worker, used from all of its threads."""

    def __init__(self, config: DoorConfig, *, retry_s: float = RETRY_S, transport: httpx.BaseTransport | None = None) -> None:
        if transport is None and config.socket_path:
            transport = httpx.HTTPTransport(uds=config.socket_path)
        self._is_here = bool(config.socket_path)
        self._retry_s = retry_s
        self._hurry = threading.Event()
        self._client = httpx.Client(
            base_url=config.base_url,
            transport=transport,
            headers={"Authorization": f"Bearer {config.secret}"},
            timeout=httpx.Timeout(10.0, read=30.0),
            trust_env=False,
        )

    def hurry(self) -> None:
        """The worker goes away: from now on a lost connection is tried again for `HURRY_S` only."""
        self._hurry.set()

    def close(self) -> None:
        self._client.close()

    def emit(self, event: BuildEvent, *, retry_s: float | None = None) -> BuildVerdict:
        """The control plane's answer. A build it does not know (404) or that moved on (409, 410) is STOP. Raises DoorClosed."""
        response = self._post(f"/internal/builds/{event.build_id}/events", event.to_payload(), retry_s)
        if response.status_code in (404, 409, 410):
            return BuildVerdict.STOP
        _open(response)
        try:
            return BuildVerdict(response.json()["verdict"])
        except (ValueError, KeyError, TypeError) as error:
            raise DoorClosed(f"the control plane answered without a verdict: {response.text[:200]!r}") from error

    def log(self, build_id: BuildId, attempt: int, lines: list[tuple[str, str]]) -> None:
        """Raises DoorClosed."""
        _open(self._post(f"/internal/builds/{build_id}/log", {"attempt": attempt, "lines": lines}, None))

    @contextmanager
    def source(self, build_id: BuildId, what: str = "source") -> Iterator[Iterator[bytes]]:
        """The bytes of the source tar, or of `preload`. Not retried inside: a broken stream fails the fetch, which starts over."""
        with self._client.stream("GET", f"/internal/builds/{build_id}/{what}") as response:
            if response.status_code in (404, 409, 410):
                raise BuildStopped
            _open(response)
            yield response.iter_bytes(1 << 16)

    def send_site(self, build_id: BuildId, tree: Path) -> None:
        """Brings a static Space's tree to the API's disk, where that is not this one. Raises DoorClosed."""
        if self._is_here:
            return
        found = self._retrying(lambda: self._client.get(f"/internal/builds/{build_id}/site"), None)
        _open(found)
        if found.json().get("has"):
            return  # a shared disk
        with tempfile.TemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w") as archive:

                def never_linked(member: tarfile.TarInfo) -> tarfile.TarInfo:
                    archive.inodes.clear()  # type: ignore[attr-defined]  # a second name of a file comes as a file of its own
                    return member

                for one in sorted(tree.iterdir()):
                    archive.add(one, arcname=one.name, filter=never_linked)

            def send() -> httpx.Response:
                file.seek(0)
                return self._client.put(f"/internal/builds/{build_id}/site", content=iter(lambda: file.read(1 << 20), b""), timeout=600)

            _open(self._retrying(send, None))

    def secrets(self, build_id: BuildId) -> dict[str, str]:
        """Values of the build's secrets by name. Raises DoorClosed."""
        response = self._retrying(lambda: self._client.get(f"/internal/builds/{build_id}/secrets"), None)
        _open(response)
        body = response.json()
        return {str(name): str(value) for name, value in body.items()}

    def registry_token(self, build_id: BuildId) -> str:
        """A token to push this build's image with, "" where the worker's own sign-in holds. Raises DoorClosed."""
        response = self._retrying(lambda: self._client.get(f"/internal/builds/{build_id}/registry"), None)
        _open(response)
        return str(response.json().get("token", ""))

    def _post(self, path: str, body: dict[str, Any], retry_s: float | None) -> httpx.Response:
        return self._retrying(lambda: self._client.post(path, json=body), retry_s)

    def _retrying(self, call: Callable[[], httpx.Response], retry_s: float | None) -> httpx.Response:
        began = time.monotonic()
        until = began + (self._retry_s if retry_s is None else retry_s)
        pause = 0.05
        while True:
            try:
                response = call()
                if response.status_code < 500:
                    return response
                trouble = f"HTTP {response.status_code}"
            except httpx.TransportError as error:
                trouble = str(error) or type(error).__name__
            if self._hurry.is_set():
                until = min(until, began + HURRY_S)
            if time.monotonic() + pause > until:
                raise DoorClosed(f"the control plane does not answer: {trouble}")
            if self._hurry.is_set():
                time.sleep(pause)
            else:
                self._hurry.wait(pause)
                pause = min(pause * 2, 5.0)


def _open(response: httpx.Response) -> None:
    if response.status_code >= 400:
        raise DoorClosed(f"the control plane refused: HTTP {response.status_code}")


class BuildReporter:
    """Reports one attempt of one build: events in order, log lines in batches, a heartbeat that carries the verdict.

    Use as a context manager after `start()` said go on. Counts log bytes: over the build's limit, `line` raises
    BuildFailed(BUILD_LOG_FLOOD) and drops everything after.
    """

    def __init__(self, door: BuildDoor, request: BuildRequest, worker: str, cancel: CancelToken, *, heartbeat_s: float = 2.0) -> None:
        self._door = door
        self._request = request
        self._worker = worker
        self._cancel = cancel
        self._heartbeat_s = heartbeat_s
        self._pending: deque[tuple[str, str]] = deque()
        self._hidden: tuple[str, ...] = ()
        self._dropped = 0
        self._log_bytes = 0
        self._drain_lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> bool:
        """Tells STARTED. False: somebody else has this build, or it is stale; leave quietly. Raises DoorClosed."""
        return self._door.emit(self._event(BuildEventKind.STARTED)) is BuildVerdict.GO_ON

    def __enter__(self) -> BuildReporter:
        for target in (self._beat, self._flush_log):
            thread = threading.Thread(target=target, name=f"{target.__name__}-{self._request.build_id}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(timeout=15)

    def phase(self, phase: BuildPhase, message: str, progress: float | None = None) -> None:
        """Tells where the build is. Raises BuildStopped on a STOP."""
        self._obey(self._door.emit(self._event(BuildEventKind.PHASE, phase=phase, message=message, progress=progress)))

    def succeeded(self, result: BuildResult) -> None:
        self._drain()
        self._door.emit(self._event(BuildEventKind.SUCCEEDED, result=result))

    def failed(self, reason: Reason, message: str, *, retry_s: float | None = None) -> None:
        self._drain()
        self._door.emit(self._event(BuildEventKind.FAILED, reason=reason.value, message=message), retry_s=retry_s)

    def secrets(self) -> dict[str, str]:
        """Values of this build's secrets; asked for only by builds that mount them."""
        return self._door.secrets(self._request.build_id)

    @contextmanager
    def preloaded(self) -> Iterator[Iterator[bytes]]:
        """The bytes of a tar with the models that the card wants in the image."""
        with self._door.source(self._request.build_id, "preload") as chunks:
            yield chunks

    def registry_token(self) -> str:
        """Lets this build push its own Space's image; "" where the worker's own sign-in holds."""
        return self._door.registry_token(self._request.build_id)

    def hide(self, values: Iterable[str]) -> None:
        """From now on these values appear in no line of the log (short ones could be anything and are left)."""
        self._hidden = tuple(sorted((value for value in values if len(value) >= 4), key=len, reverse=True))

    def line(self, text: str) -> None:
        """One line of the build log, stamped now. Cut at `LINE_CHARS`."""
        for value in self._hidden:
            text = text.replace(value, "[secret]")
        limit = self._request.limits.log_bytes
        self._log_bytes += len(text.encode("utf-8", "replace")) + 1
        if self._log_bytes > limit:
            raise BuildFailed(Reason.BUILD_LOG_FLOOD, f"The build printed more than {limit >> 10} KiB; its log is cut here.")
        if len(self._pending) >= LOG_QUEUE_LINES:
            self._dropped += 1
            return
        self._pending.append((datetime.now(UTC).isoformat(timespec="milliseconds"), text[:LINE_CHARS]))
        if len(self._pending) >= LOG_BATCH_LINES:
            self._wake.set()

    def say(self, text: str) -> None:
        """A closing word that is sent even when the log is full."""
        self._pending.append((datetime.now(UTC).isoformat(timespec="milliseconds"), text[:LINE_CHARS]))

    def _event(self, kind: BuildEventKind, **fields: Any) -> BuildEvent:
        return BuildEvent(build_id=self._request.build_id, attempt=self._request.attempt, kind=kind, worker=self._worker, **fields)

    def _obey(self, verdict: BuildVerdict) -> None:
        if verdict is BuildVerdict.STOP:
            self._cancel.stop()
            raise BuildStopped

    def _beat(self) -> None:
        while not self._closing.wait(self._heartbeat_s):
            try:
                verdict = self._door.emit(self._event(BuildEventKind.HEARTBEAT))
            except DoorClosed as error:
                logger.warning("build.door_closed", extra={**log_facts(self._request), "error": str(error)})
                verdict = BuildVerdict.STOP
            if verdict is BuildVerdict.STOP and not self._closing.is_set():
                self._cancel.stop()
                return

    def _flush_log(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(LOG_FLUSH_S)
            self._wake.clear()
            self._drain()

    def _drain(self) -> None:
        with self._drain_lock:  # batches leave in the order they were taken
            while batch := self._take():
                try:
                    self._door.log(self._request.build_id, self._request.attempt, batch)
                except DoorClosed as error:
                    logger.warning("build.log_lost", extra={**log_facts(self._request), "error": str(error)})
                    self._pending.clear()
                    return

    def _take(self) -> list[tuple[str, str]]:
        batch: list[tuple[str, str]] = []
        while self._pending and len(batch) < LOG_BATCH_LINES:
            batch.append(self._pending.popleft())
        if self._dropped and not self._pending:
            batch.append((datetime.now(UTC).isoformat(timespec="milliseconds"), f"({self._dropped} lines were printed too fast to keep)"))
            self._dropped = 0
        return batch
