"""Which images of Spaces an engine may forget."""

from __future__ import annotations

from docker.errors import APIError

from builder.engines.docker_prune import forget_unfinished, old_images

A, B = "127.0.0.1:5000/spaces/" + "a" * 24, "127.0.0.1:5000/spaces/" + "b" * 24


def image(number: int, *tags: str, digests: tuple[str, ...] = ()) -> dict[str, object]:
    return {"Id": f"sha256:{number}", "Created": number, "RepoTags": list(tags) or None, "RepoDigests": list(digests)}


def build(number: int) -> str:
    return f"{number:024x}"


def test_the_newest_of_each_space_and_what_runs_stay() -> None:
    images = [image(n, f"{A}:{build(n)}") for n in range(1, 7)] + [image(10, f"{B}:{build(10)}")]
    assert old_images(images, (), 5) == [f"{A}:{build(1)}"]
    assert old_images(images, {"sha256:1"}, 5) == []
    assert old_images(images, {"sha256:2"}, 1) == [f"{A}:{build(n)}" for n in (1, 3, 4, 5)]
    assert old_images(images, (), 0) == sorted([f"{A}:{build(n)}" for n in range(1, 7)] + [f"{B}:{build(10)}"])


def test_other_people_s_images_and_base_images_are_left_alone() -> None:
    others = [image(1, "vitrine/python:3.11"), image(2, "debian:bookworm"), image(3), image(4, f"{A}:latest"), image(5, "<none>:<none>")]
    assert old_images(others, (), 0) == []


def test_what_was_pulled_by_digest_counts_too() -> None:
    digest = f"{A}@sha256:{'c' * 64}"
    assert old_images([image(1, digests=(digest,)), image(2, f"{A}:{build(2)}", digests=(digest,))], (), 1) == [digest]


def test_two_builds_of_the_same_image_are_one_version() -> None:
    images = [image(7, f"{A}:{build(1)}", f"{A}:{build(2)}"), image(6, f"{A}:{build(3)}")]
    assert old_images(images, (), 1) == [f"{A}:{build(3)}"]


class Busy:
    def prune_images(self, filters: dict[str, object]) -> dict[str, int]:
        assert filters == {"dangling": True, "until": "24h"}
        raise APIError("409 Client Error: Conflict (a prune operation is already running)")


def test_two_pushes_at_once_do_not_fail_each_other() -> None:
    assert forget_unfinished(Busy()) == 0
