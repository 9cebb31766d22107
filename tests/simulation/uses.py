"""Who uses how much: an account of its own, from what owners want and what really runs. It asks no code under test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from control_plane.accounts.quotas import PLATFORM
from control_plane.domain.hardware import DEFAULT_FLAVORS
from control_plane.domain.ids import AccountId, RepoId, SpaceId
from control_plane.domain.spaces import DesiredState, Space
from control_plane.ports.clock import Clock
from tests.simulation.cluster import Pod, SimulatedCluster
from tests.simulation.rows import Rows

FLAVORS = {flavor.name: flavor for flavor in DEFAULT_FLAVORS}
_SLACK = 1e-6


class Uses:
    """Looked at after each change of a Space and of what runs; `overrun(what)` is called for every limit that was passed."""

    def __init__(self, rows: Rows, clock: Clock, overrun: Callable[[str], None]) -> None:
        self.rows, self.clock, self._overrun = rows, clock, overrun
        self.cluster: SimulatedCluster | None = None  # what really runs, once there is one
        self._most: dict[SpaceId, tuple[float, int]] = {}
        self._use: dict[AccountId, dict[str, float]] = {}
        self._on_gpus: dict[AccountId, set[SpaceId]] = {}

    def most_wanted(self, space_id: SpaceId) -> int:
        """Replicas that the owner wants; what was on its way when the number was lowered may still come."""
        at, before = self._most.get(space_id, (0.0, 0))
        now = self.rows.spaces_by_id[space_id].replicas
        return max(now, before) if self.clock.monotonic() - at < 5 else now

    def saved(self, space: Space) -> None:
        at, before = self._most.get(space.id, (0.0, 0))
        if space.replicas >= before or self.clock.monotonic() - at > 5:
            self._most[space.id] = self.clock.monotonic(), space.replicas
        self.changed(space.id)

    def changed(self, space_id: SpaceId) -> None:
        self._check_account(self.rows.repos_by_id[RepoId(space_id)].owner_id)

    def _demand(self, account_id: AccountId) -> tuple[dict[str, float], set[SpaceId]]:
        """What its owner's Spaces are let in for or really run, by key; and those on GPUs."""
        use: dict[str, float] = {"running": 0.0, "vcpu": 0.0, "memory-gb": 0.0}
        on_gpus = set()
        for space_id in self.rows.spaces_of[account_id]:
            space = self.rows.spaces_by_id[space_id]
            counts: dict[str, int] = {}
            if space.desired is DesiredState.RUNNING and not space.asleep:
                for generation in (space.generation, space.live_generation):
                    version = self.rows.deployments_by_key.get((space_id, generation))
                    if version is not None and version.failed_reason is None:
                        counts[space.hardware] = space.replicas
                        if FLAVORS[space.hardware].has_gpu:
                            on_gpus.add(space_id)
            versions: Counter[tuple[str, int]] = Counter()
            for pod in self._pods(space_id):
                if pod.is_up and not pod.was_lost:
                    versions[pod.flavor.name, pod.generation] += 1
            # What was let in and is on its way when its Space is paused still comes up for a moment: it has kept its room until then.
            under_way = Counter((replica.hardware, replica.generation) for replica in self.rows.open[space_id].values())
            for (flavor, _), count in (*versions.items(), *under_way.items()):
                counts[flavor] = max(counts.get(flavor, 0), count)
            if counts:
                use["running"] += max(counts.values())
                use["vcpu"] += max(count * FLAVORS[name].vcpu for name, count in counts.items())
                use["memory-gb"] += max(count * FLAVORS[name].memory_gb for name, count in counts.items())
                for name, count in counts.items():
                    use[f"running.{name}"] = use.get(f"running.{name}", 0.0) + count
        return use, on_gpus

    def _check_account(self, account_id: AccountId) -> None:
        """No change may bring an account above a limit, or further above one that was lowered under it."""
        use, on_gpus = self._demand(account_id)
        before, gpus_before = self._use.get(account_id, {}), self._on_gpus.get(account_id, set())
        self._use[account_id], self._on_gpus[account_id] = use, on_gpus
        account = self.rows.accounts_by_id[account_id]
        limits = self.rows.limits_of[PLATFORM] | self.rows.limits_of[account.name]
        for key, amount in use.items():
            limit = limits.get(key)
            if limit is not None and amount > max(limit, before.get(key, 0.0)) + _SLACK:
                self._overrun(f"{account.name} {key}: {before.get(key, 0)} → {amount} of {limit}")
        limit = limits.get("gpu-hours")
        if limit is not None and on_gpus - gpus_before and self.gpu_hours(account_id) >= limit + (_SLACK if limit else 0):
            self._overrun(f"{account.name} gpu-hours: {self.gpu_hours(account_id)} of {limit}, and {on_gpus - gpus_before} came up")

    def _pods(self, space_id: SpaceId) -> tuple[Pod, ...]:
        return tuple(self.cluster.of_space.get(space_id, {}).values()) if self.cluster else ()

    def gpu_hours(self, account_id: AccountId) -> float:
        """Of this month, from every replica that there ever was: as long as a Space is its own, an account pays for what runs of it."""
        now, total = self.clock.now(), 0.0
        since = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        running = [replica for space_id in self.rows.spaces_of[account_id] for replica in self.rows.open[space_id].values()]
        for replica in (*self.rows.ended[account_id].values(), *running):
            if replica.started_at is not None:
                seconds = ((replica.stopped_at or now) - max(replica.started_at, since)).total_seconds()
                total += max(0.0, seconds) / 3600 * FLAVORS[replica.hardware].gpu_count
        return total
