"""Grammar of what people may name inside a repository: paths, refs, object ids. Pure.

Every sink that turns such a text into a file name, an argument or a URL passes it through here first.
"""

from __future__ import annotations

import re
import unicodedata

from control_plane.domain.errors import Rejected

OID = re.compile(r"[0-9a-f]{64}", re.ASCII)
SHA = re.compile(r"[0-9a-f]{40}", re.ASCII)
REPO_ID = re.compile(r"[0-9a-z][0-9a-z_-]{0,63}", re.ASCII)
ZERO_SHA = "0" * 40
MAX_PATH_BYTES = 1024
MAX_NAME_BYTES = 255
MAX_DEPTH = 64
MAX_REF_BYTES = 250

# Characters that HFS+ ignores inside names, so that `.g\u200cit` would be `.git` on such a disk.
_HFS_IGNORED = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])
_GIT_SHORT = re.compile(r"git~\d+", re.IGNORECASE)
_REF_BAD = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\$|[\"'`;|&<>(){}!#%,]")
_REF_SPACES = ("refs/heads/", "refs/tags/", "refs/pr/", "refs/convert/")


def check_oid(oid: str) -> str:
    """A sha256 in its one canonical form, or Rejected. Called before an id becomes part of a file name."""
    if not isinstance(oid, str) or not OID.fullmatch(oid):
        raise Rejected(
            f"'{str(oid)[:80]}' is not an LFS object id: 64 lower-case hexadecimal digits of a sha256 are needed", code="InvalidOid"
        )
    return oid


def check_repo_id(repo_id: str) -> str:
    if not REPO_ID.fullmatch(repo_id):
        raise Rejected("not a repository id", code="InvalidRepoId")
    return repo_id


def path_problem(path: str) -> str | None:
    """Why `path` cannot be a file of a repository, in words; None when it can."""
    if not path:
        return "it is empty"
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "it is not valid UTF-8"
    if size > MAX_PATH_BYTES:
        return f"it is longer than {MAX_PATH_BYTES} bytes"
    if path.startswith("/"):
        return "it is absolute"
    if "\\" in path:
        return "it holds a backslash"
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in path):
        return "it holds a control character"
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        return f"it is nested deeper than {MAX_DEPTH} folders"
    for part in parts:
        if part == "":
            return "it has an empty segment"
        if part in (".", ".."):
            return f"'{part}' is not allowed in it"
        if len(part.encode()) > MAX_NAME_BYTES:
            return f"one of its names is longer than {MAX_NAME_BYTES} bytes"
        if is_dot_git(part):
            return f"'{part}' is a name that git keeps for itself"
    return None


def check_path(path: str) -> str:
    problem = path_problem(path)
    if problem is not None:
        raise Rejected(f"The path {path[:200]!r} cannot be used: {problem}.", code="InvalidPath", facts={"path": path[:1024]})
    return path


def is_dot_git(name: str) -> bool:
    """True for `.git` in any spelling that some file system would take for it."""
    plain = name.translate(_HFS_IGNORED).lower().rstrip(". ").split(":", 1)[0].rstrip(". ")
    return plain == ".git" or _GIT_SHORT.fullmatch(plain) is not None


def ref_problem(ref: str) -> str | None:
    """Why `ref` cannot exist here, in words; None when it may. Who may write it is the policy's question."""
    space = next((s for s in _REF_SPACES if ref.startswith(s)), None)
    if space is None:
        return "only branches (refs/heads/…), tags (refs/tags/…) and refs/pr/… exist here"
    if len(ref.encode(errors="replace")) > MAX_REF_BYTES:
        return f"it is longer than {MAX_REF_BYTES} bytes"
    name = ref[len(space) :]
    if not name or name.startswith("/") or name.endswith(("/", ".")) or name == "@":
        return "its name is incomplete"
    if _REF_BAD.search(name) or not name.isprintable():
        return "it holds characters that are not allowed in a name"
    for part in name.split("/"):
        if part.startswith((".", "-")) or part.endswith(".lock"):
            return "a part of a name may not start with '.' or '-' or end with '.lock'"
    if name in ("HEAD", "FETCH_HEAD") or SHA.fullmatch(name):
        return "it would be mistaken for something else"
    return None


def check_ref(ref: str) -> str:
    problem = ref_problem(ref)
    if problem is not None:
        raise Rejected(f"The ref {ref[:200]!r} cannot be used: {problem}.", code="InvalidRef")
    return ref
