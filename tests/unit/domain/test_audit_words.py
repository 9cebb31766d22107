from __future__ import annotations

from collections.abc import Mapping

import pytest

from control_plane.domain.audit_words import change_words


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({}, ""),
        ({"before": "cpu-basic", "after": "t4-small"}, "cpu-basic → t4-small"),
        ({"before": None, "after": 3600}, "none → 3600"),
        ({"before": False, "after": True, "spaces": 2}, "no → yes, spaces 2"),
        ({"keys": {"spaces": {"before": "5", "after": "3"}, "vcpu": {"before": "unset", "after": "unlimited"}}},
         "spaces: 5 → 3, vcpu: unset → unlimited"),
        ({"ref": "refs/heads/main", "before": "a" * 40, "after": "b" * 40}, "aaaaaaa → bbbbbbb, ref refs/heads/main"),
        ({"id": "t1", "expires_at": None, "scopes": ["openid", "profile"]}, "id t1, scopes openid profile"),
        ({"after": None}, ""),
    ],
)  # fmt: skip
def test_facts_are_told_as_before_and_after(facts: Mapping[str, object], words: str) -> None:
    assert change_words(facts) == words
