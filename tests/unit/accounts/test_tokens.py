"""Shape, checksum and life of tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.accounts.sign_in import token_of_header
from control_plane.accounts.tokens import OAUTH_PREFIX, checksum, hash_text, is_well_formed, mint
from control_plane.domain.errors import NotSignedIn


def test_minted_tokens_are_well_formed_and_long_enough() -> None:
    for prefix in ("hf_", OAUTH_PREFIX):
        text = mint(prefix)
        assert is_well_formed(text)
        assert text.removeprefix(prefix).isalnum()
        assert len(text.removeprefix(prefix)) >= 34
        assert text[-6:] == checksum(text[:-6])


@given(st.integers(3, 38), st.characters(codec="ascii"))
def test_one_changed_character_breaks_the_checksum(position: int, other: str) -> None:
    text = mint()
    changed = text[:position] + other + text[position + 1 :]
    assert is_well_formed(changed) == (changed == text)


@given(st.text(max_size=80))
def test_anything_else_is_refused_without_a_query(text: str) -> None:
    assert not is_well_formed(text)


def test_known_checksum_never_changes() -> None:
    assert checksum("hf_" + "0" * 30) == checksum("hf_" + "0" * 30)
    assert len(checksum("")) == 6
    assert checksum("") == "000000"
    assert len(hash_text("x")) == 64


def test_headers() -> None:
    import base64

    def basic(text: str) -> str:
        return "Basic " + base64.b64encode(text.encode()).decode()

    assert token_of_header("Bearer hf_x") == "hf_x"
    assert token_of_header("bearer hf_x") == "hf_x"
    assert token_of_header(basic("anybody:hf_x")) == "hf_x"
    assert token_of_header(basic("hf_x:")) == "hf_x"
    for bad in ("", "hf_x", "Bearer", "Bearer ", "Digest abc", "Basic %%%", "Basic /w=="):
        with pytest.raises(NotSignedIn) as refused:
            token_of_header(bad)
        assert refused.value.bad_credentials
