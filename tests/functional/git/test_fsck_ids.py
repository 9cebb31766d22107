"""Each object-level finding of `git fsck` (trust catalogue G2), one pack for each: refused before the push is acknowledged, or
allowed on purpose.
"""

from __future__ import annotations

import pytest

from tests.functional.git.conftest import World
from tests.functional.git.test_hostile_packs import BLOB, TREE, entry, name, pack, push, unharmed

COMMIT, TREE_KIND, BLOB_KIND, TAG = 1, 2, 3, 4
_WORDS = {COMMIT: "commit", TREE_KIND: "tree", BLOB_KIND: "blob", TAG: "tag"}
WHO = b"A <a@b> 1 +0000"
TREE_NAME = name("tree", TREE).encode()
Objects = list[tuple[int, bytes]]


def raw(hexadecimal: str) -> bytes:
    return bytes.fromhex(hexadecimal)


def item(mode: bytes, path: bytes, data: bytes = BLOB) -> bytes:
    return mode + b" " + path + b"\0" + raw(name("blob", data))


def commit(head: bytes) -> Objects:
    """A commit over a good tree, its header as given."""
    return [(COMMIT, head + b"\n\nx\n"), (TREE_KIND, TREE), (BLOB_KIND, BLOB)]


def tree(body: bytes, *blobs: bytes) -> Objects:
    """A good commit over this tree."""
    head = b"tree " + name("tree", body).encode() + b"\nauthor " + WHO + b"\ncommitter " + WHO
    return [(COMMIT, head + b"\n\nx\n"), (TREE_KIND, body), (BLOB_KIND, BLOB), *((BLOB_KIND, data) for data in blobs)]


def folder(body: bytes) -> Objects:
    """The same with a good tree that this one names."""
    return [*tree(body), (TREE_KIND, TREE)]


def tag(head: bytes) -> Objects:
    """A tag with this header over a good commit."""
    return [(TAG, head + b"\n\nx\n"), *GOOD]


def author(who: bytes) -> Objects:
    return commit(b"tree " + TREE_NAME + b"\nauthor " + who + b"\ncommitter " + WHO)


def modules(text: bytes) -> Objects:
    return tree(item(b"100644", b".gitmodules", text), text)


GOOD = author(WHO)
GOOD_COMMIT = name("commit", GOOD[0][1]).encode()
LONG = b"a" * 5000

REFUSED: dict[str, Objects] = {
    "badDate": author(b"A <a@b> one +0000"),
    "badDateOverflow": author(b"A <a@b> 99999999999999999999 +0000"),
    "badEmail": author(b"A <a@b< 1 +0000"),
    "badName": author(b"A> <a@b> 1 +0000"),
    "badObjectSha1": tag(b"object 123\ntype commit\ntag t\ntagger " + WHO),
    "badParentSha1": commit(b"tree " + TREE_NAME + b"\nparent 123\nauthor " + WHO + b"\ncommitter " + WHO),
    "badTimezone": author(b"A <a@b> 1 0000"),
    "badTree": tree(b"100644 app.py"),
    "badTreeSha1": commit(b"tree 123\nauthor " + WHO + b"\ncommitter " + WHO),
    "badType": tag(b"object " + GOOD_COMMIT + b"\ntype thing\ntag t\ntagger " + WHO),
    "duplicateEntries": tree(item(b"100644", b"a") + item(b"100644", b"a")),
    "emptyName": tree(item(b"100644", b"")),
    "fullPathname": tree(item(b"100644", b"a/b")),
    "gitmodulesBlob": folder(b"40000 .gitmodules\0" + raw(name("tree", TREE))),
    "gitmodulesName": modules(b'[submodule "../.git/hooks"]\n\tpath = x\n\turl = https://example.org/x\n'),
    "gitmodulesPath": modules(b'[submodule "x"]\n\tpath = -x\n\turl = https://example.org/x\n'),
    "gitmodulesSymlink": tree(item(b"120000", b".gitmodules")),
    "gitmodulesUpdate": modules(b'[submodule "x"]\n\tpath = x\n\turl = https://example.org/x\n\tupdate = !id\n'),
    "gitmodulesUrl": modules(b'[submodule "x"]\n\tpath = x\n\turl = -u./payload\n'),
    "gitattributesSymlink": tree(item(b"120000", b".gitattributes", b"../../etc/passwd"), b"../../etc/passwd"),
    "gitignoreSymlink, out of the tree": tree(item(b"120000", b".gitignore", b"/etc/passwd"), b"/etc/passwd"),
    "mailmapSymlink, out of the tree": tree(item(b"120000", b".mailmap", b"../x"), b"../x"),
    "gitattributesLineLength": tree(item(b"100644", b".gitattributes", LONG + b" text\n"), LONG + b" text\n"),
    "hasDot": folder(b"40000 .\0" + raw(name("tree", TREE))),
    "hasDotdot": folder(b"40000 ..\0" + raw(name("tree", TREE))),
    "hasDotgit": folder(b"40000 .git\0" + raw(name("tree", TREE))),
    "largePathname": tree(item(b"100644", LONG)),
    "missingAuthor": commit(b"tree " + TREE_NAME + b"\ncommitter " + WHO),
    "missingCommitter": commit(b"tree " + TREE_NAME + b"\nauthor " + WHO),
    "missingEmail": author(b"A 1 +0000"),
    "missingNameBeforeEmail": author(b"<a@b> 1 +0000"),
    "missingObject": tag(b"type commit\ntag t\ntagger " + WHO),
    "missingSpaceBeforeDate": author(b"A <a@b>1 +0000"),
    "missingSpaceBeforeEmail": author(b"A<a@b> 1 +0000"),
    "missingTag": tag(b"object " + GOOD_COMMIT + b"\ntype commit"),
    "missingTagEntry": tag(b"object " + GOOD_COMMIT + b"\ntype commit\ntagger " + WHO),
    "missingTree": commit(b"author " + WHO + b"\ncommitter " + WHO),
    "missingType": tag(b"object " + GOOD_COMMIT + b"\ntag t"),
    "missingTypeEntry": tag(b"object " + GOOD_COMMIT),
    "multipleAuthors": commit(b"tree " + TREE_NAME + b"\nauthor " + WHO + b"\nauthor " + WHO + b"\ncommitter " + WHO),
    "nulInCommit": [(COMMIT, GOOD[0][1] + b"a\0b\n"), *GOOD[1:]],
    "nulInHeader": commit(b"tree " + TREE_NAME + b"\nauthor A\0 <a@b> 1 +0000\ncommitter " + WHO),
    "nullSha1": tree(b"100644 a\0" + bytes(20)),
    "treeNotSorted": tree(item(b"100644", b"b") + item(b"100644", b"a")),
    "unterminatedHeader": [(COMMIT, b"tree " + TREE_NAME + b"\nauthor " + WHO + b"\ncommitter " + WHO), *GOOD[1:]],
    "zeroPaddedDate": author(b"A <a@b> 01 +0000"),
    "zeroPaddedFilemode": tree(item(b"0100644", b"a")),
}
# Old and odd, and harmless to whoever reads them: git itself keeps such objects. A mode that git does not write is read as the
# nearest one it does: a plain file, or, for what is neither file, folder nor link, a submodule, which nothing here follows.
ALLOWED: dict[str, Objects] = {
    "good": GOOD,
    "badFilemode": tree(item(b"100664", b"a")),
    "badFilemode, a device": tree(item(b"20666", b"a")),
    "badTagName": tag(b"object " + GOOD_COMMIT + b"\ntype commit\ntag a..b\ntagger " + WHO),
    "missingTaggerEntry": tag(b"object " + GOOD_COMMIT + b"\ntype commit\ntag t"),
    "extraHeaderEntry": tag(b"object " + GOOD_COMMIT + b"\ntype commit\ntag t\ntagger " + WHO + b"\nextra x"),
    "mailmapSymlink, within the tree": tree(item(b"100644", b"a") + item(b"120000", b"b", b"a"), b"a"),
}


def packed(objects: Objects) -> tuple[bytes, str]:
    unique = dict.fromkeys(objects)
    return pack(*(entry(kind, data) for kind, data in unique)), name(_WORDS[objects[0][0]], objects[0][1])


@pytest.mark.parametrize("finding", REFUSED, ids=str)
async def test_a_finding_is_refused_and_moves_nothing(world: World, finding: str) -> None:
    body, new = packed(REFUSED[finding])
    ref = "refs/tags/t" if REFUSED[finding][0][0] == TAG else "refs/heads/main"
    answer = await push(world, body, new, ref=ref)
    assert answer.status_code < 500
    assert f"ok {ref}".encode() not in answer.content, answer.content
    await unharmed(world)


@pytest.mark.parametrize("finding", ALLOWED, ids=str)
async def test_what_is_allowed_arrives_whole(world: World, finding: str) -> None:
    body, new = packed(ALLOWED[finding])
    ref = "refs/tags/t" if ALLOWED[finding][0][0] == TAG else "refs/heads/side"
    answer = await push(world, body, new, ref=ref)
    assert f"ok {ref}".encode() in answer.content, answer.content
