"""One launched replica as the scheduler's process sees it: the launcher's child process, its control line and its output."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from control_plane.domain.errors import Broken, Rejected
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaSpec, ReplicaState
from control_plane.runtimes.process.cgroups import Group
from control_plane.runtimes.process.door import parse_listening
from control_plane.runtimes.process.egress import Egress, receive_listeners
from control_plane.runtimes.process.floor import launcher_command
from control_plane.runtimes.process.launch_spec import PLACE
from control_plane.runtimes.process.output import OutputMeter

_logger = logging.getLogger(__name__)

LogSink = Callable[[SpaceId, ReplicaId, Sequence[str]], Awaitable[None]]
_START_TIMEOUT_S = 15.0
_READ_BYTES = 64 << 10
_FLOOD_PAUSE_S = 0.02
_LAUNCHER_FAILED = 125
_MAX_NOTES = 50


class ReplicaProcess:
    """Made by `ProcessRuntime`; `run()` starts it and returns when the program runs inside."""

    def __init__(
        self, spec: ReplicaSpec, *, group: Group | None, door_path: Path, outer_uid: int, egress: Egress, log: LogSink,
        on_end: Callable[[ReplicaProcess], None],
    ) -> None:  # fmt: skip
        self.spec = spec
        self.group = group
        self.door_path = door_path
        self.outer_uid = outer_uid
        self.egress = egress
        egress.on_denied = self.note_refusal
        self.state = ReplicaState.STARTING
        self.reason: Reason | None = None
        self.message = ""
        self.exit_code: int | None = None
        self.started_at = datetime.now(UTC)
        self.missing: tuple[str, ...] = ()
        self.is_stopping = False
        self.overfull = ""  # why it was ended: what a volume of its own holds
        self.cpu_mark = (time.monotonic(), 0.0)
        self.pid = 0
        self.meter = OutputMeter()
        self.ended = asyncio.Event()
        self._log = log
        self._on_end = on_end
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._status: dict[str, Any] = {}
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watch: asyncio.Task[None] | None = None
        self._notes: set[asyncio.Task[None]] = set()
        self._noted: set[str] = set()

    async def run(self, body: Mapping[str, Any]) -> None:
        """Launch. Raises Broken when the sandbox could not be made."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._control = ours
        door = self._open_door()
        try:
            command = launcher_command("--control", str(theirs.fileno()), "--door", str(door.fileno()))
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(theirs.fileno(), door.fileno()),
                env={},
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            ours.close()
            self._control = None
            raise Broken(f"the launcher did not start: {error}") from error
        finally:
            theirs.close()
            door.close()
        self.pid = self._process.pid
        asyncio.get_running_loop().add_reader(ours.fileno(), self._on_packet)
        self._watch = asyncio.get_running_loop().create_task(self._follow(self._process))
        assert self._process.stdin is not None
        # Secrets travel over this pipe: not in arguments, not in a file, not in the launcher's own environment.
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(body).encode())
            await self._process.stdin.drain()
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await asyncio.shield(self._begun)
        except TimeoutError as error:
            await self.kill()
            raise Broken("the sandbox was not ready in time") from error
        if self._status.get("event") == "failed":
            await self.ended.wait()
            words = str(self._status["message"])
            if words.startswith(f"{PLACE}: "):
                raise Rejected(words.removeprefix(f"{PLACE}: "), facts={"reason": Reason.VOLUME_UNAVAILABLE.value})
            raise Broken(f"the sandbox could not be made: {words}")

    async def stop(self, grace_s: float) -> None:
        """TERM, at most `grace_s` seconds, KILL. Returns when nothing is left."""
        self.is_stopping = True
        if self._control is not None and grace_s > 0:
            with contextlib.suppress(OSError):
                self._control.send(f"T{grace_s:g}".encode())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self.ended.wait()
        await self.kill()

    async def end_overfull(self, words: str) -> None:
        """End it as failed, with these words: its volume holds more than it may."""
        if not self.state.is_terminal and not self.is_stopping:
            self.overfull = words
            if self.group is not None:
                await asyncio.to_thread(self.group.kill)
            elif self._process is not None:
                self._process.kill()

    async def kill(self) -> None:
        self.is_stopping = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        if self.group is not None:
            await asyncio.to_thread(self.group.kill)
        if self._watch is not None:
            await self.ended.wait()
            await self._watch

    def listening_ports(self) -> tuple[int, ...]:
        """What the app listens on, by the launcher's view of the namespace they share."""
        found: set[int] = set()
        for name in ("tcp", "tcp6"):
            with contextlib.suppress(OSError, ValueError):
                found |= parse_listening(Path(f"/proc/{self.pid}/net/{name}").read_text(encoding="utf-8"))
        caught = {53, *self.egress.policy.ports, *(port for _, port in self.egress.policy.allow)}
        return tuple(sorted(found - caught))

    def note_refusal(self, target: str, why: str) -> None:
        """One line in the app's own log for each address that it may not call, the first time it calls it."""
        if target in self._noted or len(self._noted) >= _MAX_NOTES or self.state.is_terminal:
            return
        self._noted.add(target)
        task = asyncio.get_running_loop().create_task(self._keep([f"[network: {target} was refused: {why}]"]))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    def _open_door(self) -> socket.socket:
        self.door_path.unlink(missing_ok=True)
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            door.bind(str(self.door_path))
            os.chmod(self.door_path, 0o600)
            door.listen(512)
        except OSError as error:
            door.close()
            raise Broken(f"no door at {self.door_path}: {error}") from error
        return door

    def _on_packet(self) -> None:
        assert self._control is not None
        try:
            raw, ancillary, _, _ = self._control.recvmsg(65536, socket.CMSG_SPACE(4 * 64))
        except BlockingIOError:
            return
        except OSError:
            raw, ancillary = b"", []
        if not raw:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            return
        event = json.loads(raw)
        if event["event"] == "listeners":
            self.egress.attach(receive_listeners(raw, ancillary))
            return
        if event["event"] == "started":
            self.missing = tuple(event["missing"])
        else:
            self._status = event
        if not self._begun.done():
            self._begun.set_result(None)

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while data := await process.stdout.read(_READ_BYTES):
            lines = self.meter.feed(data, time.monotonic())
            await self._keep(lines)
            if self.meter.is_flooded:
                # Not reading fast is what holds a flood back: its pipe fills and the app waits.
                await asyncio.sleep(_FLOOD_PAUSE_S)
        code = await process.wait()
        await self._keep(self.meter.finish())
        assert self._control is not None
        loop = asyncio.get_running_loop()
        while loop.remove_reader(self._control.fileno()):
            with contextlib.suppress(OSError):
                while not self._status:
                    raw = self._control.recv(65536)
                    if not raw:
                        break
                    event = json.loads(raw)
                    self._status = event if event["event"] in ("exited", "failed") else self._status
        self._control.close()
        self._control = None
        await self.egress.close()
        await asyncio.gather(*self._notes)
        self._conclude(code)
        self.door_path.unlink(missing_ok=True)
        if self.group is not None:
            await asyncio.to_thread(self.group.kill)
            self.group.remove()
        if not self._begun.done():
            self._status = self._status or {"event": "failed", "message": f"the launcher ended with status {code}"}
            self._begun.set_result(None)
        self.ended.set()
        self._on_end(self)

    async def _keep(self, lines: list[str]) -> None:
        if lines:
            try:
                await self._log(self.spec.space_id, self.spec.replica_id, lines)
            except Exception:
                # A log that cannot be written (a full disk) must not end the app nor stop the watch over it.
                _logger.exception("app_log_failed", extra={"space_id": self.spec.space_id})

    def _conclude(self, code: int) -> None:
        if self.is_stopping:
            self.state = ReplicaState.STOPPED
            return
        self.state = ReplicaState.FAILED
        number = self._status.get("signal") or (-code if code < 0 else 0)
        self.exit_code = 128 + number if number else self._status.get("code", code)
        how = f"by signal {number}" if number else f"with status {self.exit_code}"
        if self.overfull:
            self.reason, self.message = Reason.APP_DISK_FULL, self.overfull
        elif self._status.get("event") == "failed" or (not self._status and code == _LAUNCHER_FAILED):
            self.reason, self.message = Reason.PLATFORM_ERROR, str(self._status.get("message", "the sandbox could not be made"))
        elif self.group is not None and self.group.oom_kills() > 0:
            self.reason, self.message = Reason.APP_OUT_OF_MEMORY, f"{Reason.APP_OUT_OF_MEMORY.words} It was ended {how}."
        elif self._status.get("disk_full"):
            self.reason, self.message = Reason.APP_DISK_FULL, f"{Reason.APP_DISK_FULL.words} It ended {how}."
        else:
            self.reason, self.message = Reason.APP_EXITED, f"The app ended {how}."
