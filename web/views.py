"""What pages show: frozen values made of primitives. Templates see these and nothing else.

Times are aware UTC, durations seconds, sizes bytes, prices US dollars per hour. `msg` fields hold English sentences that
the message catalogues translate; everything else is shown as it is (and escaped).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

# ---------------------------------------------------------------- who looks


@dataclass(frozen=True, slots=True)
class Viewer:
    """The person in front of the page. `name` is "" for a stranger."""

    name: str = ""
    fullname: str = ""
    is_admin: bool = False
    namespaces: tuple[str, ...] = ()  # own name first, then organisations one may write to


@dataclass(frozen=True, slots=True)
class PlatformFacts:
    """Things true for the whole site. `public_url` has no trailing slash; `frame_source` is a CSP source for apps."""

    public_url: str
    frame_source: str
    sign_up_open: bool = True
    banner: str = ""
    single_sign_on: str = ""  # label of the provider, "" = none


# ---------------------------------------------------------------- Spaces


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
    cards: tuple[SpaceCard, ...]
    has_next: bool
    total: int
    running: int
    hardware_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TimelineStep:
    """`state`: done, now, todo or failed. `key` is a catalogue word such as "Building"."""

    key: str
    state: str
    detail: str = ""
    seconds: float | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """One push on its way. `fraction` 0…1 or None; `usual_s` is the estimate from this Space's history."""

    revision: str
    title: str
    author: str
    at: datetime
    steps: tuple[TimelineStep, ...]
    fraction: float | None = None
    usual_s: float | None = None
    took_s: float | None = None
    serving: str = ""  # the revision that keeps serving meanwhile
    build_id: str = ""
    is_over: bool = False


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
    license: str = ""
    asleep: bool = False
    serves: bool = False
    may_embed: bool = True
    discussions: int = 0


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


# ---------------------------------------------------------------- repositories


@dataclass(frozen=True, slots=True)
class RepoPage:
    """The head of a repository page. `kind`: space, model or dataset. `base` is its address on this site."""

    kind: str
    owner: str
    name: str
    base: str
    visibility: str
    likes: int
    liked: bool
    updated_at: datetime
    head: str
    can_write: bool
    can_admin: bool
    git_url: str
    tags: tuple[str, ...] = ()
    license: str = ""
    storage_bytes: int = 0
    can_read_code: bool = True


@dataclass(frozen=True, slots=True)
class RepoRow:
    kind: str
    owner: str
    name: str
    base: str
    likes: int
    updated_at: datetime
    visibility: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileRow:
    name: str
    path: str
    is_dir: bool
    size: int
    lfs: bool = False
    note: str = ""  # "link", "submodule"
    commit: str = ""
    commit_title: str = ""
    commit_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TreeView:
    """`is_branch`: files can be changed here. `readme` is Markdown text without its front matter."""

    rev: str
    sha: str
    path: str
    rows: tuple[FileRow, ...]
    is_branch: bool
    branches: tuple[str, ...] = ()
    readme: str = ""
    last: CommitRow | None = None
    commits: int = 0


@dataclass(frozen=True, slots=True)
class BlobView:
    """`text` is None for what is not shown as text (binary, LFS, larger than the page shows)."""

    rev: str
    sha: str
    path: str
    size: int
    text: str | None
    is_branch: bool
    lfs: bool = False
    lfs_oid: str = ""
    is_image: bool = False
    last: CommitRow | None = None


@dataclass(frozen=True, slots=True)
class CommitRow:
    sha: str
    title: str
    message: str
    author: str
    at: datetime
    is_live: bool = False
    can_deploy: bool = False


@dataclass(frozen=True, slots=True)
class CommitsView:
    rev: str
    rows: tuple[CommitRow, ...]
    total: int
    page: int
    has_next: bool


@dataclass(frozen=True, slots=True)
class CommitView:
    commit: CommitRow
    parent: str
    diff: str


# ---------------------------------------------------------------- settings


@dataclass(frozen=True, slots=True)
class HardwareOption:
    """One tier. `units_total` None = not bounded here. `refusal` says why it cannot be chosen ("" = it can)."""

    name: str
    pretty_name: str
    vcpu: float
    memory_gb: float
    gpu: str
    gpu_memory_gb: int
    price_per_hour: float
    units_total: int | None = None
    units_free: int | None = None
    queue_position: int | None = None
    wait_s: float | None = None
    refusal: str = ""
    is_requested: bool = False
    is_current: bool = False


@dataclass(frozen=True, slots=True)
class QuotaRow:
    """`limit` None = unlimited; amounts in the unit of the key."""

    key: str
    limit: float | None
    used: float
    source: str = ""
    frees_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SettingRow:
    key: str
    value: str  # always "" for a secret
    description: str
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class SettingsView:
    options: tuple[HardwareOption, ...]
    quotas: tuple[QuotaRow, ...]
    sleep_after_s: int | None
    variables: tuple[SettingRow, ...]
    secrets: tuple[SettingRow, ...]
    visibility: str
    desired: str  # running or paused
    storage_bytes: int = 0


# ---------------------------------------------------------------- people


@dataclass(frozen=True, slots=True)
class Profile:
    name: str
    fullname: str
    kind: str  # user or org
    since: datetime
    spaces: tuple[SpaceCard, ...]
    repos: tuple[RepoRow, ...]
    groups: tuple[tuple[str, str], ...] = ()  # of a user: (org, role); of an org: (user, role)
    likes: tuple[SpaceCard, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenRow:
    id: str
    name: str
    role: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    scopes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SessionRow:
    id: str
    created_at: datetime
    expires_at: datetime
    user_agent: str
    address: str
    is_this: bool


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session: `cookie` goes to the browser once and is kept nowhere."""

    cookie: str
    expires_at: datetime
    name: str


# ---------------------------------------------------------------- community


@dataclass(frozen=True, slots=True)
class DiscussionRow:
    number: int
    title: str
    author: str
    status: str  # open, closed, merged, draft
    is_pull_request: bool
    created_at: datetime
    comments: int = 0


@dataclass(frozen=True, slots=True)
class DiscussionEntry:
    """`kind`: comment, status or commit. `text` is Markdown for a comment, a plain sentence otherwise."""

    kind: str
    author: str
    at: datetime
    text: str
    is_hidden: bool = False


@dataclass(frozen=True, slots=True)
class DiscussionPage:
    row: DiscussionRow
    entries: tuple[DiscussionEntry, ...]
    can_comment: bool
    can_close: bool
    can_merge: bool
    diff: str = ""
    conflicts: tuple[str, ...] = ()  # files that both sides changed
    preview: SpaceCard | None = None  # the running app of a pull request
    can_preview: bool = False


# ---------------------------------------------------------------- analytics and admin


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure with its unit; `text` is ready to show, "" = not measured yet."""

    label: str
    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class AnalyticsView:
    measures: tuple[Measure, ...]
    history: tuple[tuple[datetime, str, str], ...] = ()  # when, what (catalogue word), detail


@dataclass(frozen=True, slots=True)
class UserRow:
    name: str
    fullname: str
    kind: str
    is_admin: bool
    is_suspended: bool
    created_at: datetime
    spaces: int


@dataclass(frozen=True, slots=True)
class PoolRow:
    """Units of replicas of one flavor in one pool; None where nobody counts them now."""

    name: str
    flavor: str
    nodes: int | None
    total: int | None
    used: int
    free: int | None
    queued: int


@dataclass(frozen=True, slots=True)
class AdminBuildRow:
    space: str
    row: BuildRow


@dataclass(frozen=True, slots=True)
class AuditRow:
    at: datetime
    actor: str
    action: str
    subject: str
    address: str
    facts: str


@dataclass(frozen=True, slots=True)
class UsageRow:
    account: str
    key: str
    flavor: str
    amount: float
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class AdminOverview:
    counts: tuple[Measure, ...]
    running: tuple[SpaceCard, ...]
    builds: tuple[AdminBuildRow, ...]
    pools: tuple[PoolRow, ...]
    quota_keys: tuple[str, ...] = ()
