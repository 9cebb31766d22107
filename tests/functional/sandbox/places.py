"""A data directory with bundles in it, and a process runtime over it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.hardware import Flavor
from control_plane.domain.ids import ReplicaId, Sha, SpaceId, new_id
from control_plane.domain.replicas import Mount, ReplicaObservation, ReplicaSpec, ReplicaState
from control_plane.domain.sensitive import Sensitive
from control_plane.net.dial import DialError, dial
from control_plane.runtimes.process.runtime import ProcessRuntime

SMALL = Flavor("small", "Small", vcpu=1, memory_gb=0.25, disk_gb=1, price_per_hour=0, pids_max=64, open_files_max=512)


class Place:
    """One data directory. `close()` removes it; the runtime is closed by its user."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="v"))  # short: socket paths are limited to 107 bytes
        self.lines: list[str] = []
        self.runtime = self.new_runtime()

    def new_runtime(self, egress_allow: tuple[str, ...] = ()) -> ProcessRuntime:
        return ProcessRuntime(self.root, self._log, egress_allow=egress_allow)

    async def _log(self, space_id: SpaceId, replica_id: ReplicaId, lines: Sequence[str]) -> None:
        self.lines.extend(lines)

    def spec(
        self,
        app: str,
        *,
        space: str = "",
        generation: int = 1,
        flavor: Flavor = SMALL,
        env: Mapping[str, str | Sensitive] | None = None,
        mounts: tuple[Mount, ...] = (),
        hub_upstream: str = "",
        files: Mapping[str, str] | None = None,
    ) -> ReplicaSpec:
        space_id, build_id = SpaceId(space or new_id()), new_id()
        tree = self.root / "bundles" / space_id / build_id / "tree"
        tree.mkdir(parents=True)
        for name, text in {"app.py": app, **(files or {})}.items():
            (tree / name).write_text(text, encoding="utf-8")
        return ReplicaSpec(
            ReplicaId(new_id()),
            space_id,
            "alice/demo",
            generation,
            Sha("0" * 40),
            Artifact(ArtifactKind.BUNDLE, f"{space_id}/{build_id}"),
            LaunchPlan(("python", "app.py"), 7860),
            flavor,
            env=env or {},
            mounts=mounts,
            hub_upstream=hub_upstream,
            hub_host="hub.vitrine.internal" if hub_upstream else "",
        )

    async def until_end(self, spec: ReplicaSpec) -> ReplicaObservation:
        """Start it and wait until it ended by itself."""
        changes = self.runtime.changes()
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)  # the subscription exists from here on
        await self.runtime.apply(spec)
        while True:
            (seen,) = await self.runtime.observe(spec.space_id)
            if seen.state in (ReplicaState.FAILED, ReplicaState.STOPPED):
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                await changes.aclose()  # type: ignore[attr-defined]
                return seen
            await waiting
            waiting = asyncio.ensure_future(anext(changes))

    async def connect(self, spec: ReplicaSpec) -> socket.socket:
        """A blocking socket to the app's port, as soon as it listens. Its own time-out is 10 s."""
        async with asyncio.timeout(60):
            while True:
                (seen,) = await self.runtime.observe(spec.space_id)
                assert seen.endpoint is not None, seen
                try:
                    sock = await dial(seen.endpoint, 5)
                except DialError:
                    # The app itself has not called listen() yet; nothing in the kernel tells when another process does.
                    await asyncio.sleep(0.01)
                    continue
                sock.settimeout(10)
                return sock

    async def poke(self, spec: ReplicaSpec) -> None:
        with await self.connect(spec) as sock:
            sock.sendall(b"x")

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
