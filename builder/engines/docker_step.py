"""One call of the Docker Engine, as a program: `python -m builder.engines.docker_step ANSWER < order.json`.

Prints what the engine says, writes the answer as JSON: what was asked for, or `reason` (of domain.reasons) and `message`.
Talks to the API of Docker Engine 20.10 and later (version 1.41), classic builder.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound

from builder.engines.failures import reason_of
from control_plane.domain.reasons import Reason

API_VERSION = "1.41"


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
        reason = Reason.DOCKERFILE_FAILED if error.is_client_error() else Reason.BUILD_LOST
        answer = {"reason": reason.value, "message": f"The container engine refused: {error.explanation or error}"}
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
        "cpuperiod": "100000", "cpuquota": str(int(order["cpu"] * 100_000)),
    }  # fmt: skip
    headers = {"Content-Type": "application/x-tar", "X-Registry-Config": base64.urlsafe_b64encode(b"{}").decode()}
    url = f"{client.base_url}/v{API_VERSION}/build"
    image = ""
    with client.post(url, params=parameters, headers=headers, data=context(Path(order["context"])), stream=True) as response:
        if response.status_code != 200:
            words = response.json().get("message", response.text) if response.content else ""
            raise Refusal(Reason.DOCKERFILE_FAILED if response.status_code < 500 else Reason.BUILD_LOST, _told(words))
        for message in messages(response):
            if "stream" in message:
                _say(message["stream"], end="")
            elif "error" in message:
                raise Refusal(reason_of(str(message["error"])), _told(message["error"]))
            image = message.get("aux", {}).get("ID", image)
            if "status" in message and "progress" not in message:
                _say(" ".join(filter(None, (message.get("id"), message["status"]))))
    return inspect(client, {"tag": image or order["tag"]})


def push(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    repository, _, tag = order["tag"].rpartition(":")
    digest, error = "", ""
    for message in client.push(
        repository, tag=tag, stream=True, decode=True, auth_config=order["auth"] or {"username": "", "password": ""}
    ):
        digest = message.get("aux", {}).get("Digest", digest)
        error = message.get("error", error)
        if "status" in message and "progressDetail" not in message:
            _say(message["status"])
    if error or not digest:
        raise Refusal(Reason.REGISTRY_UNAVAILABLE, f"The image could not be pushed: {error or 'the registry gave no digest'}")
    return {"ref": f"{repository}@{digest}"}


def untag(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    try:
        client.remove_image(order["tag"], noprune=True)
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


def tags(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    return {"tags": sorted(tag for image in client.images() for tag in image["RepoTags"] or () if tag.startswith(order["prefix"]))}


def load(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    repository, _, tag = order["tag"].rpartition(":")
    client.import_image_from_file(order["archive"], repository=repository, tag=tag)
    return inspect(client, order)


ACTIONS = {"build": build, "push": push, "untag": untag, "inspect": inspect, "size": size, "tags": tags, "load": load}


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
            for path in sorted(folder.rglob("*")):
                archive.add(path, arcname=str(path.relative_to(folder)), recursive=False, filter=_plain)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    with os.fdopen(read, "rb") as source:
        while chunk := source.read(1 << 18):
            yield chunk
    thread.join()


def _say(text: str, end: str = "\n") -> None:
    """Standard output is the build log."""
    # the engine paints what a step writes to its standard error
    sys.stdout.write(text.replace("\x1b[91m", "").replace("\x1b[0m", "") + end)
    sys.stdout.flush()


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
    return info


def _told(words: str) -> str:
    return f"The image could not be built: {' '.join(str(words).split())[:400]}"


if __name__ == "__main__":
    main()
