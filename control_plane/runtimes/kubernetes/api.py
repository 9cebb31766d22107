"""The one place that talks to the API server: the official client's connection and credentials, plain JSON in and out.

Objects stay dictionaries on purpose: server-side apply sends exactly the fields that we own, and a watch over ten
thousand pods does not pay for ten thousand model objects. All calls block; the runtime makes them in threads.

    Absent      404            Clash       409 (exists, or changed meanwhile)      Expired   410 (resource version too old)
    Throttled   429            Unavailable no connection, time-out, 5xx            Broken    401, 403, 422, anything else

https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import urllib3
from kubernetes import config
from kubernetes.client import ApiClient, ApiException, Configuration

from control_plane.domain.errors import Broken, Conflict, Unavailable, VitrineError
from control_plane.runtimes.kubernetes.names import FIELD_MANAGER

_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_MERGE = "application/merge-patch+json"
_CONNECT_S = 5.0
# A throttled call is tried again this often before the caller hears of it; the server says how long to wait each time.
_THROTTLED_TRIES = 4
_LONGEST_WAIT_S = 10.0


class Absent(Unavailable):
    """404."""


class Clash(Conflict):
    """409."""


class Expired(Unavailable):
    """410: list again."""


class Throttled(Unavailable):
    """429. `after_s` is what the server asked for."""

    def __init__(self, message: str, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


class KubeApi:
    """Blocking JSON calls. Thread-safe. `calls` counts requests, watches included."""

    def __init__(self, client: ApiClient) -> None:
        self._client: Any = client
        self._closed = threading.Event()
        self.calls = 0

    @classmethod
    def connect(cls, *, kubeconfig: str | None = None, context: str | None = None, connections: int = 64) -> KubeApi:
        """From inside a cluster when there is a service account and no file is named, else from a kubeconfig file.

        Raises Broken when neither works. `connections` bounds kept-open connections, one per watch and log stream.
        """
        settings = Configuration()
        load: Any = config  # the client's loaders carry no types
        try:
            if kubeconfig is None and context is None:
                try:
                    load.load_incluster_config(client_configuration=settings)
                except config.ConfigException:
                    load.load_kube_config(client_configuration=settings)
            else:
                load.load_kube_config(config_file=kubeconfig, context=context, client_configuration=settings)
        except (config.ConfigException, OSError) as error:
            raise Broken(f"no usable Kubernetes configuration: {error}", hint="Set KUBECONFIG or run inside a cluster.") from error
        return cls(plain_client(settings, connections))

    @property
    def configuration(self) -> Configuration:
        """Address and credentials, for who speaks to the server in another way."""
        found: Configuration = self._client.configuration
        return found

    def close(self) -> None:
        self._closed.set()
        self._client.close()

    def get(self, path: str, query: Mapping[str, str] | None = None, *, timeout_s: float = 15.0) -> dict[str, Any]:
        return self._call("GET", path, query, None, None, timeout_s)

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("POST", path, {"fieldManager": FIELD_MANAGER}, body, "application/json", 15.0)

    def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """PUT; `metadata.resourceVersion` in the body makes it conditional (Clash when it changed)."""
        return self._call("PUT", path, {"fieldManager": FIELD_MANAGER}, body, "application/json", 15.0)

    def apply(self, path: str, body: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Server-side apply as our field manager; we take over fields that somebody edited by hand."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true", **({"dryRun": "All"} if dry_run else {})}
        return self._call("PATCH", path, query, body, _APPLY, 15.0)

    def merge(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("PATCH", path, {"fieldManager": FIELD_MANAGER}, body, _MERGE, 15.0)

    def delete(self, path: str, *, grace_s: int | None = None, query: Mapping[str, str] | None = None) -> bool:
        """True when it was there. Dependents go in the background."""
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        try:
            self._call("DELETE", path, query, body, "application/json", 15.0)
        except Absent:
            return False
        return True

    @contextmanager
    def stream(self, path: str, query: Mapping[str, str], *, read_timeout_s: float) -> Iterator[Stream]:
        """An open answer, line by line. A broken connection ends the lines with Unavailable."""
        response = self._open("GET", path, query, None, None, (_CONNECT_S, read_timeout_s))
        stream = Stream(response)
        try:
            yield stream
        finally:
            stream.close()

    def _call(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Mapping[str, Any] | None, kind: str | None, timeout_s: float
    ) -> dict[str, Any]:
        for tries_left in reversed(range(_THROTTLED_TRIES)):
            try:
                response = self._open(method, path, query, body, kind, (_CONNECT_S, timeout_s))
            except Throttled as error:
                if not tries_left or self._closed.wait(min(error.after_s, _LONGEST_WAIT_S)):
                    raise
                continue
            try:
                found = json.loads(response.read() or b"{}")
            except (urllib3.exceptions.HTTPError, ValueError) as error:
                raise Unavailable("the API server's answer broke off") from error
            finally:
                response.release_conn()
            return found if isinstance(found, dict) else {}
        raise AssertionError("unreachable")

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        kind: str | None,
        timeout: tuple[float, float],
    ) -> urllib3.BaseHTTPResponse:
        if self._closed.is_set():
            raise Unavailable("the connection to the API server is closed")
        headers = {"Accept": "application/json"}
        if kind:
            headers["Content-Type"] = kind
        # The client turns bodies of JSON types into text itself, and passes text of other types on as it is.
        content = json.dumps(body) if kind == _APPLY else body
        self.calls += 1
        try:
            call = self._client.param_serialize(
                method, path, query_params=list((query or {}).items()), header_params=headers, auth_settings=["BearerToken"]
            )
            answer = self._client.call_api(call[0], call[1], call[2], content, _request_timeout=timeout)
        except ApiException as error:
            raise Unavailable(f"the API server does not answer: {error.reason}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"the API server does not answer: {error.__class__.__name__}") from error
        response: urllib3.BaseHTTPResponse = answer.response
        if 200 <= response.status < 300:
            return response
        try:
            raise _error(method, path, response)
        finally:
            response.release_conn()
            response.close()


class Stream:
    """Lines of an open response. `close` may be called from another thread and wakes the reader."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        self._closed = False
        self._more = False

    def has_more(self) -> bool:
        """Whether the line just given was followed by another one that is here already."""
        return self._more

    def lines(self) -> Iterator[bytes]:
        rest = b""
        try:
            for chunk in self._response.stream(1 << 16, decode_content=True):
                *whole, rest = (rest + chunk).split(b"\n")
                for place, line in enumerate(whole):
                    self._more = place + 1 < len(whole)
                    if line:
                        yield line
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            if not self._closed:
                raise Unavailable("the connection to the API server broke off") from error
            return
        self._more = False
        if rest:
            yield rest

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._response.shutdown()
        except (OSError, ValueError, RuntimeError):
            pass  # already ended
        self._response.close()


def plain_client(settings: Configuration, connections: int = 64) -> ApiClient:
    """A client that does not retry behind our back; waits and relists are decided here."""
    settings.retries = False
    settings.connection_pool_maxsize = connections
    return ApiClient(settings)


def _error(method: str, path: str, response: urllib3.BaseHTTPResponse) -> VitrineError:
    try:
        status = json.loads(response.read() or b"{}")
        message = str(status.get("message", "")) if isinstance(status, dict) else ""
    except (urllib3.exceptions.HTTPError, ValueError):
        message = ""
    words = f"{method} {path}: {response.status} {message}".strip()
    match response.status:
        case 404:
            return Absent(words)
        case 409:
            return Clash(words)
        case 410:
            return Expired(words)
        case 429:
            return Throttled(words, _retry_after(response.headers.get("Retry-After")))
        case code if code >= 500:
            return Unavailable(words)
        case 401 | 403:
            return Broken(words, hint="The service account lacks a right; compare infra/kubernetes/base/rbac.yaml.")
        case _:
            return Broken(words)


def _retry_after(text: str | None) -> float:
    try:
        return max(float(text or 1), 0.0)
    except ValueError:
        return 1.0
