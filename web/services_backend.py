"""The real backend of the pages, put together from its families."""

from __future__ import annotations

from typing import TYPE_CHECKING

from web.services.admin import AdminFamily
from web.services.analytics import AnalyticsFamily
from web.services.collections import CollectionsFamily
from web.services.community import CommunityFamily
from web.services.deps import WebDeps
from web.services.files import FilesFamily
from web.services.gallery import GalleryFamily
from web.services.gates import GatesFamily
from web.services.notices import NoticesFamily
from web.services.orgs import OrgsFamily
from web.services.settings import SettingsFamily
from web.services.spaces import SpaceFamily


class ServicesBackend(
    AdminFamily, CollectionsFamily, SpaceFamily, AnalyticsFamily, SettingsFamily, FilesFamily, CommunityFamily, NoticesFamily, OrgsFamily,
    GatesFamily,
):  # fmt: skip
    """Implements `web.backend.WebBackend` over use cases and stores. `close` ends its one background listener."""

    def __init__(self, deps: WebDeps) -> None:
        GalleryFamily.__init__(self, deps)
        SpaceFamily.__init__(self, deps)

    async def close(self) -> None:
        await self.live.close()


if TYPE_CHECKING:
    from web.backend import WebBackend

    def _fits(backend: ServicesBackend) -> WebBackend:
        return backend
