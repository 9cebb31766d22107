"""Spaces: cards, the gallery, a Space's own page, its pushes and logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from control_plane.domain.timeline import Timeline


@dataclass(frozen=True, slots=True)
class StageBadge:
    """`tone`: run, sleep, work, fail or off. `label` is a catalogue sentence; `detail` follows it after a dot."""

    stage: str
    tone: str
    label: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SpaceCard:
    owner: str
    name: str
    title: str
    emoji: str
    color_from: str
    color_to: str
    description: str
    sdk: str
    hardware: str
    stage: StageBadge
    likes: int
    updated_at: datetime
    visibility: str = "public"
    thumbnail: str = ""  # address on this site, "" = the emoji pane
    tags: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return f"/spaces/{self.owner}/{self.name}"


@dataclass(frozen=True, slots=True)
class GalleryQuery:
    """Every state of the gallery; the URL carries all of it."""

    q: str = ""
    sdk: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    owner: str = ""
    running: bool = False
    sort: str = "trending"
    page: int = 1
    page_size: int = 24


@dataclass(frozen=True, slots=True)
class Gallery:
    """`is_exact`: False when `total` are only those that are known to match."""

    cards: tuple[SpaceCard, ...]
    has_next: bool
    total: int
    running: int
    hardware_names: tuple[str, ...] = ()
    is_exact: bool = True


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """A repository that the Space mounts. `source` and `address` are "" for people who may not know it."""

    kind: str  # model, dataset or space
    source: str
    address: str  # path of its page
    mount_path: str
    revision: str = ""
    path: str = ""
    commit: str = ""  # that runs


@dataclass(frozen=True, slots=True)
class SpacePage:
    """The head of every Space page and what the App tab needs."""

    card: SpaceCard
    subdomain: str
    app_url: str
    frame_url: str  # what the page frames; for a private app it carries a short proof
    revision: str  # commit being served, "" = none
    head: str  # newest commit of main, "" = empty repository
    requested_hardware: str
    current_hardware: str
    message: str
    reason: str
    liked: bool
    can_write: bool
    can_admin: bool
    can_read_code: bool
    timeline: Timeline | None
    git_url: str
    log_tail: tuple[str, ...] = ()
    position: int | None = None
    eta_s: float | None = None
    full_width: bool = True
    header: str = "default"
    has_app_file: bool = True
    origin: str = ""
    tags: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    volumes: tuple[VolumeRow, ...] = ()
    license: str = ""
    asleep: bool = False
    serves: bool = False
    may_embed: bool = True
    discussions: int = 0
    image_command: str = ""  # runs the app's image elsewhere; "" where there is none, or for people who may not have it


@dataclass(frozen=True, slots=True)
class ImportStep:
    """One line of an import. The last one has the `path` of the new Space."""

    words: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """One step of a Space's event stream; `id` resumes it."""

    id: int
    kind: str
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A line with its number. `at` is when it was printed."""

    number: int
    at: datetime
    text: str


@dataclass(frozen=True, slots=True)
class LogPage:
    lines: tuple[LogEntry, ...]
    next_number: int
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class BuildRow:
    id: str
    revision: str
    title: str
    status: str
    created_at: datetime
    seconds: float | None
    message: str = ""
