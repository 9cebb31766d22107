"""Who looks, and what is true for the whole site."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Viewer:
    """The person in front of the page. `name` is "" for a stranger."""

    name: str = ""
    fullname: str = ""
    is_admin: bool = False
    namespaces: tuple[str, ...] = ()  # own name first, then organisations one may write to
    unread: int = 0  # notices


@dataclass(frozen=True, slots=True)
class PlatformFacts:
    """Things true for the whole site. `public_url` has no trailing slash; `frame_source` is a CSP source for apps."""

    public_url: str
    frame_source: str
    sign_up_open: bool = True
    banner: str = ""
    single_sign_on: str = ""  # label of the provider, "" = none
    imports: bool = False  # whether a new Space may come from another git server
