"""A small working platform in memory, for page tests and pictures: a few Spaces, one person, one organisation."""

from __future__ import annotations

from tests.fakes.web_backend.admin import Admin
from tests.fakes.web_backend.community import Community
from tests.fakes.web_backend.repositories import Repositories
from tests.fakes.web_backend.spaces import Spaces
from tests.fakes.web_backend.world import LONG as LONG
from tests.fakes.web_backend.world import NEW as NEW
from tests.fakes.web_backend.world import NOW as NOW
from tests.fakes.web_backend.world import SHA as SHA


class MemoryWebBackend(Admin, Community, Repositories, Spaces):
    """`web.backend.WebBackend`, one class per family of it."""
