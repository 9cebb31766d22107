"""One push from the first byte to the last remark.

    body ─▶ git receive-pack ─▶ fsck ─▶ pre-receive ─▶ refs move ─▶ report ─▶ post-receive ─▶ remarks
                                          │ check()                  │ held until the folders are synced
                                          ▼                          ▼
                                    Rejected = nothing changed    pushed() may talk for minutes (`-o wait`)

The push runs in a task of its own: when the client goes away before its pack is complete, git sees the end of its input and
leaves nothing behind; when it goes away later, the push goes on and only its words are lost.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import shlex
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from control_plane.domain.errors import VitrineError
from control_plane.git import hook, pktline
from control_plane.git.gitbin import GitBinary, end
from control_plane.git.lfs import sync_folder
from control_plane.git.policy import RefUpdate

log = logging.getLogger(__name__)

HOOKS = ("pre-receive", "post-receive")
_HEAD_BYTES = 4 << 20  # where the capabilities of a push must have come
_DASHES = "-" * 73


@dataclass(frozen=True, slots=True)
class ReceiveLimits:
    """`body_bytes` of one push after decompression; times in seconds; `memory_bytes` of address space for each git process."""

    body_bytes: int = 2 << 30
    idle_s: float = 120.0
    unpack_s: float = 1800.0
    memory_bytes: int = 4 << 30
    cpu_s: int = 900


@dataclass(frozen=True, slots=True)
class HookCall:
    """What a hook was told. `env` names the quarantine while the push is not accepted yet."""

    updates: tuple[RefUpdate, ...]
    options: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)


Answer = Callable[[HookCall], AsyncIterator[str]]


def write_hooks(folder: Path) -> None:
    """Make the platform's hook directory: two small programs that ask us. Modes do not depend on the umask."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    script = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S {shlex.quote(hook.__file__)} "$0"\n'
    for name in HOOKS:
        draft = folder / f".{name}.{os.getpid()}"
        draft.write_text(script)
        draft.chmod(0o700)
        draft.rename(folder / name)


class Push:
    """Runs `git receive-pack` for one request. `check` and `pushed` answer the two hooks."""

    def __init__(self, git: GitBinary, repo: Path, hooks: Path, check: Answer, pushed: Answer, limits: ReceiveLimits) -> None:
        self._git, self._repo, self._hooks, self._limits = git, repo, hooks, limits
        self._answers = dict(zip(HOOKS, (check, pushed), strict=True))
        self._out: asyncio.Queue[bytes | None] = asyncio.Queue(256)
        self._detached = False
        self._held: list[bytes] = []
        self._released = asyncio.Event()
        self._body_complete = asyncio.Event()
        self._accepted = asyncio.Event()
        self._framed = False
        self._ended = False
        self._quarantine: Path | None = None
        self._verdict = ""

    async def output(self) -> AsyncIterator[bytes]:
        """The response body. Leaving it early detaches the client."""
        try:
            while (chunk := await self._out.get()) is not None:
                yield chunk
        finally:
            self.detach()

    def detach(self) -> None:
        self._detached = True
        while not self._out.empty():
            self._out.get_nowait()

    @property
    def body_complete(self) -> asyncio.Event:
        """Set when the request was read to its end or given up: the moment from which an answer may be sent."""
        return self._body_complete

    @property
    def accepted(self) -> asyncio.Event:
        """Set when the refs have moved, or the push is over without that: the heavy part is done."""
        return self._accepted

    async def run(self, body: AsyncIterator[bytes]) -> None:
        ours, theirs = socket.socketpair()
        try:
            process = await self._git.spawn(
                self._repo, "receive-pack", "--stateless-rpc", str(self._repo),
                env={hook.ENV_FD: str(theirs.fileno())},
                config=(("receive.maxInputSize", str(self._limits.body_bytes)), ("core.bigFileThreshold", "8m"), ("pack.threads", "1")),
                hooks_path=self._hooks, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, pass_fds=(theirs.fileno(),),
            )  # fmt: skip
        except BaseException:
            ours.close()
            self._body_complete.set()
            self._accepted.set()
            await self._out.put(None)
            raise
        finally:
            theirs.close()
        _limit(process.pid, self._limits)
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=16 << 20)
        tasks = [
            asyncio.create_task(self._feed(process, body)),
            asyncio.create_task(self._serve_hooks(reader, writer)),
            asyncio.create_task(_complain(process)),
            asyncio.create_task(self._watch(process)),
        ]
        try:
            await self._forward(process)
            await process.wait()
            await self._release()
            if self._framed and not self._ended:
                # git died. Without a last word the client would wait for ever: its own helper keeps the pipe open.
                text = self._verdict or "The push was ended before it was complete; nothing was acknowledged."
                await self._send(pktline.line(b"\x03" + text.encode() + b"\n") + pktline.FLUSH)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.close()
            await end(process)
            await asyncio.to_thread(self._clean_up)
            self._body_complete.set()
            self._accepted.set()
            await self._send(None)

    def _clean_up(self) -> None:
        """A quarantine that git could not remove because it was ended."""
        path = self._quarantine
        if path is not None and path.name.startswith("tmp_objdir-") and path.parent == self._repo / "objects":
            shutil.rmtree(path, ignore_errors=True)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(self._limits.unpack_s):
                await self._accepted.wait()
        except TimeoutError:
            log.warning("a push took more than %g s to unpack and was ended", self._limits.unpack_s)
            self._verdict = f"The push took more than {self._limits.unpack_s:g} s to check and was ended; nothing was changed."
            await end(process)

    async def _feed(self, process: asyncio.subprocess.Process, body: AsyncIterator[bytes]) -> None:
        stdin = process.stdin
        if stdin is None:
            return
        head: bytes | None = b""
        try:
            async with aclosing(body) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    if head is not None:
                        head = (head + chunk)[:_HEAD_BYTES]
                        words = pktline.capabilities(head)
                        if words is not None or len(head) == _HEAD_BYTES:
                            self._framed, head = bool((words or frozenset()) & {"side-band-64k", "side-band"}), None
                    stdin.write(chunk)
                    await stdin.drain()
        except VitrineError as error:
            if self._framed:
                for part in boxed(error.message, error.hint):
                    await self._send(pktline.line(b"\x02" + part.encode() + b"\n"))
        except (ConnectionError, OSError):
            pass  # git refused before it had read everything, or the client went away: git's own answer tells
        finally:
            stdin.close()
            self._body_complete.set()

    async def _forward(self, process: asyncio.subprocess.Process) -> None:
        """git's output to the client, the report (band 1) only after the folders were synced."""
        assert process.stdout is not None
        demux = pktline.Demux()
        while chunk := await process.stdout.read(1 << 16):
            if not self._framed:
                if self._released.is_set():
                    await self._send(chunk)
                else:
                    self._held.append(chunk)
                continue
            try:
                for band, packet in demux.feed(chunk):
                    self._ended = packet == pktline.FLUSH
                    if band == 2 or self._released.is_set():
                        await self._send(packet)
                    else:
                        self._held.append(packet)
            except ValueError:
                log.warning("receive-pack wrote an unframed line")
                return

    async def _release(self) -> None:
        if self._released.is_set():
            return
        await asyncio.to_thread(_sync_tree, self._repo)
        self._released.set()
        held, self._held = self._held, []
        for packet in held:
            await self._send(packet)

    async def _send(self, chunk: bytes | None) -> None:
        if chunk is None and self._detached:
            return
        if not self._detached:
            await self._out.put(chunk)

    async def _serve_hooks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(**body: object) -> None:
            writer.write(json.dumps(body).encode() + b"\n")

        while asked := await reader.readline():
            body = json.loads(asked)
            call = HookCall(tuple(RefUpdate(*update) for update in body["updates"]), tuple(body["options"]), dict(body["env"]))
            code = 0
            if quarantine := call.env.get("GIT_QUARANTINE_PATH"):
                self._quarantine = self._repo / quarantine
            if body["hook"] == "post-receive":
                self._accepted.set()
                await self._release()
            try:
                async for text in self._answers[body["hook"]](call):
                    for part in text.splitlines() or [""]:
                        say(line=_plain(part))
                    await writer.drain()
            except VitrineError as error:
                code = 1
                for part in boxed(error.message, error.hint):
                    say(line=part)
            except ConnectionError:
                return
            except Exception:
                log.exception("push hook failed", extra={"hook": body["hook"]})
                code = 1
                say(line="The push could not be checked because of an internal error; nothing was changed. Please try again.")
            say(exit=code)
            try:
                await writer.drain()
            except ConnectionError:
                return


def boxed(message: str, hint: str | None = None) -> list[str]:
    lines = [*message.splitlines(), *(hint.splitlines() if hint else [])]
    return [_DASHES, *(_plain(part) for part in lines), _DASHES]


def _plain(text: str) -> str:
    """No control characters reach somebody's terminal, whatever a file is called."""
    return "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in text)[:2000]


def _limit(pid: int, limits: ReceiveLimits) -> None:
    try:
        resource.prlimit(pid, resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
        resource.prlimit(pid, resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s))
    except (AttributeError, ProcessLookupError, PermissionError, ValueError):
        pass  # already over, or a kernel without prlimit: the other limits stay


async def _complain(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    while text := await process.stderr.readline():
        log.info("receive-pack: %s", text.decode(errors="replace").rstrip()[:500])


def _sync_tree(repo: Path) -> None:
    """git synced files and refs; this syncs the folders that name them, so that an acknowledged push survives a power cut."""
    folders: Sequence[Path] = [repo, repo / "objects", *(p for p in (repo / "objects").iterdir() if p.is_dir() and len(p.name) in (2, 4))]
    for folder in folders:
        sync_folder(folder)
    for name, _, _ in os.walk(repo / "refs"):
        sync_folder(Path(name))
