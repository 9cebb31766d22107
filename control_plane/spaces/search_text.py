"""What the gallery's search knows of a Space beside its card: the README without front matter, the app file, other source."""

from __future__ import annotations

from control_plane.domain.errors import EntryNotFound
from control_plane.domain.ids import RepoId, Sha
from control_plane.ports.git import GitStore, TreeEntry

TEXT_CHARACTERS = 48_000  # of one repository
_FILES = 12
_FILE_BYTES = 64 << 10
_SOURCE = (".py", ".js", ".ts", ".html", ".md", ".txt", ".toml", ".r", ".jl", ".go", ".rs", ".sh")


def decoded(body: bytes) -> str:
    return body.decode("utf-8", "replace").replace("\x00", "")


async def searchable_text(git: GitStore, repo_id: RepoId, sha: Sha, readme: bytes, app_file: str) -> str:
    """README first, then the app file, then source at the top of the repository, cut at `TEXT_CHARACTERS`."""
    parts, left = [decoded(readme)], TEXT_CHARACTERS - len(readme)
    try:
        entries = await git.tree(repo_id, sha)
    except EntryNotFound:
        entries = ()
    paths = [app_file, *(e.path for e in entries if e.path not in (app_file, "README.md") and _is_source(e))]
    for path in paths[:_FILES]:
        if left <= 0:
            break
        try:
            body = await git.read(repo_id, sha, path, max_bytes=_FILE_BYTES)
        except EntryNotFound:
            continue
        if b"\x00" not in body:
            parts.append(decoded(body))
            left -= len(parts[-1])
    return "\n".join(parts)[:TEXT_CHARACTERS]


def _is_source(entry: TreeEntry) -> bool:
    return not (entry.is_dir or entry.is_symlink or entry.is_submodule) and entry.lfs is None and entry.path.lower().endswith(_SOURCE)
