"""Production's shape: two APIs, two proxies, two schedulers and two builders on PostgreSQL and Redis, each a process of its own."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from control_plane.runtimes.process.camera import find_browser
from tests.e2e import installed
from tests.e2e.conftest import PLAIN, Platform, Work
from tests.e2e.separate import Separate
from tests.e2e.surfaces import Rights, furnish, seconds_until_refused
from tests.e2e.test_push_to_live import plain, wait_for
from tests.fakes.postgres import PostgresServer, needed_server, postgres_server
from tests.fakes.redis_server import RedisServer, free_port, redis_server

SECRET = "a shared word of API, proxies and builders"


@dataclass
class Site:
    services: Separate
    postgres: PostgresServer
    redis: RedisServer
    first: Platform  # as met at the first proxy, which asks the first API
    second: Platform
    ports: dict[str, int]

    def health(self, name: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.ports[name]}/readyz", timeout=10, verify=PLAIN)

    def leaders(self) -> list[str]:
        return [n for n in ("scheduler-1", "scheduler-2") if leads(self, n)]


def leads(site: Site, name: str) -> bool:
    try:
        return bool(site.health(name).json()["leads"])
    except httpx.HTTPError:
        return False


@contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    with postgres_server(needed_server()) as postgres, redis_server(folder) as redis:
        postgres.sql("create database vitrine")
        installed.take(folder / "d")
        ports = {n: free_port() for n in ("api-1", "api-2", "scheduler-1", "scheduler-2", "builder-1", "builder-2", "proxy-1", "proxy-2")}
        state = {"VITRINE_DATABASE_URL": postgres.url("vitrine")}
        key = {"VITRINE_SECRET_KEY": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}
        # The APIs have a machine to themselves: the port that apps are met at is nobody's there, so pictures of them need this word.
        pictures = {"VITRINE_THUMBNAILS_PROXY": f"127.0.0.1:{ports['proxy-2']}"}
        apis = {n: {"VITRINE_API_URL": f"http://127.0.0.1:{ports[n]}"} for n in ("api-1", "api-2")}
        services = Separate(
            folder,
            {
                "VITRINE_REDIS_URL": redis.url, "VITRINE_WORKER_SECRET": SECRET, "VITRINE_PUBLIC_URL": f"http://localhost:{ports['proxy-1']}",
                "VITRINE_PORT": str(ports["proxy-1"]), "VITRINE_DRAIN_S": "3", "VITRINE_RIGHTS_RECHECK_S": "3600",
            },
        )  # fmt: skip
        for n in ("1", "2"):
            services.add(f"api-{n}", "api", "--port", str(ports[f"api-{n}"]), **state, **key, **pictures)
            services.add(f"scheduler-{n}", "scheduler", "--port", str(ports[f"scheduler-{n}"]), **state, **key, **apis["api-1"])
            # Neither the database nor the master key: Redis, the API's address and the shared word are all they know.
            services.add(f"builder-{n}", "builder", "--port", str(ports[f"builder-{n}"]), **apis[f"api-{n}"])
            services.add(f"proxy-{n}", "proxy", "--port", str(ports[f"proxy-{n}"]), data_dir=f"proxy-{n}", **apis[f"api-{n}"])
        try:
            services.services["api-1"].start()
            others = [service for name, service in services.services.items() if name != "api-1"]
            with ThreadPoolExecutor(len(others)) as pool:
                list(pool.map(lambda service: service.start(), others))
            yield Site(services, postgres, redis, services.platform(ports["proxy-1"]), services.platform(ports["proxy-2"]), ports)
        finally:
            services.stop()


def text_of(platform: Platform, name: str) -> str:
    """What the app answers at this proxy; "" while it does not."""
    try:
        answer = platform.app(f"admin-{name}", timeout=20)
    except httpx.HTTPError:
        return ""
    return answer.text if answer.status_code == 200 else ""


def test_services_apart() -> None:
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as name, running_site(Path(name)) as site:
        first, second = site.first, site.second
        for service in site.ports:
            if not service.startswith("proxy"):
                assert site.health(service).json()["ready"] is True, service
        assert len(site.leaders()) == 1, "two schedulers, one leader"

        first.create("one")
        work = Work(first, "one", Path(name) / "one")
        plain(work, "one")
        assert "Live at" in work.push("one")
        wait_for(lambda: text_of(second, "one") == "one", 10, "the second proxy hears of the route")

        _static_and_private(site)
        _rights_end_everywhere(site, Path(name))
        _sleeps_and_wakes(site, work)
        _two_builders_at_once(site, Path(name))
        _pictured_through_the_proxy_of_another_machine(site)
        _kill_each(site)
        _without_redis(site, work)
        _without_postgresql(site, work)

        codes = site.services.stop()
        assert set(codes.values()) == {0}, codes


def _static_and_private(site: Site) -> None:
    """A static Space's files come from the API over TCP, and the guard asks it there."""
    site.first.create("pages", "static", private=True)
    site.first.until("pages", "RUNNING")
    token = {"Authorization": f"Bearer {site.first.token}"}
    for platform in (site.first, site.second):
        wait_for(lambda p=platform: p.app("admin-pages", headers=token).status_code == 200, 10, "static over TCP")  # type: ignore[misc]
        assert platform.app("admin-pages").status_code == 404, "a stranger sees nothing"
    api = f"http://127.0.0.1:{site.ports['api-1']}"
    stolen = httpx.get(f"{api}/", headers={"X-Vitrine-Site": f"{'0' * 24}/{'0' * 24}"})
    assert stolen.status_code == 404, "a tree that no route names cannot be asked for"
    refused = httpx.post(f"{api}/internal/authorize", json={"host": "x", "kind": "bearer", "credential": "y"})
    assert refused.status_code == 401


def _rights_end_everywhere(site: Site, folder: Path) -> None:
    """At both proxies and both APIs, whichever of them was told; no timer helps."""
    furnish(site.first, folder, "sue")
    with ExitStack() as held:
        rights = [held.enter_context(Rights(door, "sue").held()) for door in (site.first, site.second)]
        seconds_until_refused(rights, lambda: _suspended(site.first, "sue"))


def _suspended(platform: Platform, user: str) -> None:
    answer = platform.api("POST", f"/api/admin/users/{user}/suspension", json={"suspended": True})
    assert answer.status_code == 200, answer.text


def _sleeps_and_wakes(site: Site, work: Work) -> None:
    site.first.create("sleepy")
    plain(work := Work(site.first, "sleepy", work.folder.parent / "sleepy"), "awake")
    assert "Live at" in work.push("x")
    assert site.second.api("POST", "/api/spaces/admin/sleepy/sleeptime", json={"seconds": 60}).status_code == 200
    site.postgres.sql(
        "update spaces set last_used_at = last_used_at - interval '1 hour' where id = (select id from repos where name = 'sleepy')",
        "vitrine",
    )
    site.first.until("sleepy", "SLEEPING", seconds=30)
    assert site.second.app("admin-sleepy", "/x", headers={"Accept": "application/json"}).text == "awake"


def _two_builders_at_once(site: Site, folder: Path) -> None:
    names = ("w", "x", "y", "z")

    def push(name: str) -> str:
        platform = site.first if name in "wx" else site.second
        platform.create(name)
        work = Work(platform, name, folder / name)
        plain(work, name)
        return work.push("x")

    with ThreadPoolExecutor(len(names)) as pool:
        for said in pool.map(push, names):
            assert "Live at" in said
    assert [text_of(site.second, n) for n in names] == list(names)
    workers = site.postgres.rows("select distinct worker from builds where worker <> ''", "vitrine")
    assert len(workers) == 2, workers


def _pictured_through_the_proxy_of_another_machine(site: Site) -> None:
    """One API took it, both show it; whoever took it saw the app as a visitor of the second proxy does."""
    if find_browser() is None or os.geteuid() != 0:
        assert os.environ.get("CI") != "true", "Chromium is missing"
        return

    def picture(api: str) -> bytes:
        at = {"base_url": f"http://127.0.0.1:{site.ports[api]}", "headers": {"Host": "localhost", "Accept": "text/html"}}
        with httpx.Client(**at) as client:  # type: ignore[arg-type]
            card = re.search(r'data-space="admin/one">.*?(?:<img src="([^"]+)"|</a>)', client.get("/spaces?q=one").text, re.DOTALL)
            return client.get(card[1]).content if card is not None and card[1] else b""

    wait_for(lambda: picture("api-1")[8:12] == b"WEBP" and picture("api-2")[8:12] == b"WEBP", 60, "both APIs show the picture")
    assert picture("api-1") == picture("api-2")


def _kill_each(site: Site) -> None:
    for name in ("builder-1", "proxy-1", "api-1", site.leaders()[0]):
        service = site.services.services[name]
        service.kill()
        if name.startswith("scheduler"):
            wait_for(lambda: len(site.leaders()) == 1, 15, "the stand-by takes over")
            wait_for(lambda: text_of(site.second, "one") == "one", 15, "the stand-by started it again")
        if name == "api-1":
            assert text_of(site.first, "one") == "one", "apps answer without the API"
            with ThreadPoolExecutor(1) as pool:
                held = pool.submit(httpx.get, f"http://127.0.0.1:{site.ports['proxy-1']}/", headers={"Host": "localhost"}, timeout=120)
                service.start()
                # It waits for the API that comes back, and is told that it is away when that takes longer.
                assert held.result().status_code in (200, 503)
        else:
            service.start()
        wait_for(lambda: text_of(site.first, "one") == "one" and text_of(site.second, "one") == "one", 15, f"after kill -9 of {name}")
        wait_for(lambda: site.first.api("GET", "/api/whoami-v2").status_code == 200, 10, f"signed in after kill -9 of {name}")
    assert len(site.leaders()) == 1


def _without_redis(site: Site, work: Work) -> None:
    site.redis.stop()
    assert text_of(site.first, "one") == "one", "what runs goes on without Redis"
    assert site.health("builder-1").status_code == 503
    proxy = site.services.services["proxy-2"]
    proxy.kill()
    proxy.start()
    assert text_of(site.second, "one") == "one", "a proxy that starts meanwhile serves from its last table"
    plain(work, "two")
    assert "Build queued" in work.push("two", wait=False)
    site.redis.start()
    wait_for(lambda: text_of(site.first, "one") == "two" and text_of(site.second, "one") == "two", 60, "caught up with an empty Redis")


def _without_postgresql(site: Site, work: Work) -> None:
    site.postgres.stop()
    assert text_of(site.first, "one") == "two", "what runs goes on without PostgreSQL"
    answer = site.first.api("GET", "/api/spaces/admin/one")
    assert (answer.status_code, answer.headers["x-error-code"]) == (503, "Unavailable")
    assert site.health("api-1").status_code == 503
    site.postgres.start_again()
    wait_for(lambda: site.health("api-1").status_code == 200, 15, "ready again")
    wait_for(lambda: len(site.leaders()) == 1, 15, "one leads again")
    plain(work, "three")
    assert "Live at" in work.push("three")
    assert text_of(site.second, "one") == "three"
