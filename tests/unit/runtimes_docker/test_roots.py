"""Which parts of a stranger's image can be written: by label, or by the words of a look that nobody has to believe."""

from __future__ import annotations

import pytest

from control_plane.runtimes.docker.roots import HOME, MAX_COPIED_KIB, Root, root_by_label, root_by_look

WRITABLE = Root()


def test_the_builder_s_label_is_enough() -> None:
    assert root_by_label({"Config": {"Labels": {"vitrine.home": "volume"}}}) == Root(True, (HOME,))
    assert root_by_label({"Config": {"Labels": {"vitrine.home": "layer"}}}) is None
    assert root_by_label({"Config": {}}) is None


def test_folders_of_user_1000_become_volumes() -> None:
    assert root_by_look("d 4 /home/user\nd 120 /srv/a b\nend\n") == Root(True, ("/home/user", "/srv/a b"))
    assert root_by_look("h 0 /home/user\nend\n") == Root(True, (), has_home=False)


def test_a_working_directory_is_one_volume() -> None:
    """Files that belong to user 1000 in a folder that does not, as COPY --chown makes them."""
    many = "".join(f"d 1 /app/part{n}\n" for n in range(40))
    assert root_by_look(f"w 60 /app\n{many}f 0 /app/app.db\nd 4 /home/user\nend\n") == Root(True, ("/app", "/home/user"))
    assert root_by_look("w 60 /app\nf 0 /srv/lib/.lock\nend\n") == Root(True), "a stray file elsewhere is nothing"
    assert root_by_look("w 60 /\nd 4 /home/user\nend\n") == Root(True, ("/home/user",))
    large = MAX_COPIED_KIB + 1
    assert root_by_look(f"w {large} /app\nd 8 /app/cache\nend\n") == Root(True, ("/app/cache",))


@pytest.mark.parametrize(
    "line", ["d 0 /", "d 0 /usr", "d 0 /srv/../etc", "d 0 srv", "d 0 /a:/b", "d 0 /srv\x1b[2J", "d x /srv", "nonsense"]
)
def test_words_that_make_no_sense_are_left_out(line: str) -> None:
    assert root_by_look(f"{line}\nd 4 /data\nend\n") == Root(True, ("/data",))


@pytest.mark.parametrize(
    "words",
    [
        "",
        "d 4 /srv\n",  # it did not come to its end
        f"d {MAX_COPIED_KIB + 1} /models\nend\n",
        "".join(f"d 0 /v{n}\n" for n in range(20)) + "end\n",
    ],
)
def test_a_look_that_failed_or_found_too_much_leaves_the_layer_writable(words: str) -> None:
    assert root_by_look(words) == WRITABLE
