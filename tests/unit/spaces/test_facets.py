from __future__ import annotations

from control_plane.domain.spaces import RepoType
from control_plane.spaces.facets import tags_of


def test_facts_of_a_card_become_tags() -> None:
    card = {"tags": ["fun", 7], "license": "mit", "language": ["fr", "en"], "pipeline_tag": "text-generation", "datasets": ["a/b"]}
    assert tags_of(RepoType.MODEL, card) == (
        "fun", "7", "text-generation", "fr", "en", "license:mit", "language:fr", "language:en", "dataset:a/b",
    )  # fmt: skip
    assert tags_of(RepoType.DATASET, {"language": "fr", "size_categories": ["n<1K"]}) == ("language:fr", "size_categories:n<1K")
    assert tags_of(RepoType.SPACE, {"models": ["a/m"], "tags": ["x"]}, ("own", "own")) == ("own", "models:a/m")


def test_odd_values_are_left_out() -> None:
    card = {"tags": "one", "license": {"name": "x"}, "language": [None, True, "", "x" * 300]}
    assert tags_of(RepoType.MODEL, card) == ("one",)
