"""`ports.git_import.GitImport` with the git program: a stranger's server, asked through a door that leads only there.

address ─▶ check ─▶ look up once ─▶ git fetch (https, through `ConnectProxy`) ─▶ fsck ─▶ large files ─▶ the push policy ─▶ main
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from control_plane.domain.errors import Rejected, Unavailable
from control_plane.domain.ids import RepoId, Sha
from control_plane.git import objects
from control_plane.git.connect_proxy import ConnectProxy
from control_plane.git.gitbin import GitBinary, end
from control_plane.git.names import ZERO_SHA, ref_problem
from control_plane.git.objects import MAIN
from control_plane.git.policy import PushLimits, RefUpdate, inspect
from control_plane.git.remote_lfs import RemoteLargeFiles
from control_plane.net.public_address import addresses_of
from control_plane.ports.git import GitStore, LfsStore
from control_plane.ports.git_import import Room, Say

_URL_MAX = 500
_LARGE_FILES = 10_000
_AT_ONCE = 2  # imports of one process
_MEMORY_BYTES = 4 << 30
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_PROGRESS = re.compile(r"(?:remote: )?((?:Enumerating|Counting|Compressing|Receiving) objects|Resolving deltas): +(\d+%.*)")


@dataclass(frozen=True, slots=True)
class _Address:
    url: str
    host: str
    port: int
    is_allowed: bool  # named by the operator: private, plain HTTP
    is_tls: bool


@dataclass(frozen=True, slots=True)
class ImportLimits:
    """Bytes that come over the network, of git and of large files; seconds for either; `push`: what the content may hold."""

    max_bytes: int = 2 << 30
    large_bytes: int = 50 << 30
    time_s: float = 1200.0
    push: PushLimits = field(default_factory=PushLimits)


class RemoteRepos:
    """`allow`: `host:port` of servers that the operator lets people import from although they are private or speak plain HTTP."""

    def __init__(
        self,
        git: GitBinary,
        store: GitStore,
        lfs: LfsStore,
        *,
        allow: Collection[str] = (),
        ca_bundle: str = "",
        limits: ImportLimits | None = None,
    ) -> None:
        self._git, self._store, self._lfs = git, store, lfs
        self._allow = frozenset(entry.lower() for entry in allow)
        self._ca_bundle = ca_bundle
        self._limits = limits or ImportLimits()
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def check(self, url: str, branch: str) -> None:
        self._address(url)
        if branch and (problem := ref_problem(f"refs/heads/{branch}")) is not None:
            raise Rejected(f"The branch '{branch[:100]}' cannot be: {problem}.")

    def _address(self, url: str) -> _Address:
        rule = "Give the address of a git repository that begins with https:// and holds no user name or password."
        if not 0 < len(url) <= _URL_MAX or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            raise Rejected(rule)
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
        except ValueError:
            raise Rejected(rule) from None
        shown = f"[{host}]" if ":" in host else host
        if not _HOST.fullmatch(shown) or "@" in parts.netloc or parts.query or parts.fragment or len(parts.path) < 2:
            raise Rejected(rule)
        is_allowed = f"{shown}:{port}" in self._allow
        if parts.scheme != "https" and not (parts.scheme == "http" and is_allowed):
            raise Rejected(rule)
        return _Address(f"{parts.scheme}://{shown}:{port}{parts.path}", shown, port, is_allowed, parts.scheme == "https")

    async def bring(self, url: str, branch: str, into: RepoId, say: Say, room: Room) -> None:
        self.check(url, branch)
        address = self._address(url)
        if self._slots.locked():
            raise Unavailable("Other repositories are being imported just now; try again in a minute.")
        async with self._slots:
            say(f"Asking {address.host}")
            found = await addresses_of(address.host.strip("[]"), address.port, allow_private=address.is_allowed)
            repo = Path(self._store.path(into))
            proxy = ConnectProxy(f"{address.host}:{address.port}", found, address.port, self._limits.max_bytes)
            async with proxy.listening() as door, self._authorities() as ca_file:
                await self._fetch(repo, address, branch, proxy, door, ca_file, say)
                head = Sha((await self._git.run(repo, "rev-parse", "--verify", "FETCH_HEAD^{commit}")).decode().strip())
                (repo / "FETCH_HEAD").unlink(missing_ok=True)
                await self._large_files(repo, address, head, into, ca_file, say, room)
            say("Checking what came")
            try:
                await inspect(self._git, repo, into, self._lfs, [RefUpdate(MAIN, ZERO_SHA, head)], {}, self._limits.push)
            except Rejected as error:
                raise Rejected(_reworded(error.message)) from error
            await self._store.set_ref(into, MAIN, head)

    async def _large_files(self, repo: Path, address: _Address, head: Sha, into: RepoId, ca_file: str, say: Say, room: Room) -> None:
        wanted = await objects.pointers_in(self._git, repo, [head])
        total = sum(pointer.size for pointer in wanted)
        if not wanted:
            return
        if len(wanted) > _LARGE_FILES or total > self._limits.large_bytes:
            raise Rejected(f"The repository has {len(wanted):,} large files of {total >> 20:,} MiB; bring a clone of it with git push.")
        await room(total)
        try:
            async with asyncio.timeout(self._limits.time_s):
                await RemoteLargeFiles(self._lfs, self._allow, ca_file).bring(address.url, wanted, into, say)
        except TimeoutError:
            raise Rejected(f"{address.host} took longer than {self._limits.time_s / 60:.0f} minutes for the large files.") from None

    async def _fetch(self, repo: Path, address: _Address, branch: str, proxy: ConnectProxy, door: str, ca_file: str, say: Say) -> None:
        config = [
            ("protocol.https.allow", "always"),
            ("protocol.http.allow", "always" if address.is_allowed else "never"),
            # A server of plain HTTP is one that the operator named: it is asked directly, and bounded by the size of files alone.
            *((("http.proxy", door),) if address.is_tls else ()),
            ("http.followRedirects", "false"),
            ("http.lowSpeedLimit", "1"),
            ("http.lowSpeedTime", "60"),
            ("http.maxRequests", "2"),
            ("credential.helper", ""),
            ("core.askPass", "false"),
            ("fetch.fsckObjects", "true"),
            ("submodule.recurse", "false"),
            *((("http.sslCAInfo", ca_file),) if ca_file else ()),
        ]
        args = (
            "fetch",
            "--no-tags",
            "--no-recurse-submodules",
            "--progress",
            "--",
            address.url,
            f"refs/heads/{branch}" if branch else "HEAD",
        )
        process = await self._git.spawn(repo, *args, config=config)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (self._limits.max_bytes,) * 2)
        resource.prlimit(process.pid, resource.RLIMIT_AS, (_MEMORY_BYTES,) * 2)
        words = ""
        try:
            async with asyncio.timeout(self._limits.time_s):
                words = await _listen(process, say)
                await process.wait()
        except TimeoutError:
            raise Rejected(
                f"{address.host} took longer than {self._limits.time_s / 60:.0f} minutes; push the repository with git."
            ) from None
        finally:
            await end(process)
        if proxy.is_spent or "file too large" in words.lower():
            raise Rejected(f"The repository is larger than {self._limits.max_bytes >> 20:,} MiB; push it with git and LFS.")
        if process.returncode != 0:
            raise Rejected(_why(words, address.host, branch))

    @contextlib.asynccontextmanager
    async def _authorities(self) -> AsyncIterator[str]:
        """A file of the usual authorities and the operator's own; "" where only the usual ones are trusted."""
        if not self._ca_bundle:
            yield ""
            return
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="vitrine-ca-"))
        try:
            usual = ssl.get_default_verify_paths().cafile
            texts = [Path(path).read_text() for path in dict.fromkeys((usual, self._ca_bundle)) if path]
            (folder / "ca.pem").write_text("\n".join(texts))
            yield str(folder / "ca.pem")
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, True)


async def _listen(process: asyncio.subprocess.Process, say: Say) -> str:
    """git's words as they come; what was said last, for the reason of a failure."""
    assert process.stderr is not None
    kept, line = "", b""
    while data := await process.stderr.read(4096):
        line += data
        *done, line = re.split(rb"[\r\n]", line)
        for raw in done:
            text = raw.decode("utf-8", "replace").strip()[:300]
            if (progress := _PROGRESS.match(text)) is not None:
                say(f"{progress[1]}: {progress[2]}")
            elif text:
                kept = (kept + "\n" + text)[-4000:]
        line = line[-4096:]
    return kept + "\n" + line.decode("utf-8", "replace")


# What git says → what a person reads. The first that fits.
_WHY: tuple[tuple[str, str], ...] = (
    ("couldn't find remote ref", "There is no branch '{branch}' in that repository."),
    ("terminal prompts disabled", "{host} asks for a password, or there is no such repository: only public ones can be imported."),
    ("authentication failed", "{host} asks for a password: only public repositories can be imported."),
    ("could not read username", "{host} asks for a password, or there is no such repository: only public ones can be imported."),
    ("not found", "There is no such repository at {host}."),
    ("error: 404", "There is no such repository at {host}."),
    ("error: 30", "{host} sends elsewhere: the repository has moved. Give its new address."),
    ("unable to update url base from redirection", "{host} sends elsewhere: the repository has moved. Give its new address."),
    ("redirect", "{host} sends elsewhere: the repository has moved. Give its new address."),
    ("not valid: is this a git repository", "What answers there is no git repository."),
    ("certificate", "The certificate of {host} is not trusted here."),
    ("proxy connect aborted", "{host} does not answer."),
    ("502 from proxy", "{host} does not answer."),
    ("could not resolve", "{host} does not answer."),
    ("failed to connect", "{host} does not answer."),
    ("fsck error", "The repository is damaged or holds something that git refuses: {line}"),
    ("empty", "That repository is empty."),
)


def _why(words: str, host: str, branch: str) -> str:
    lowered = words.lower()
    last = next((line for line in reversed(words.splitlines()) if line.strip()), "")[:200]
    for mark, sentence in _WHY:
        if mark in lowered:
            line = next((text for text in words.splitlines() if mark in text.lower()), last)[:200]
            return sentence.format(host=host, branch=branch or "HEAD", line=line)
    return f"{host} could not be imported from: {last or 'the connection ended'}"


def _reworded(message: str) -> str:
    """The push policy speaks to somebody who pushes."""
    return (
        message.replace("Your push was rejected because it contains", "The repository cannot be imported: it contains")
        .replace("Your push was rejected because", "The repository cannot be imported:")
        .replace("and push again", "in a clone, and push that")
    )
