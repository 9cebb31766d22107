"""Bringing a repository from another git server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from control_plane.domain.ids import RepoId

Room = Callable[[int], Awaitable[None]]  # told how many bytes of large files are about to come; QuotaExceeded when there is no room
Source = Callable[[RepoId, Room], Awaitable[None]]  # fills an empty repository, main included
Say = Callable[[str], None]  # what is going on now, one line for a person


class GitImport(Protocol):
    def check(self, url: str, branch: str) -> None:
        """Rejected with the rule for an address that can never be asked. Looks nothing up."""

    async def bring(self, url: str, branch: str, into: RepoId, say: Say, room: Room) -> None:
        """main of `into`, which is empty, becomes `branch` ("" = the other side's default) with its history, large files included.

        Rejected in words: an address that leads to a private network, a server that refuses or sends elsewhere, too much,
        too long, content that a push could not bring either. Nothing of it is left then but unreferenced objects.
        """
