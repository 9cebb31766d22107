from __future__ import annotations

import random
import string
from pathlib import Path

import lz4.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.domain.errors import Forbidden, Rejected
from control_plane.git import packing, pktline, pointers, xet_format, xet_read
from control_plane.git.archives import leaves_tree
from control_plane.git.names import check_path, is_dot_git, path_problem, ref_problem
from control_plane.git.policy import PushLimits, RefUpdate, check_refs
from control_plane.git.receive import boxed
from control_plane.git.signing import Signer
from control_plane.ports.git import LfsPointer

PATTERN = random.Random(0).randbytes(65_521)  # a prime, so that no two chunks are alike
OID, SHA, ZERO = "a" * 64, "1" * 40, "0" * 40


@given(st.text(max_size=60))
def test_an_accepted_path_stays_inside(path: str) -> None:
    if path_problem(path) is None:
        parts = path.split("/")
        assert not {"", ".", ".."} & set(parts) and not any(is_dot_git(p) for p in parts)
        assert path.isprintable() or not any(ord(c) < 32 for c in path)
    else:
        with pytest.raises(Rejected):
            check_path(path)


@pytest.mark.parametrize(
    "name", [".git", ".GIT", ".Git.", ".git ", "git~1", "GIT~12", ".g\u200cit", "\ufeff.git", ".git::$INDEX_ALLOCATION"]
)
def test_every_spelling_of_dot_git_is_known(name: str) -> None:
    assert is_dot_git(name)


@pytest.mark.parametrize("name", [".gitignore", ".gitattributes", "git", "digit~1x", ".github", "a.git", ".gitkeep", "日本語", "a b", "é"])
def test_ordinary_names_are_fine(name: str) -> None:
    assert path_problem(name) is None


@given(st.text(alphabet=string.printable, max_size=40))
def test_an_accepted_ref_is_never_an_option_or_a_shell_word(name: str) -> None:
    if ref_problem(f"refs/heads/{name}") is None:
        assert not name.startswith(("-", ".", "/")) and not set(name) & set(" \t\n$`;|&<>(){}'\"\\~^:?*[")


@pytest.mark.parametrize("ref", ["refs/heads/main", "refs/heads/feature/a-b_c.1", "refs/tags/v1.0", "refs/pr/12", "refs/heads/ünï"])
def test_ordinary_refs_are_fine(ref: str) -> None:
    assert ref_problem(ref) is None


@pytest.mark.parametrize(
    ("update", "words"),
    [
        (RefUpdate("refs/heads/main", SHA, ZERO), "cannot be deleted"),
        (RefUpdate("refs/pr/1", ZERO, SHA), "pull requests are opened"),
        (RefUpdate("refs/pr/1", SHA, ZERO), "pull requests are opened"),
        (RefUpdate("refs/convert/parquet", ZERO, SHA), "platform only"),
        (RefUpdate("refs/replace/x", ZERO, SHA), "only branches"),
        (RefUpdate("refs/heads/-c", ZERO, SHA), "start with"),
    ],
)
def test_refs_that_nobody_may_push(update: RefUpdate, words: str) -> None:
    with pytest.raises(Rejected, match=words):
        check_refs([update], PushLimits())


def test_refs_that_may_be_pushed() -> None:
    check_refs(
        [RefUpdate("refs/heads/main", SHA, SHA), RefUpdate("refs/heads/x", SHA, ZERO), RefUpdate("refs/pr/1", SHA, SHA)], PushLimits()
    )
    with pytest.raises(Rejected):
        check_refs([RefUpdate("refs/pr/1", SHA, SHA)], PushLimits(), may_write_pr=False)
    with pytest.raises(Rejected, match="at most 200"):
        check_refs([RefUpdate(f"refs/heads/b{i}", ZERO, SHA) for i in range(201)], PushLimits())
    # A bad ref from before the policy can still be removed.
    check_refs([RefUpdate("refs/heads/-c", SHA, ZERO)], PushLimits())


@pytest.mark.parametrize(
    ("path", "target", "leaves"),
    [
        ("a", "b", False),
        ("a/b", "../c", False),
        ("a/b", "../../c", True),
        ("a", "/etc", True),
        ("a", "..", True),
        ("a", "b/../..", True),
        ("a/b", "../.git/config", True),
        ("a", "", True),
        ("a", "x\\y", True),
        ("a", "x\0y", True),
        ("a/b/c", "../../d/../e", False),
        ("a", "./b/.", False),
    ],
)
def test_links_that_leave_the_tree(path: str, target: str, leaves: bool) -> None:
    assert leaves_tree(path, target) is leaves


def test_pointers() -> None:
    text = pointers.render(OID, 5)
    assert pointers.parse(text) == LfsPointer(OID, 5, len(text))
    assert pointers.parse(text.rstrip(b"\n")) is not None
    for bad in (
        b"",
        text.replace(b"a" * 64, b"A" * 64),
        text.replace(b"size 5", b"size -5"),
        text + b"more\n",
        text + b"x" * 1024,
        b"x" + text,
        text.replace(b"size 5", b"size 99999999999999999999"),
    ):
        assert pointers.parse(bad) is None


def test_capabilities_wait_for_the_whole_first_line() -> None:
    line = pktline.line(f"{ZERO} {SHA} refs/heads/main\0report-status side-band-64k".encode())
    assert pktline.capabilities(line[:10]) is None
    assert pktline.capabilities(line) == {"report-status", "side-band-64k"}
    assert pktline.capabilities(pktline.line(b"shallow " + b"1" * 40) + line) == {"report-status", "side-band-64k"}
    for probe in (b"0000", b"zzzz", b"0001", b"ffff"):
        assert pktline.capabilities(probe) == frozenset()


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=8), st.integers(1, 30))
def test_frames_survive_any_cut(packets: list[tuple[int, bytes]], step: int) -> None:
    stream = b"".join(pktline.line(bytes([band]) + data) for band, data in packets) + pktline.FLUSH
    demux, found = pktline.Demux(), []
    for at in range(0, len(stream), step):
        found += list(demux.feed(stream[at : at + step]))
    assert found == [(band, pktline.line(bytes([band]) + data)) for band, data in packets] + [(0, b"0000")]


def test_remarks_cannot_steer_a_terminal() -> None:
    assert "\x1b" not in "".join(boxed("a\x1b[2Jb", "c\x07")) and len(boxed("a\nb")) == 4


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4))
def test_a_signature_is_for_these_fields_only(fields: dict[str, str]) -> None:
    signer = Signer(b"k" * 32, "x")
    signer.check(fields, signer.sign(fields), expires="10", now=9)
    for other in (Signer(b"l" * 32, "x"), Signer(b"k" * 32, "y")):
        with pytest.raises(Forbidden):
            other.check(fields, signer.sign(fields), expires="10", now=9)
    with pytest.raises(Forbidden):
        signer.check({**fields, "more": "1"}, signer.sign(fields), expires="10", now=9)
    for late in ("8", "", "x", "-1", "١٢"):
        with pytest.raises(Forbidden):
            signer.check(fields, signer.sign(fields), expires=late, now=9)


@given(st.text(max_size=80))
def test_an_invented_token_opens_nothing(token: str) -> None:
    with pytest.raises(Forbidden):
        Signer(b"k" * 32, "x").open(token, now=0)


def test_packs_name_blobs_like_git() -> None:
    assert packing.blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert packing.blob_pack([b"a", b"a"])[:12] == b"PACK\0\0\0\2\0\0\0\1"


def test_xet_hash_text_is_its_own_inverse_and_checked() -> None:
    raw = bytes(range(32))
    assert xet_format.hash_text(raw).startswith("0706050403020100") and xet_format.hash_bytes(xet_format.hash_text(raw)) == raw
    for bad in ("", "A" * 64, "../" * 21 + "a", "a" * 63, "a" * 64 + "\n"):
        with pytest.raises(Rejected):
            xet_format.hash_bytes(bad)


def test_small_files_have_the_hash_that_the_client_computes(tmp_path: Path) -> None:
    hf_xet = pytest.importorskip("hf_xet")
    noise = random.Random(3)
    for size in (1, 100, 4000):
        data = noise.randbytes(size)
        (tmp_path / "f").write_bytes(data)
        chunks = [(xet_format.chunk_hash(data), size)]  # one chunk: smaller than the smallest cut
        assert hf_xet.hash_files([str(tmp_path / "f")])[0].hash == xet_format.hash_text(xet_format.file_hash(chunks))


@given(st.binary(min_size=1, max_size=300))
def test_grouped_bytes_come_back(data: bytes) -> None:
    grouped = b"".join(data[plane::4] for plane in range(4))
    assert xet_format.unpack(lz4.frame.compress(grouped), 2, len(data)) == data
    assert xet_format.unpack(lz4.frame.compress(data), 1, len(data)) == data
    with pytest.raises(Rejected):
        xet_format.unpack(lz4.frame.compress(data), 1, len(data) + 1)


@given(st.binary(max_size=400))
def test_any_bytes_as_shard_or_xorb_are_read_or_refused(data: bytes) -> None:
    for read in (lambda: xet_format.read_shard(data), lambda: list(xet_format.read_xorb(memoryview(data)))):
        try:
            read()
        except Rejected:
            pass


@given(size=st.integers(1, 3 * xet_read.CHUNK * xet_read.XORB_CHUNKS), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_range_of_a_file_is_put_together_from_its_chunks(size: int, data: st.DataObject) -> None:
    """As a reader does it: each address's range of a xorb, its chunks unpacked, the terms in order, the first bytes skipped."""
    first = data.draw(st.integers(0, size - 1))
    last = data.draw(st.integers(first, min(size - 1, first + 5 * xet_read.CHUNK)))

    def content(at: int, length: int) -> bytes:
        return (PATTERN * (length // len(PATTERN) + 2))[at % len(PATTERN) :][:length]

    plan = xet_read.reconstruction("0" * 64, size, first, last, str)
    found = b""
    for term in plan["terms"]:
        [part] = plan["fetch_info"][term["hash"]]
        assert part["range"] == term["range"]
        number, bounds = int(part["url"]), part["url_range"]
        assert 0 <= bounds["start"] <= bounds["end"] < xet_read.serialized_size(size, number)
        packed = xet_read.serialized(content, size, number, bounds["start"], bounds["end"])
        chunks = list(xet_format.read_xorb(memoryview(packed)))
        assert len(chunks) == term["range"]["end"] - term["range"]["start"]
        unpacked = b"".join(xet_format.unpack(packed[at : at + length], scheme, raw) for at, length, scheme, raw in chunks)
        assert len(unpacked) == term["unpacked_length"]
        found += unpacked
    assert found[plan["offset_into_first_range"] :][: last - first + 1] == content(first, last - first + 1)
