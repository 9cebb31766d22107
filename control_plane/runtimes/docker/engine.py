"""The Docker Engine API through the `docker` package. Blocking calls, for threads; its exceptions stop here."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import docker
import requests
from docker.errors import APIError, DockerException

from control_plane.domain.errors import Broken, Unavailable, VitrineError

T = TypeVar("T")
Item = dict[str, Any]


class Absent(VitrineError):
    """The engine has no such thing."""


class Clash(VitrineError):
    """The engine has one already, or is changing it at this moment."""


class Refused(VitrineError):
    """The engine says the order itself is wrong (HTTP 400, or a start that the image makes impossible)."""


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    username: str
    password: str = field(repr=False)


class Engine:
    """One engine. `host`: its address, "" = its usual socket. The API version is agreed on at the first call."""

    def __init__(self, host: str = "", *, login: RegistryLogin | None = None, timeout_s: int = 60) -> None:
        self._host, self._login, self._timeout_s = host, login, timeout_s
        self._client: Any = None
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def is_local(self) -> bool:
        return not self._host or self._host.startswith("unix://")

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._client is not None:
                self._client.close()
                self._client = None

    # -- what is there

    def info(self) -> Item:
        return self._do(lambda c: dict(c.info()))

    def version(self) -> Item:
        """Of the engine and, under `Components`, of what it runs containers with."""
        return self._do(lambda c: dict(c.version()))

    def containers(self, *labels: str) -> list[Item]:
        return self._do(lambda c: list(c.containers(all=True, filters={"label": list(labels)})))

    def inspect(self, container: str, *, with_size: bool = False) -> Item:
        if not with_size:
            return self._do(lambda c: dict(c.inspect_container(container)))
        return self._do(lambda c: dict(c._result(c._get(c._url("/containers/{0}/json", container), params={"size": 1}), True)))

    def networks(self) -> list[Item]:
        return self._do(lambda c: list(c.networks()))

    def inspect_network(self, name: str) -> Item:
        return self._do(lambda c: dict(c.inspect_network(name)))

    def inspect_image(self, ref: str) -> Item:
        """Raises Absent when the engine has not got it."""
        return self._do(lambda c: dict(c.inspect_image(ref)))

    def stats(self, container: str) -> Item:
        """One look; the engine does not wait for a second one (`one-shot`, API 1.41)."""
        return self._do(lambda c: dict(c.stats(container, stream=False, one_shot=True)))

    # -- what to do

    def has_image(self, ref: str) -> bool:
        try:
            self._do(lambda c: c.inspect_image(ref))
        except Absent:
            return False
        return True

    def pull(self, ref: str, token: str = "") -> None:
        """With `token` where there is one. Raises Absent, Refused or Broken when the registry does not give it; may take minutes."""
        auth = {"username": self._login.username, "password": self._login.password} if self._login else None
        if token:
            auth = {"registrytoken": token}

        def call(client: Any) -> None:
            for said in client.pull(ref, stream=True, decode=True, auth_config=auth):
                if "error" in said:
                    raise Broken(str(said["error"])[:300])

        self._do(call)

    def create_network(self, body: Mapping[str, Any]) -> None:
        self._do(lambda c: c.create_network(**body))

    def remove_network(self, name: str) -> None:
        with contextlib.suppress(Absent):
            self._do(lambda c: c.remove_network(name))

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        return self._do(lambda c: str(c.create_container_from_config(dict(body), name)["Id"]))

    def start(self, container: str) -> None:
        self._do(lambda c: c.start(container))

    def stop(self, container: str, grace_s: int) -> None:
        """TERM, then KILL after `grace_s` seconds; returns when it has ended. Absent or stopped is fine."""
        with contextlib.suppress(Absent):
            self._do(lambda c: c.stop(container, timeout=grace_s))

    def volume_places(self) -> tuple[str, ...]:
        """Where its volumes lie on its host."""
        found = self._do(lambda c: c.volumes().get("Volumes")) or []
        return tuple(str(volume["Mountpoint"]) for volume in found if volume.get("Mountpoint"))

    def kill(self, container: str) -> None:
        with contextlib.suppress(Absent, Clash):
            self._do(lambda c: c.kill(container))

    def remove(self, container: str) -> None:
        """With its anonymous volumes, also when it still runs. Absent is fine, and so is one that is being removed."""
        with contextlib.suppress(Absent, Clash):
            self._do(lambda c: c.remove_container(container, force=True, v=True))

    def run_briefly(self, name: str, body: Mapping[str, Any], limit_s: int) -> str:
        """What a container of this make prints, "" when it cannot be started or takes longer than `limit_s` seconds."""
        self.remove(name)
        try:
            container = self.create(name, body)
            self.start(container)
            self._do(lambda c: c.wait(container, timeout=limit_s))
            return self._do(lambda c: bytes(c.logs(container, stdout=True, stderr=False))).decode("utf-8", "replace")
        except (Refused, Absent, Broken, Unavailable):
            return ""
        finally:
            self.remove(name)

    # -- what happens

    def tail(self, container: str, count: int) -> bytes:
        return self._do(lambda c: bytes(c.logs(container, stdout=True, stderr=True, tail=count)))

    def follow_logs(self, container: str, since: float) -> Stream:
        """Pieces of output with time stamps from `since` (Unix seconds, 0 = all) until the container has ended."""
        more = {"since": since} if since else {}
        return Stream(self._do(lambda c: c.logs(container, stdout=True, stderr=True, stream=True, follow=True, timestamps=True, **more)))

    def events(self, label: str) -> Stream:
        filters = {"type": "container", "label": label}
        return Stream(self._do(lambda c: c.events(decode=True, filters=filters)))

    def _do(self, call: Callable[[Any], T]) -> T:
        with translated():
            return call(self._connected())

    def _connected(self) -> Any:
        with self._lock:
            if self._is_closed:
                raise Unavailable("the connection to the container engine was closed")
            if self._client is None:
                self._client = docker.APIClient(base_url=self._host or None, version="auto", timeout=self._timeout_s, num_pools=64)
            return self._client


class Stream:
    """An answer without end. `close()` may be called from another thread; the reader then sees the end."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._is_read = False

    def __iter__(self) -> Iterator[Any]:
        self._is_read = True
        try:
            with translated():
                yield from self._inner
        finally:
            self._release()

    def close(self) -> None:
        with contextlib.suppress(Exception):  # docker-py reaches into the socket of a connection that may be gone
            self._inner.close()
        if not self._is_read:
            self._release()

    def _release(self) -> None:
        """docker-py ends the connection but keeps its file; only the reader may close it while it reads."""
        with contextlib.suppress(Exception):
            self._inner._response.close()


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """docker-py's and requests' exceptions as ours: Unavailable when the engine does not answer."""
    try:
        yield
    except APIError as error:
        words = str(error.explanation or error)[:500]
        status = error.status_code
        if status == 404:
            raise Absent(words) from error
        if status == 409:
            raise Clash(words) from error
        if status == 400:
            raise Refused(words) from error
        raise Broken(f"the container engine refused: {words}", facts={"status": status}) from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise Unavailable(f"the container engine does not answer: {str(error)[:300]}") from error
