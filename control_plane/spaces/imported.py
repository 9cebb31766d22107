"""A repository that was written for no Space becomes one: one commit on top says how it is run. Pure but for `finish`."""

from __future__ import annotations

from collections.abc import Collection

from control_plane.domain.accounts import Actor
from control_plane.domain.errors import EntryNotFound, SpaceConfigError
from control_plane.domain.spaces import Repo, Sdk
from control_plane.ports.git import CommitRequest, FileChange
from control_plane.spaces import front_matter
from control_plane.spaces.deps import SpaceDeps

MAIN = "refs/heads/main"
_APP_FILES = ("app.py", "streamlit_app.py", "main.py", "demo.py", "run.py", "gradio_app.py", "src/app.py")


def app_file_of(names: Collection[str]) -> str:
    """The program that is most likely meant; `app.py` when none of the usual names is there."""
    return next((name for name in _APP_FILES if name in names), "app.py")


def with_header(readme: bytes, header: bytes, app_file: str) -> bytes | None:
    """README.md with what `header` says put before it, or None when it says itself how it is run.

    `header`: the README of a fresh Space. Versions in it are left out: the repository's own requirements decide.
    A block of somebody else's that names no SDK (a page of a site generator) is taken into ours.
    """
    try:
        found = front_matter.read(readme)
    except SpaceConfigError:
        return None  # its author's mistake, shown on the page with its line
    if found is not None and "sdk" in found.entries:
        return None
    taken = set(found.entries) if found is not None else set()
    ours = [line for line in header.decode().splitlines() if line != "---" and line.partition(":")[0] not in {*taken, "sdk_version"}]
    lines = "".join(f"app_file: {app_file}\n" if line.startswith("app_file:") else f"{line}\n" for line in ours)
    if found is not None:
        before, dashes, after = readme.partition(b"---")
        _, newline, rest = after.partition(b"\n")
        return before + dashes + newline + lines.encode() + rest
    return b"---\n" + lines.encode() + b"---\n\n" + readme.removeprefix(b"\xef\xbb\xbf")


async def finish(deps: SpaceDeps, repo: Repo, actor: Actor, sdk: Sdk) -> None:
    """Adds the commit where one is needed; main of `repo` is what was imported."""
    assert actor.user is not None
    head = await deps.git.resolve(repo.id, "main")
    try:
        readme = await deps.git.read(repo.id, head, "README.md", max_bytes=front_matter.MAX_README_BYTES)
    except EntryNotFound:
        readme = b""
    names = {entry.path for entry in await deps.git.tree(repo.id, head, recursive=True) if not entry.is_dir}
    changed = with_header(readme, deps.initial_files(sdk, repo.name)["README.md"], app_file_of(names))
    if changed is None:
        return
    request = CommitRequest(
        ref=MAIN, message="Say how this Space is run", author=actor.user.name,
        author_email=actor.user.email or f"{actor.user.name}@users.noreply", changes=[FileChange(path="README.md", content=changed)],
        parent=head,
    )  # fmt: skip
    await deps.git.commit(repo.id, request)
