"""Own scripts and styles under `/static/<version>/…`, kept by browsers for a year because the version changes with them."""

from __future__ import annotations

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from web.page import STATIC_FOLDER


class VersionedFiles(StaticFiles):
    """Serves `STATIC_FOLDER`; the first folder of the path is the version and is not looked at."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        _, _, rest = path.partition("/")
        response = await super().get_response(rest, scope)
        headers = response.headers
        headers["Cache-Control"] = "public, max-age=31536000, immutable"
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response


def static_files() -> VersionedFiles:
    """To be mounted at `/static`."""
    return VersionedFiles(directory=STATIC_FOLDER)
