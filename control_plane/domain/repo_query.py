"""What a listing of repositories asks for: one value for the API, the pages and the store."""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.domain.ids import AccountId
from control_plane.domain.spaces import RepoType


@dataclass(frozen=True, slots=True)
class RepoQuery:
    """Every part narrows; the default is all public repositories of the type.

    A viewer sees what is public, their own and what belongs to `viewer_orgs`. Of `sdk` and of `hardware` one must fit, of
    `tags` all must; every word of `search` must occur somewhere. `gated`: only those with a gate, or only those without.
    """

    type: RepoType
    viewer: AccountId | None = None
    viewer_orgs: tuple[AccountId, ...] = ()
    see_all: bool = False
    owner: str | None = None  # in any case
    search: str | None = None
    sdk: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()
    running_only: bool = False
    gated: bool | None = None
