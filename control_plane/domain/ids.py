"""One id type per kind of thing, so that a build id can never be handed over as a space id.

Ids are 24 lower-case hex characters (the shape of the Hub's `_id`). They carry no meaning and are safe in paths,
labels and URLs.
"""

from __future__ import annotations

import secrets
from typing import NewType

AccountId = NewType("AccountId", str)  # a user or an organisation
RepoId = NewType("RepoId", str)  # a Space, model or dataset repository
SpaceId = NewType("SpaceId", str)  # the RepoId of a repository whose type is Space
BuildId = NewType("BuildId", str)
ReplicaId = NewType("ReplicaId", str)
TokenId = NewType("TokenId", str)
SessionId = NewType("SessionId", str)
Sha = NewType("Sha", str)  # 40 lower-case hex: one git commit


def new_id() -> str:
    """A fresh random 96-bit id; the only source of ids in the platform."""
    return secrets.token_hex(12)
