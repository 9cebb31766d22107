"""Plain HTTP where HTTPS is spoken: sent on to https, apart from apps in their sandbox, which reach the Hub by its inner name."""

from __future__ import annotations

from control_plane.proxy import routing
from control_plane.proxy.client import ClientConnection
from control_plane.proxy.core import Core
from control_plane.proxy.heads import RequestHead
from control_plane.proxy.start_line import StartLine
from control_plane.proxy.table import Entry


class PlainDoorConnection(ClientConnection):
    def __init__(self, core: Core, address: str = "") -> None:
        super().__init__(core, address, b"http")

    def _express(self, line: StartLine) -> bool:
        return False

    def decide(self, head: RequestHead, is_platform: bool, entry: Entry | None, ours: bool) -> None:
        if self.core.is_inner(head.host):
            super().decide(head, is_platform, entry, ours)
        else:
            routing.to_https(self, head)
