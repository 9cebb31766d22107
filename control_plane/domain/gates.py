"""Gated models and datasets: everybody may see that they exist and what they are; the bytes are for those who were let in.

RequestStatus:  PENDING ⇄ ACCEPTED ⇄ REJECTED ⇄ PENDING   (the owner may move a request anywhere; the person only asks, once)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from control_plane.domain.ids import AccountId, RepoId


class Gate(StrEnum):
    """How people are let in. OPEN: no gate; AUTO: whoever asks; MANUAL: whom the owner accepts."""

    OPEN = ""
    AUTO = "auto"
    MANUAL = "manual"


class RequestStatus(StrEnum):
    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """One person's request for one repository. `fields`: what they wrote when they asked; `reason`: why it was rejected."""

    id: str
    repo_id: RepoId
    user_id: AccountId
    status: RequestStatus
    at: datetime
    fields: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    is_granted: bool = False  # let in by the owner without having asked
