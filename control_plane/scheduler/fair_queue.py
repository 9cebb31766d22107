"""Who is next when hardware is short: fair between organisations, nobody starves, positions are exact. Pure.

Start-time fair queuing. Each entry gets a tag when it arrives:

    tag = max(the queue's virtual time, the owner's last tag) + cost − head start of its priority class

and the lowest tag goes first. An owner who asks for a hundred GPUs at once gets tags that lie one after another, so
another owner's first request lands between them, not behind them. Virtual time only moves forward, and a head start is
bounded, so every waiting entry is overtaken by a bounded number of later ones: that is the no-starvation argument.

Entries of one flavor have one shape; they are kept in one sorted row per flavor. When the first of a row does not fit,
none of that row does, so looking for work costs one try per flavor and never a walk over everyone who waits.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import IntEnum

from control_plane.domain.ids import ReplicaId


class PriorityClass(IntEnum):
    """Higher goes first. A class is a head start of a bounded number of units, not an absolute right of way."""

    LOW = 0
    NORMAL = 1
    HIGH = 2

    @property
    def head_start(self) -> float:
        """In cost units (1 = one GPU, or one CPU replica) of virtual time."""
        return {PriorityClass.LOW: 0.0, PriorityClass.NORMAL: 8.0, PriorityClass.HIGH: 64.0}[self]


@dataclass(frozen=True, slots=True, order=True)
class _Entry:
    tag: float
    number: int
    replica_id: ReplicaId


@dataclass(frozen=True, slots=True)
class _Known:
    flavor: str
    owner: str
    entry: _Entry
    start: float


class FairQueue:
    """Waiting replicas, ordered by tag. `owner` is the user's or organisation's name."""

    def __init__(self) -> None:
        self._rows: dict[str, list[_Entry]] = {}
        self._known: dict[ReplicaId, _Known] = {}
        self._last_tag: dict[str, float] = {}
        self._waiting_of: dict[str, int] = {}
        self._virtual = 0.0
        self._number = 0

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, replica_id: ReplicaId) -> bool:
        return replica_id in self._known

    def push(
        self, replica_id: ReplicaId, flavor: str, owner: str, *, cost: float = 1.0, priority: PriorityClass = PriorityClass.NORMAL
    ) -> None:
        """Join the queue. A second push of the same replica changes nothing: asking again does not cost its place."""
        if replica_id in self._known:
            return
        start = max(self._virtual, self._last_tag.get(owner, 0.0))
        self._last_tag[owner] = start + cost
        self._number += 1
        entry = _Entry(start + cost - priority.head_start, self._number, replica_id)
        self._known[replica_id] = _Known(flavor, owner, entry, start)
        self._waiting_of[owner] = self._waiting_of.get(owner, 0) + 1
        insort(self._rows.setdefault(flavor, []), entry)

    def remove(self, replica_id: ReplicaId, *, served: bool = False) -> bool:
        """Leave the queue. `served` moves virtual time forward; a cancelled entry must not. False when it did not wait."""
        known = self._known.pop(replica_id, None)
        if known is None:
            return False
        row = self._rows[known.flavor]
        del row[bisect_left(row, known.entry)]
        if not row:
            del self._rows[known.flavor]
        if served:
            self._virtual = max(self._virtual, known.start)
        left = self._waiting_of[known.owner] - 1
        if left:
            self._waiting_of[known.owner] = left
        else:
            del self._waiting_of[known.owner]
            if self._last_tag[known.owner] <= self._virtual:
                del self._last_tag[known.owner]  # nothing to remember: it would start at virtual time anyway
        if not self._known:
            self._last_tag.clear()  # an empty queue owes nobody anything
        return True

    def first(self, flavor: str) -> ReplicaId | None:
        """Who is next of this flavor; None when nobody waits for it."""
        row = self._rows.get(flavor)
        return row[0].replica_id if row else None

    def flavor_of(self, replica_id: ReplicaId) -> str | None:
        known = self._known.get(replica_id)
        return known.flavor if known else None

    def heads(self, flavors: Collection[str]) -> tuple[tuple[str, ReplicaId], ...]:
        """The first entry of each of these flavors as (flavor, replica), lowest tag first."""
        first = sorted((self._rows[flavor][0], flavor) for flavor in flavors if flavor in self._rows)
        return tuple((flavor, entry.replica_id) for entry, flavor in first)

    def position(self, replica_id: ReplicaId, among: Collection[str]) -> int:
        """1 = next, counted over the rows of the flavors that share hardware with it."""
        entry = self._known[replica_id].entry
        return 1 + sum(bisect_left(self._rows[flavor], entry) for flavor in among if flavor in self._rows)

    def count(self, flavors: Collection[str]) -> int:
        return sum(len(self._rows[flavor]) for flavor in flavors if flavor in self._rows)

    def __iter__(self) -> Iterator[ReplicaId]:
        return iter(self._known)
