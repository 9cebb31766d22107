"""One call of the Docker Engine, as a program: `python -m builder.engines.docker_step ANSWER < order.json`.

Prints what the engine says, writes the answer as JSON: what was asked for, or `reason` (of domain.reasons) and `message`.
Talks to the API of Docker Engine 20.10 and later (version 1.41), classic builder.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.utils.build import exclude_paths

from builder.engines.docker_prune import forget, forget_unfinished, trim_cache
from builder.engines.failures import no_base, reason_of, too_much_written
from control_plane.domain.reasons import Reason

API_VERSION = "1.41"
CPU_SHARES = 256  # a quarter of an app's: where both want the CPU, apps come first
_SECOND_RETRY = "Retrying in 10 second"  # the engine waits 5 s more each time
_LOOK_S = 1.0  # between two looks at what a step has written; longer where the engine takes long to count
_ENGINE_AWAY_S = 15.0  # how long an engine that restarts is waited for, to tidy up


class Refusal(Exception):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def main() -> None:
    order: dict[str, Any] = json.load(sys.stdin)
    answer: dict[str, Any]
    try:
        client = docker.APIClient(base_url=order["host"] or None, version=API_VERSION, timeout=3600)
        answer = ACTIONS[order["do"]](client, order)
        client.close()
    except Refusal as refusal:
        answer = {"reason": refusal.reason.value, "message": str(refusal)}
    except APIError as error:
        words = str(error.explanation or error)
        reason = Reason.DOCKERFILE_FAILED if error.is_client_error() else Reason.BUILD_LOST
        reason = Reason.BUILD_DISK if reason_of(words) is Reason.BUILD_DISK else reason
        answer = {"reason": reason.value, "message": f"The container engine refused: {words}"}
    except (DockerException, requests.RequestException) as error:
        answer = {"reason": Reason.BUILD_LOST.value, "message": f"The container engine does not answer: {str(error)[:300]}"}
    Path(sys.argv[1]).write_text(json.dumps(answer))


def build(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    """`POST /build`, spoken directly: docker-py has no word for the CPU quota, and would send our registry credentials along."""
    parameters = {
        "t": order["tag"], "dockerfile": order["dockerfile"], "rm": "true", "forcerm": "true", "pull": "false",
        "nocache": "true" if order["no_cache"] else "false",
        "networkmode": order["network"],
        "buildargs": json.dumps(order["args"]), "labels": json.dumps(order["labels"]),
        "memory": str(order["memory_bytes"]), "memswap": str(order["memory_bytes"]),
        "cpuperiod": "100000", "cpuquota": str(int(order["cpu"] * 100_000)), "cpushares": str(CPU_SHARES),
        "extrahosts": build_mark(order["tag"]),
    }  # fmt: skip
    for base in order["bases"]:
        if size(client, {"tag": base})["size"] is None:
            raise Refusal(Reason.PYTHON_MISSING, no_base(base))
    steps = Steps(client, order)
    steps.sweep()  # an earlier try of this build may have died with its engine
    try:
        with steps.watched():
            return _build(client, order, parameters)
    except (DockerException, requests.RequestException):
        if steps.failure is not None:
            raise steps.failure from None
        steps.sweep(patience_s=_ENGINE_AWAY_S)
        raise
    except Refusal as refusal:
        if steps.failure is not None:
            raise steps.failure from None
        if refusal.reason is Reason.BUILD_MEMORY and not _is_there(order):
            refusal = Refusal(Reason.BUILD_LOST, "The container engine stopped, and the build with it.")  # it kills what it runs
        if refusal.reason is Reason.BUILD_LOST:
            steps.sweep(patience_s=_ENGINE_AWAY_S)
        raise refusal from None


def _is_there(order: dict[str, Any]) -> bool:
    """Whether the engine takes a new connection: one that is about to stop does not, while it still speaks on those it has."""
    try:
        fresh = docker.APIClient(base_url=order["host"] or None, version=API_VERSION, timeout=10)
        fresh.ping()
        fresh.close()
    except (DockerException, requests.RequestException):
        return False
    return True


def _build(client: Any, order: dict[str, Any], parameters: dict[str, str]) -> dict[str, Any]:
    headers = {"Content-Type": "application/x-tar", "X-Registry-Config": base64.urlsafe_b64encode(b"{}").decode()}
    url = f"{client.base_url}/v{API_VERSION}/build"
    image = ""
    with client.post(url, params=parameters, headers=headers, data=context(Path(order["context"])), stream=True) as response:
        if response.status_code != 200:
            words = str(response.json().get("message", response.text)) if response.content else ""
            raise _refusal(words, Reason.DOCKERFILE_FAILED if response.status_code < 500 else Reason.BUILD_LOST)
        for message in messages(response):
            if "stream" in message:
                _say(message["stream"], end="")
            elif "error" in message:
                raise _refusal(str(message["error"]), reason_of(str(message["error"])))
            image = message.get("aux", {}).get("ID", image)
            if "status" in message and "progress" not in message:
                _say(" ".join(filter(None, (message.get("id"), message["status"]))))
    if not image:
        raise Refusal(Reason.BUILD_LOST, "The container engine ended the build without a word.")
    return inspect(client, {"tag": image})


class Steps:
    """The containers of one build's RUN steps, found again by a name that only they can resolve.

    The engine forgets a build when it restarts, but with live restore the step's container runs on; and it has no word for how much a step
    may write. `failure` is set when a step was ended for its disk use.
    """

    def __init__(self, client: Any, order: dict[str, Any]) -> None:
        self._client, self._mark, self._limit = client, build_mark(order["tag"]), int(order["disk_bytes"])
        self._network = str(order["network"])
        self.failure: Refusal | None = None

    def sweep(self, *, patience_s: float = 0.0) -> None:
        """Removes what there is; tries again for `patience_s` seconds while the engine does not answer."""
        until = time.monotonic() + patience_s
        while True:
            try:
                for one in self._containers():
                    self._client.remove_container(one, v=True, force=True)
                return
            except (DockerException, requests.RequestException):
                if time.monotonic() >= until:
                    return
                time.sleep(0.5)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        done = threading.Event()
        thread = threading.Thread(target=self._watch, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _watch(self, done: threading.Event) -> None:
        pause_s = _LOOK_S
        while not done.wait(pause_s):
            began = time.monotonic()
            with contextlib.suppress(DockerException, requests.RequestException):
                for one in self._containers():
                    url = f"{self._client.base_url}/v{API_VERSION}/containers/{one}/json"
                    written = int(self._client.get(url, params={"size": "true"}, timeout=60).json().get("SizeRw") or 0)
                    if written > self._limit:
                        self.failure = Refusal(Reason.BUILD_DISK, too_much_written(written, self._limit))
                        self._client.kill(one)
            pause_s = max(_LOOK_S, 4 * (time.monotonic() - began))

    def _containers(self) -> list[str]:
        found = []
        for item in self._client.containers(all=True, filters={"network": self._network}):
            with contextlib.suppress(NotFound):
                if self._mark in (self._client.inspect_container(item["Id"])["HostConfig"].get("ExtraHosts") or ()):
                    found.append(str(item["Id"]))
        return found


def build_mark(tag: str) -> str:
    """A line of /etc/hosts in every step of this build. Not a part of the cache's key, so the same step is still the same layer."""
    return f"{tag.rpartition(':')[2]}.build.invalid:127.0.0.1"


def push(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    repository, _, tag = order["tag"].rpartition(":")
    digest, error = "", ""
    for message in client.push(
        repository, tag=tag, stream=True, decode=True, auth_config=order["auth"] or {"username": "", "password": ""}
    ):
        digest = message.get("aux", {}).get("Digest", digest)
        error = message.get("error", error)
        if str(message.get("status", "")).startswith(_SECOND_RETRY):  # the engine itself would go on for most of a minute
            raise Refusal(
                Reason.REGISTRY_UNAVAILABLE, "The image could not be pushed: the registry broke the upload twice; is its disk full?"
            )
        if "status" in message and "progressDetail" not in message:
            _say(message["status"])
    if error or not digest:
        raise Refusal(Reason.REGISTRY_UNAVAILABLE, f"The image could not be pushed: {error or 'the registry gave no digest'}")
    forget(client, repository=repository)
    forget_unfinished(client)
    trim_cache(client)
    return {"ref": f"{repository}@{digest}"}


def untag(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    try:
        client.remove_image(order["tag"])
    except ImageNotFound:
        return {"removed": False}
    return {"removed": True}


def inspect(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    facts = client.inspect_image(order["tag"])
    return {"id": facts["Id"], "size": facts["Size"]}


def size(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"size": client.inspect_image(order["tag"])["Size"]}
    except ImageNotFound:
        return {"size": None}


def prune(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    gone = forget(client, keep=int(order["keep"]), dry_run=bool(order["dry_run"]))
    freed = 0 if order["dry_run"] else forget_unfinished(client) + trim_cache(client, int(order["cache_bytes"]))
    return {"gone": gone, "freed": freed}


def root(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    return {"root": str(client.info().get("DockerRootDir") or "")}


def tags(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    return {"tags": sorted(tag for image in client.images() for tag in image["RepoTags"] or () if tag.startswith(order["prefix"]))}


def load(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    repository, _, tag = order["tag"].rpartition(":")
    client.import_image_from_file(order["archive"], repository=repository, tag=tag)
    return inspect(client, order)


ACTIONS = {
    "build": build,
    "push": push,
    "untag": untag,
    "inspect": inspect,
    "size": size,
    "tags": tags,
    "load": load,
    "root": root,
    "prune": prune,
}


def messages(response: requests.Response) -> Iterator[dict[str, Any]]:
    """The engine's stream: JSON objects, one per line, in chunks of any size."""
    for line in response.iter_lines(chunk_size=None):
        if line:
            body = json.loads(line)
            if isinstance(body, dict):
                yield body


def context(folder: Path) -> Iterator[bytes]:
    """The folder as a tar, streamed. Times and owners are dropped: the same files are the same layer."""
    read, write = os.pipe()

    def feed() -> None:
        with os.fdopen(write, "wb") as sink, tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for path in wanted(folder):
                archive.add(path, arcname=str(path.relative_to(folder)), recursive=False, filter=_plain)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    with os.fdopen(read, "rb") as source:
        while chunk := source.read(1 << 18):
            yield chunk
    thread.join()


def wanted(folder: Path) -> list[Path]:
    """Everything in it but what a `.dockerignore` at its root leaves out, as docker's own client does."""
    everything = sorted(folder.rglob("*"))
    ignore = folder / ".dockerignore"
    if not ignore.is_file():
        return everything
    patterns = [line.strip() for line in ignore.read_text("utf-8", "replace").splitlines()]
    kept = exclude_paths(str(folder), [line for line in patterns if line and not line.startswith("#")], "Dockerfile")
    return [path for path in everything if str(path.relative_to(folder)) in kept]


def _say(text: str, end: str = "\n") -> None:
    """Standard output is the build log."""
    # the engine paints what a step writes to its standard error
    sys.stdout.write(text.replace("\x1b[91m", "").replace("\x1b[0m", "") + end)
    sys.stdout.flush()


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
    return info


def _refusal(words: str, reason: Reason) -> Refusal:
    """`reason`: where the words themselves do not speak of a full disk, which is found out at any point."""
    said = " ".join(words.split())[:400]
    if reason_of(words) is Reason.BUILD_DISK:
        return Refusal(Reason.BUILD_DISK, f"The disk of the container engine is full: {said}")
    return Refusal(reason, f"The image could not be built: {said}")


if __name__ == "__main__":
    main()
