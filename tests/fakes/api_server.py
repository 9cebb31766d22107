"""An API server double on kmock: HTTP, routing and injected faults are kmock's; this adds what a runtime relies on.

Added here: resource versions and a history that can be compacted (410), label and field selectors, paging, watches that
start from a version and send bookmarks, server-side apply with ownership, conditional PUT (409), cascading deletion, a
tiny kube-scheduler and kubelet (`bind`, `set_status`), pod logs. Faults: `server.deny(...)` or kmock's own reactions.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp.web
import kmock
from kubernetes.client import Configuration

from control_plane.runtimes.kubernetes.api import KubeApi, plain_client

Item = dict[str, Any]
_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))(?:/namespaces/(?P<ns>[^/]+))?(?:/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[a-z]+))?)?)?"
)
_KINDS = {
    "deployments": "Deployment", "pods": "Pod", "services": "Service", "secrets": "Secret", "networkpolicies": "NetworkPolicy",
    "namespaces": "Namespace", "nodes": "Node", "events": "Event", "leases": "Lease", "persistentvolumeclaims": "PersistentVolumeClaim",
    "rolebindings": "RoleBinding",
}  # fmt: skip


@dataclass
class _Fault:
    method: str
    pattern: re.Pattern[str]
    status: int
    times: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class ApiServer:
    """State of one cluster. All methods run in the event loop of the test."""

    objects: dict[tuple[str, str, str], Item] = field(default_factory=dict)  # (plural, namespace, name)
    history: list[tuple[int, str, str, Item]] = field(default_factory=list)  # (version, plural, type, object)
    version: int = 100
    compacted: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    logs: dict[str, list[str]] = field(default_factory=dict)
    page: int = 500
    bookmarks_s: float = 3600.0
    url: str = ""
    run_pods: bool = True
    metrics: list[Item] | None = None  # what the metrics API answers; None = the cluster has none

    def __post_init__(self) -> None:
        self._news = asyncio.Condition()
        self._faults: list[_Fault] = []
        self._streams: set[asyncio.Task[Any]] = set()
        self._uid = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # -- for tests

    def api(self) -> KubeApi:
        settings = Configuration()
        settings.host = self.url
        return KubeApi(plain_client(settings))

    def deny(self, method: str, pattern: str, status: int, *, times: int = 1, **headers: str) -> None:
        self._faults.append(_Fault(method, re.compile(pattern), status, times, {k.replace("_", "-"): v for k, v in headers.items()}))

    def drop_connections(self) -> None:
        """Every open watch and log stream breaks off in the middle."""
        for task in self._streams:
            task.cancel()

    def compact(self) -> None:
        """Older versions are not kept: a watch from before answers 410."""
        self.compacted = self.version
        self.history.clear()

    async def put(self, plural: str, item: Item) -> Item:
        """Create or overwrite, as another client would."""
        metadata = item.setdefault("metadata", {})
        key = (plural, metadata.get("namespace", ""), metadata["name"])
        known = self.objects.get(key)
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        if known is None:
            self._uid += 1
            metadata.setdefault("uid", f"uid-{self._uid}")
            metadata.setdefault("creationTimestamp", f"2026-01-01T00:00:{self._uid % 60:02d}Z")
        else:
            metadata["uid"] = known["metadata"]["uid"]
            metadata.setdefault("creationTimestamp", known["metadata"]["creationTimestamp"])
        self.objects[key] = item
        await self._tell(plural, "MODIFIED" if known else "ADDED", item)
        if plural == "deployments" and known is None and self.run_pods:
            await self.make_pod(item)
        return item

    async def remove(self, plural: str, namespace: str, name: str) -> Item | None:
        item = self.objects.pop((plural, namespace, name), None)
        if item is None:
            return None
        self.version += 1
        item = copy.deepcopy(item)
        item["metadata"]["resourceVersion"] = str(self.version)
        await self._tell(plural, "DELETED", item)
        uid = item["metadata"]["uid"]
        for other, key in [(o, k) for k, o in self.objects.items()]:
            if any(owner["uid"] == uid for owner in other["metadata"].get("ownerReferences", [])):
                await self.remove(*key)
        return item

    async def node(self, name: str, *, labels: dict[str, str] | None = None, ready: bool = True, **amounts: str) -> Item:
        status = {
            "allocatable": {"cpu": "16", "memory": "64Gi", **{k.replace("__", "/").replace("_", "."): v for k, v in amounts.items()}},
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        }
        return await self.put("nodes", {"metadata": {"name": name, "labels": labels or {}}, "spec": {}, "status": status})

    async def make_pod(self, deployment: Item, name: str | None = None) -> Item:
        template = copy.deepcopy(deployment["spec"]["template"])
        metadata = {
            **template["metadata"],
            "name": name or f"{deployment['metadata']['name']}-x1",
            "namespace": deployment["metadata"]["namespace"],
            "ownerReferences": [{"uid": deployment["metadata"]["uid"], "kind": "Deployment", "name": deployment["metadata"]["name"]}],
        }
        return await self.put("pods", {"metadata": metadata, "spec": template["spec"], "status": {"phase": "Pending"}})

    def pod_of(self, replica_id: str) -> Item:
        return next(
            o
            for k, o in self.objects.items()
            if k[0] == "pods" and o["metadata"].get("labels", {}).get("vitrine.dev/replica") == replica_id
        )

    async def bind(self, pod: Item, node: str) -> None:
        pod = copy.deepcopy(pod)
        pod["spec"]["nodeName"] = node
        pod["status"] = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}
        await self.put("pods", pod)

    async def set_status(self, pod: Item, **status: Any) -> None:
        pod = copy.deepcopy(self.objects["pods", pod["metadata"]["namespace"], pod["metadata"]["name"]])
        pod["status"] = {**pod["status"], **status}
        await self.put("pods", pod)

    async def run_pod(self, pod: Item, node: str, *, ready: bool = True, address: str = "10.42.0.7") -> None:
        await self.bind(pod, node)
        await self.set_status(
            pod, phase="Running", podIP=address, startTime="2026-01-01T00:00:00Z",
            containerStatuses=[{"name": "app", "ready": ready, "started": True, "restartCount": 0, "state": {"running": {}}}],
        )  # fmt: skip

    def made(self, method: str, plural: str) -> int:
        return sum(1 for m, path in self.requests if m == method and f"/{plural}" in path)

    # -- HTTP

    async def _tell(self, plural: str, kind: str, item: Item) -> None:
        self.history.append((self.version, plural, kind, copy.deepcopy(item)))
        async with self._news:
            self._news.notify_all()

    async def handle(self, request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        for fault in self._faults:
            if fault.times and fault.method in ("*", request.method) and fault.pattern.search(request.path_qs):
                fault.times -= 1
                return _status(fault.status, "injected", fault.headers)
        found = _PATH.fullmatch(request.path)
        if found is None:
            return _status(404, "no such path")
        plural, namespace, name = found["plural"], found["ns"] or "", found["name"]
        if plural is None and namespace:
            plural, namespace, name = "namespaces", "", namespace
        if found["group"] == "metrics.k8s.io" and self.metrics is not None:
            return aiohttp.web.json_response({"items": self.metrics})
        if plural not in _KINDS or found["group"] == "metrics.k8s.io":
            return _status(404, "the server could not find the requested resource")
        if request.method == "GET" and found["sub"] == "log":
            return await self._log(request, name or "")
        if request.method == "GET" and name is None:
            if request.query.get("watch"):
                return await self._watch(request, plural, namespace)
            return self._list(request, plural, namespace)
        return await self._one(request, plural, namespace, name)

    async def _one(self, request: aiohttp.web.BaseRequest, plural: str, namespace: str, name: str | None) -> aiohttp.web.StreamResponse:
        body = json.loads(await request.read() or b"{}")
        if request.method == "POST":
            name = body["metadata"]["name"]
            if (plural, namespace, name) in self.objects:
                return _status(409, "already exists")
            return aiohttp.web.json_response(await self.put(plural, body), status=201)
        key = (plural, namespace, name or "")
        known = self.objects.get(key)
        if request.method == "PATCH" and request.content_type == "application/apply-patch+yaml":
            assert request.query["fieldManager"], "server-side apply needs a field manager"
            assert body["metadata"]["name"] == name, "the body must name the object of the path"
            merged = _merge(copy.deepcopy(known), body) if known else body
            if known is not None and known.get("immutable") and merged.get("data") != known.get("data"):
                return _status(422, "data: Forbidden: field is immutable when `immutable` is set")
            if known is not None and _without_version(merged) == _without_version(known):
                return aiohttp.web.json_response(known)
            return aiohttp.web.json_response(await self.put(plural, merged), status=200 if known else 201)
        if known is None:
            return _status(404, f"{plural} {name} not found")
        if request.method == "GET":
            return aiohttp.web.json_response(known)
        if request.method == "PATCH":
            return aiohttp.web.json_response(await self.put(plural, _merge(copy.deepcopy(known), body)))
        if request.method == "PUT":
            if body["metadata"].get("resourceVersion") not in (None, known["metadata"]["resourceVersion"]):
                return _status(409, "the object has been modified")
            return aiohttp.web.json_response(await self.put(plural, body))
        removed = await self.remove(plural, namespace, name or "")
        return aiohttp.web.json_response(removed)

    def _selected(self, request: aiohttp.web.BaseRequest, item: Item, namespace: str) -> bool:
        if namespace and item["metadata"].get("namespace") != namespace:
            return False
        labels = item["metadata"].get("labels") or {}
        for term in filter(None, request.query.get("labelSelector", "").split(",")):
            key, _, value = term.partition("=")
            if key not in labels or (value and labels[key] != value):
                return False
        for term in filter(None, request.query.get("fieldSelector", "").split(",")):
            key, _, value = term.partition("=")
            found: Any = item
            for part in key.split("."):
                found = found.get(part, {})
            if found != value:
                return False
        return True

    def _list(self, request: aiohttp.web.BaseRequest, plural: str, namespace: str) -> aiohttp.web.StreamResponse:
        items = [o for (p, _, _), o in self.objects.items() if p == plural and self._selected(request, o, namespace)]
        at = int(request.query.get("continue") or 0)
        size = min(int(request.query.get("limit") or self.page), self.page)
        metadata: Item = {"resourceVersion": str(self.version)}
        if at + size < len(items):
            metadata["continue"] = str(at + size)
        return aiohttp.web.json_response({"kind": f"{_KINDS[plural]}List", "metadata": metadata, "items": items[at : at + size]})

    async def _watch(self, request: aiohttp.web.BaseRequest, plural: str, namespace: str) -> aiohttp.web.StreamResponse:
        last = int(request.query.get("resourceVersion") or 0)
        if last < self.compacted:
            return _status(410, "too old resource version")
        response = aiohttp.web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            async with asyncio.timeout(float(request.query.get("timeoutSeconds") or 60)):
                while True:
                    for version, kind_of, kind, item in list(self.history):
                        if version > last and kind_of == plural and self._selected(request, item, namespace):
                            await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")
                    last = self.version
                    async with self._news:
                        if last == self.version:
                            try:
                                async with asyncio.timeout(self.bookmarks_s):
                                    await self._news.wait()
                            except TimeoutError:
                                mark = {"kind": _KINDS[plural], "metadata": {"resourceVersion": str(self.version)}}
                                await response.write(json.dumps({"type": "BOOKMARK", "object": mark}).encode() + b"\n")
                    if last < self.compacted:
                        gone = {"kind": "Status", "code": 410, "message": "compacted"}
                        await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                        return response
        except TimeoutError:
            return response
        except asyncio.CancelledError:
            if request.transport is not None:
                request.transport.abort()
            raise
        finally:
            self._streams.discard(task)

    async def _log(self, request: aiohttp.web.BaseRequest, pod: str) -> aiohttp.web.StreamResponse:
        if pod not in self.logs:
            return _status(400, "container is waiting to start")
        if "follow" not in request.query:
            lines = self.logs[pod][-int(request.query.get("tailLines") or 0) :]
            return aiohttp.web.Response(text="".join(f"{line}\n" for line in lines))
        response = aiohttp.web.StreamResponse()
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        sent = 0
        try:
            while True:
                lines = self.logs[pod]
                since = request.query.get("sinceTime", "").rstrip("Z")
                for line in lines[sent:]:
                    if line[: len(since)] >= since:
                        await response.write(line.encode() + b"\n")
                sent = len(lines)
                if not any(k[0] == "pods" and k[2] == pod for k in self.objects):
                    return response
                async with self._news:
                    if sent == len(self.logs[pod]):
                        await self._news.wait()
        except asyncio.CancelledError:
            if request.transport is not None:
                request.transport.abort()
            raise
        finally:
            self._streams.discard(task)

    async def say(self, pod: str, *lines: str) -> None:
        self.logs.setdefault(pod, []).extend(lines)
        async with self._news:
            self._news.notify_all()


def _status(code: int, message: str, headers: dict[str, str] | None = None) -> aiohttp.web.Response:
    return aiohttp.web.json_response(
        {"kind": "Status", "status": "Failure", "code": code, "message": message}, status=code, headers=headers
    )


def _merge(into: Item | None, patch: Item) -> Item:
    into = into or {}
    for key, value in patch.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict):
            into[key] = _merge(into.get(key) if isinstance(into.get(key), dict) else {}, value)
        else:
            into[key] = value
    return into


def _without_version(item: Item) -> Item:
    return {**item, "metadata": {k: v for k, v in item["metadata"].items() if k != "resourceVersion"}}


class _Handler(kmock.KubernetesScaffold):
    """kmock's server with our state behind it."""

    cluster: ApiServer

    async def _handle(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        raw = request._raw_request
        assert raw is not None
        return await self.cluster.handle(raw)


@asynccontextmanager
async def api_server() -> AsyncIterator[ApiServer]:
    """A cluster double on an ephemeral port."""
    cluster = ApiServer()
    handler = _Handler()
    handler.cluster = cluster
    async with handler, kmock.Server(handler) as server:
        cluster.url = str(server.url).rstrip("/")
        try:
            yield cluster
        finally:
            cluster.drop_connections()
