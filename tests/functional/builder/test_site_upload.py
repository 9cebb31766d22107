"""A builder on another host brings a static Space's tree to the API over its door."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from builder.config import DoorConfig
from builder.errors import DoorClosed
from builder.reporter import BuildDoor
from control_plane.domain.builds import BuildEvent, BuildEventKind, BuildVerdict
from control_plane.domain.ids import BuildId, SpaceId
from tests.functional.hub_api.running import WholePlatform


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholePlatform]:
    running = WholePlatform(tmp_path_factory.mktemp("site-upload"))
    running.start()
    yield running
    running.stop()


async def building(platform: WholePlatform, space_id: str) -> BuildId:
    async with platform.built.uow.read() as uow:
        build = await uow.builds.latest(SpaceId(space_id))
    assert build is not None
    return build.id


def test_a_tree_arrives_whole_and_once(platform: WholePlatform, tmp_path: Path) -> None:
    made = httpx.post(
        f"{platform.url}/api/repos/create", json={"name": "pages", "type": "space", "sdk": "static"},
        headers={"Authorization": f"Bearer {platform.admin_token}"},
    )  # fmt: skip
    space_id = made.json()["id"]
    build_id = platform.run(building(platform, space_id))
    door = BuildDoor(DoorConfig(secret=platform.built.internal_secret, base_url=platform.url))
    stranger = BuildDoor(DoorConfig(secret="another word", base_url=platform.url), retry_s=0.1)
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "index.html").write_text("<h1>here</h1>")
    os.link(tree / "index.html", tree / "deep" / "again.html")
    (tree / "deep" / "link.html").symlink_to("again.html")
    served = Path(platform.built.settings.data_dir, "sites", space_id, build_id, "tree")
    try:
        with pytest.raises(DoorClosed):
            door.send_site(build_id, tree)  # it does not run yet
        started = BuildEvent(build_id, 1, BuildEventKind.STARTED, worker="elsewhere")
        assert door.emit(started) is BuildVerdict.GO_ON
        with pytest.raises(DoorClosed, match="refused"):
            stranger.send_site(build_id, tree)
        (tree / "out").symlink_to("/etc")
        with pytest.raises(DoorClosed):
            door.send_site(build_id, tree)  # a link that leaves the tree is refused there as well
        assert not served.exists()
        (tree / "out").unlink()
        door.send_site(build_id, tree)
        assert (served / "deep" / "link.html").read_text() == "<h1>here</h1>"
        (tree / "index.html").write_text("changed")
        door.send_site(build_id, tree)
        assert (served / "index.html").read_text() == "<h1>here</h1>", "what is there is not sent again"
        assert not list(served.parent.parent.glob(".new-*")), "nothing is left over"
    finally:
        door.close()
        stranger.close()
