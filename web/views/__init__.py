"""What pages show: frozen values made of primitives. Templates see these and nothing else.

Times are aware UTC, durations seconds, sizes bytes, prices US dollars per hour. `msg` fields hold English sentences that
the message catalogues translate; everything else is shown as it is (and escaped).
"""

from __future__ import annotations

from control_plane.domain.timeline import Timeline, TimelineStep
from web.views.api import ApiCall, ApiFamily, ApiValue
from web.views.community import DiscussionEntry, DiscussionPage, DiscussionRow
from web.views.notices import NoticePage, NoticeRow
from web.views.operations import AdminBuildRow, AdminOverview, AnalyticsView, AuditRow, HourBar, Measure, PoolRow, UsageRow, UserRow
from web.views.people import CollectionPage, CollectionRow, MemberRow, OrgPage, Profile, SessionRow, SignedIn, TokenRow
from web.views.repositories import AccessRow, BlobView, CommitRow, CommitsView, CommitView, FileRow, RepoPage, RepoRow, TreeView
from web.views.settings import HardwareOption, QuotaRow, SettingRow, SettingsView
from web.views.site import PlatformFacts, Viewer
from web.views.spaces import (
    BuildRow,
    Gallery,
    GalleryQuery,
    ImportStep,
    LiveEvent,
    LogEntry,
    LogPage,
    SpaceCard,
    SpacePage,
    StageBadge,
    VolumeRow,
)

__all__ = [
    "AccessRow",
    "AdminBuildRow",
    "AdminOverview",
    "AnalyticsView",
    "ApiCall",
    "ApiFamily",
    "ApiValue",
    "AuditRow",
    "BlobView",
    "BuildRow",
    "CollectionPage",
    "CollectionRow",
    "CommitRow",
    "CommitView",
    "CommitsView",
    "DiscussionEntry",
    "DiscussionPage",
    "DiscussionRow",
    "FileRow",
    "Gallery",
    "GalleryQuery",
    "HardwareOption",
    "HourBar",
    "ImportStep",
    "LiveEvent",
    "LogEntry",
    "LogPage",
    "Measure",
    "MemberRow",
    "NoticePage",
    "NoticeRow",
    "OrgPage",
    "PlatformFacts",
    "PoolRow",
    "Profile",
    "QuotaRow",
    "RepoPage",
    "RepoRow",
    "SessionRow",
    "SettingRow",
    "SettingsView",
    "SignedIn",
    "SpaceCard",
    "SpacePage",
    "StageBadge",
    "Timeline",
    "TimelineStep",
    "TokenRow",
    "TreeView",
    "UsageRow",
    "UserRow",
    "Viewer",
    "VolumeRow",
]
