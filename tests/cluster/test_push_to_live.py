"""git push → build → registry → kubelet pulls → Ready → a browser: the whole path, with nothing but a cluster and a registry."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from control_plane.runtimes.kubernetes import names
from tests.cluster import kubectl, prerequisites
from tests.cluster.conftest import Cluster
from tests.cluster.platform import platform_on, pool_file
from tests.e2e.conftest import Platform, Work
from tests.e2e.test_push_to_live import GRADIO
from tests.e2e.test_readme import CHROMIUM, FLAGS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

PLAIN = """
import http.server, os
print("app says {word}", flush=True)
class Say(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "{length}"); self.end_headers(); self.wfile.write(b"{word}")
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Say).serve_forever()
"""
LIVE_S = 900  # a build, a push, a pull and a start, on machines that have other things to do
BROWSER_MS = 240_000.0
OVERCOMMIT = 4.0  # of the pool in `platform`


def plain(word: str) -> str:
    return PLAIN.format(word=word, length=len(word))


@pytest.fixture(scope="module")
def platform(cluster: Cluster) -> Iterator[Platform]:
    namespace = f"vitrine-test-{secrets.token_hex(4)}"
    with platform_on(cluster, namespace, large=round(cluster.free_cores * OVERCOMMIT * 0.4, 1)) as running:
        running.namespace = namespace  # type: ignore[attr-defined]
        yield running


def pushed(platform: Platform, name: str, folder: Path, code: str, requirements: str = "") -> Work:
    platform.create(name)
    work = Work(platform, name, folder / name)
    work.write(**{"app.py": code, **({"requirements.txt": requirements} if requirements else {})})
    work.push("first", wait=False)
    live(platform, name)
    return work


def live(platform: Platform, name: str) -> None:
    """Waits until it runs. An error is said at once, with what the build and the platform's own parts wrote last."""
    end = time.monotonic() + LIVE_S
    while (found := platform.runtime(name))["stage"] != "RUNNING":
        if str(found["stage"]).endswith("_ERROR") or time.monotonic() > end:
            logs = sorted((platform.data_dir / "logs").rglob("*"))
            tails = "\n".join(f"{path.name}: {path.read_text(errors='replace')[-3000:]}" for path in logs if path.is_file())
            pytest.fail(f"{name} is {found}\n{tails}")
        time.sleep(0.3)


def said(platform: Platform, name: str) -> str:
    """The app's log so far: the stream stays open, so it is read for a moment."""
    url, headers = f"http://127.0.0.1:{platform.port}/api/spaces/admin/{name}/logs/run", {"Authorization": f"Bearer {platform.token}"}
    text, end = "", time.monotonic() + 20
    with httpx.stream("GET", url, headers={**headers, "Host": f"localhost:{platform.port}"}, timeout=30) as stream:
        for line in stream.iter_lines():
            text += line + "\n"
            if "app says" in text or time.monotonic() > end:
                break
    return text


def objects(cluster: Cluster, namespace: str, space_id: str) -> list[str]:
    found = []
    for path in ("/apis/apps/v1/namespaces/{}/deployments", "/api/v1/namespaces/{}/services", "/api/v1/namespaces/{}/secrets"):
        listed = cluster.api.get(path.format(namespace), {"labelSelector": f"{names.SPACE}={space_id}"})
        found += [item["metadata"]["name"] for item in listed.get("items") or []]
    return found


def test_push_build_pull_ready_and_a_code_push_loses_no_request(platform: Platform, cluster: Cluster, tmp_path: Path) -> None:
    namespace = platform.namespace  # type: ignore[attr-defined]
    work = pushed(platform, "roll", tmp_path, plain("one"))
    answer = platform.app("admin-roll")
    assert (answer.status_code, answer.text) == (200, "one"), dict(answer.headers)
    (deployment,) = cluster.api.get(f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"]
    assert "@sha256:" in deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    assert "app says one" in said(platform, "roll")

    answers: list[str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answer = platform.app("admin-roll")
            answers.append(answer.text if answer.status_code == 200 else f"{answer.status_code}")

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        work.write(**{"app.py": plain("two")})
        work.push("second", wait=False)
        end = time.monotonic() + LIVE_S
        while "two" not in answers[-1:]:
            assert time.monotonic() < end, platform.runtime("roll")
            over.wait(0.2)
    finally:
        over.set()
        asking.join()
    assert set(answers) == {"one", "two"}, "a request was lost while the version changed"
    assert answers.index("two") == answers.count("one"), "an older version answered after the newer one"

    work.write(**{"app.py": "raise SystemExit('broken')"})
    work.push("broken", wait=False)
    end = time.monotonic() + LIVE_S
    while "broken" not in str(platform.runtime("roll")) and platform.runtime("roll").get("reason", {}) == {}:
        assert time.monotonic() < end
        time.sleep(0.3)
    assert platform.app("admin-roll").text == "two", "a broken push leaves the version before it serving"
    selector = f"{names.SPACE}={deployment['metadata']['labels'][names.SPACE]}"
    for pod in cluster.api.get(f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": selector})["items"]:
        cluster.api.delete(f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}", grace_s=1)
    until(platform, "roll", lambda found: found["stage"] != "RUNNING")
    until(platform, "roll", lambda _: platform.app("admin-roll").text == "two")  # taken away, the version before comes back once more


def test_pause_restart_and_removal_leave_nothing_behind(platform: Platform, cluster: Cluster, tmp_path: Path) -> None:
    namespace = platform.namespace  # type: ignore[attr-defined]
    pushed(platform, "gone", tmp_path, plain("here"))
    assert platform.app("admin-gone").text == "here"
    space_id = platform.api("GET", "/api/spaces/admin/gone").json()["_id"]
    assert objects(cluster, namespace, space_id)
    assert platform.api("POST", "/api/spaces/admin/gone/pause").status_code == 200
    platform.until("gone", "PAUSED")
    assert platform.api("POST", "/api/spaces/admin/gone/restart").status_code == 200
    live(platform, "gone")
    assert platform.app("admin-gone").text == "here"
    answer = platform.api("DELETE", "/api/repos/delete", json={"name": "gone", "type": "space"})
    assert answer.status_code == 200, answer.text
    end = time.monotonic() + 90
    while left := objects(cluster, namespace, space_id):
        assert time.monotonic() < end, left
        time.sleep(0.5)


NAMED = """
import http.server, os, uuid
me = uuid.uuid4().hex.encode()
class Say(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "32"); self.end_headers(); self.wfile.write(me)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Say).serve_forever()
"""


def test_two_replicas_keep_their_visitors_and_a_visit_wakes_them_from_sleep(platform: Platform, tmp_path: Path) -> None:
    pushed(platform, "twins", tmp_path, NAMED)
    assert platform.api("POST", "/api/spaces/admin/twins/replicas", json={"replicas": 2}).status_code == 200
    end = time.monotonic() + LIVE_S
    while platform.runtime("twins")["replicas"] != {"requested": 2, "current": 2}:
        assert time.monotonic() < end, platform.runtime("twins")
        time.sleep(0.5)
    seen: set[str] = set()
    while len(seen) < 2:  # the client's address decides where a new visitor goes
        assert time.monotonic() < end, "one of the two never answers"
        sent = {"Host": f"admin-twins.localhost:{platform.port}"}
        address = f"127.0.0.{secrets.randbelow(250) + 2}"
        with httpx.Client(transport=httpx.HTTPTransport(local_address=address), headers=sent, timeout=60) as visitor:
            said = {visitor.get(f"http://127.0.0.1:{platform.port}/").text for _ in range(10)}
        assert len(said) == 1, "a visitor stays where its state is"
        seen |= said

    assert platform.api("POST", "/api/spaces/admin/twins/sleeptime", json={"seconds": 60}).status_code == 200
    platform.until("twins", "SLEEPING", seconds=LIVE_S)
    answers: list[httpx.Response] = []
    visits = [threading.Thread(target=lambda: answers.append(platform.app("admin-twins", timeout=180))) for _ in range(5)]
    for visit in visits:
        visit.start()
    for visit in visits:
        visit.join()
    assert [answer.status_code for answer in answers] == [200] * 5, "the proxy holds visits while the replicas come up"
    assert not {answer.text for answer in answers} & seen, "the processes are new"


def test_a_gradio_demo_in_a_browser(platform: Platform, tmp_path: Path) -> None:
    if not os.path.exists(CHROMIUM):
        pytest.skip("chromium is missing")
    from playwright.sync_api import Error, sync_playwright

    pushed(platform, "shout", tmp_path, GRADIO)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split(), timeout=BROWSER_MS)
        try:
            page = browser.new_page()
            page.set_default_timeout(BROWSER_MS)
            page.set_default_navigation_timeout(BROWSER_MS)
            heard: list[str] = []
            page.on("console", lambda message: heard.append(message.text))
            page.on("requestfailed", lambda request: heard.append(f"{request.url}: {request.failure}"))
            page.on("response", lambda answer: heard.append(f"{answer.url}: {answer.status}") if answer.status >= 400 else None)
            page.goto(f"http://admin-shout.localhost:{platform.port}/")
            try:
                page.locator("textarea").first.fill("quiet")
                page.get_by_role("button", name="go", exact=True).click()
                page.wait_for_function("() => [...document.querySelectorAll('textarea, input')].some(t => t.value.includes('QUIET!'))")
            except Error as error:
                pytest.fail(f"{error.message}\n" + "\n".join(heard[-40:]))
        finally:
            browser.close()


def test_a_drained_nodes_space_waits_with_a_reason_moves_where_it_may_and_comes_back(
    platform: Platform, cluster: Cluster, tmp_path: Path
) -> None:
    """`kubectl drain` of its pod's node; it moves once the hardware file, edited under the running platform, names another one."""
    if not (prerequisites.may(cluster.api, "patch", "", "nodes") and prerequisites.may(cluster.api, "create", "", "pods/eviction")):
        pytest.skip("these credentials may not cordon nodes or evict pods")
    kubectl.kubectl_or_skip()
    namespace, pools, large = platform.namespace, platform.pools, platform.large  # type: ignore[attr-defined]
    pushed(platform, "mover", tmp_path, plain("here"))
    selector = f"{names.SPACE}={platform.api('GET', '/api/spaces/admin/mover').json()['_id']}"
    node = node_of(cluster, namespace, selector)
    before = pool_row(platform)
    with kubectl.drained(node, selector):
        until(platform, "mover", lambda found: (found.get("reason") or {}).get("code") == "NO_CAPACITY")
        found = platform.runtime("mover")
        assert found["stage"] == "APP_STARTING", found
        assert "cpu-basic" in found["reason"]["message"], found  # type: ignore[index]
        assert pool_row(platform)["free"] == 0, "nothing is placed on a cordoned node"
        others = prerequisites.ready_nodes_beside(cluster.api, node)
        if others:
            pools.write_text(pool_file(others[0].selector, others[0].tolerations, large))
            live(platform, "mover")
            assert node_of(cluster, namespace, selector) == others[0].name
            assert platform.app("admin-mover", timeout=120).text == "here"
            pools.write_text(pool_file(cluster.pool.node_selector, cluster.pool.tolerations, large))
    live(platform, "mover")
    assert platform.app("admin-mover", timeout=120).text == "here"
    end = time.monotonic() + LIVE_S
    while pool_row(platform)["total"] != before["total"]:
        assert time.monotonic() < end, "the node is never counted again"
        time.sleep(0.3)
    platform.api("DELETE", "/api/repos/delete", json={"name": "mover", "type": "space"})


def pool_row(platform: Platform) -> dict[str, object]:
    (row,) = [row for row in platform.api("GET", "/api/admin/pools").json()["items"] if row["flavor"] == "cpu-basic"]
    return row  # type: ignore[no-any-return]


def node_of(cluster: Cluster, namespace: str, selector: str) -> str:
    pods = cluster.api.get(f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": selector})["items"]
    (node,) = {pod["spec"]["nodeName"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}
    return str(node)


def until(platform: Platform, name: str, good: Callable[[dict[str, object]], object]) -> None:
    end = time.monotonic() + LIVE_S
    while not good(found := platform.runtime(name)):
        assert time.monotonic() < end, found
        time.sleep(0.3)


def count(platform: Platform, wanted: tuple[int, int, int]) -> None:
    """Waits until these are the nodes, used and free units of the large flavor, as an operator reads them."""
    end = time.monotonic() + LIVE_S
    while True:
        (row,) = [row for row in platform.api("GET", "/api/admin/pools").json()["items"] if row["flavor"] == "cpu-upgrade"]
        if (row["nodes"], row["used"], row["free"]) == wanted:
            return
        assert time.monotonic() < end, row
        time.sleep(0.3)


def test_what_does_not_fit_waits_in_line_and_an_idle_space_makes_room(platform: Platform, cluster: Cluster, tmp_path: Path) -> None:
    """Two of the large flavor fill one node: a third puts the one unused for longest to sleep; a visit to that one does the reverse."""
    for other in platform.api("GET", "/api/spaces").json():  # of the tests before
        platform.api("POST", f"/api/spaces/{other['id']}/pause")
    count(platform, (1, 0, 2))
    for name in ("a", "b", "c"):
        platform.create(name)
        platform.api("POST", f"/api/spaces/admin/{name}/hardware", json={"flavor": "cpu-upgrade"})
        work = Work(platform, name, tmp_path / name)
        work.write(**{"app.py": plain(name)})
        work.push("first", wait=False)
        live(platform, name)
        if name == "b":
            count(platform, (1, 2, 0))
    asleep = [name for name in ("a", "b") if platform.runtime(name)["stage"] == "SLEEPING"]
    assert asleep == ["a"], "the one unused for longest made room"
    assert platform.runtime("a")["reason"]["code"] == "PREEMPTED"  # type: ignore[index]
    assert platform.app("admin-a", timeout=180).text == "a", "a visit wakes it, and another makes room"
