"""Webhooks: made with the released client, delivered to a real listener."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import Queue
from typing import Any

import pytest
from huggingface_hub import HfApi, WebhookPayload
from huggingface_hub.errors import HfHubHTTPError

from control_plane.api.webhook_delivery import Deliveries
from control_plane.domain.errors import Rejected
from tests.functional.hub_api.running import Platform

Delivery = tuple[dict[str, str], dict[str, Any]]


@pytest.fixture
def listener() -> Iterator[tuple[str, Queue[Delivery]]]:
    heard: Queue[Delivery] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            WebhookPayload.model_validate(body)  # as the client's own `WebhooksServer` reads it
            heard.put(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", heard
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_hears_what_it_watches(platform: Platform, alice: str, listener: tuple[str, Queue[Delivery]]) -> None:
    api = HfApi(endpoint=platform.url, token=alice)
    url, heard = listener
    hook = api.create_webhook(url=url, watched=[{"type": "user", "name": "alice"}], domains=["repo"], secret="s3cret")
    assert [w.id for w in api.list_webhooks()] == [hook.id]
    api.create_repo("alice/hooked")
    headers, body = heard.get(timeout=60)
    assert headers["x-webhook-secret"] == "s3cret"
    assert body["event"] == {"action": "create", "scope": "repo"}
    assert body["repo"]["name"] == "alice/hooked"
    commit = api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="alice/hooked")
    body = heard.get(timeout=60)[1]
    assert body["event"]["scope"] == "repo.content"
    assert body["updatedRefs"][0]["newSha"] == commit.oid
    assert body["webhook"] == {"id": hook.id, "version": 3}
    assert api.disable_webhook(hook.id).disabled
    api.delete_repo("alice/hooked")
    api.enable_webhook(hook.id)
    api.create_repo("alice/hooked-2")
    assert heard.get(timeout=60)[1]["repo"]["name"] == "alice/hooked-2"
    updated = api.update_webhook(hook.id, domains=["discussion"])
    assert updated.domains == ["discussion"]
    api.create_discussion("alice/hooked-2", title="Hi", description="there")
    assert heard.get(timeout=60)[1]["discussion"]["title"] == "Hi"
    api.comment_discussion("alice/hooked-2", 1, comment="More")
    assert heard.get(timeout=60)[1]["comment"]["content"] == "More"
    api.create_pull_request("alice/hooked-2", title="Better")
    assert heard.get(timeout=60)[1]["discussion"]["isPullRequest"]
    api.delete_webhook(hook.id)
    assert api.list_webhooks() == []


def test_nobody_sees_anothers_webhook(platform: Platform, alice: str, bob: str) -> None:
    hook = HfApi(endpoint=platform.url, token=alice).create_webhook(
        url="https://example.com/x", watched=[{"type": "user", "name": "alice"}]
    )
    with pytest.raises(HfHubHTTPError) as absent:
        HfApi(endpoint=platform.url, token=bob).get_webhook(hook.id)
    assert absent.value.response.status_code == 404
    HfApi(endpoint=platform.url, token=alice).delete_webhook(hook.id)


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://169.254.169.254/latest", "http://[::1]/", "http://10.0.0.1:80/"])
async def test_private_addresses_are_refused_on_a_public_platform(platform: Platform, url: str) -> None:
    from dataclasses import replace

    deliveries = Deliveries(replace(platform.services, public_url="https://hub.example.com"))
    with pytest.raises(Rejected, match="private"):
        await deliveries._target(url)
