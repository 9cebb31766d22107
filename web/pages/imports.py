"""A new Space from another git server: the answer is a page that grows while the import goes on, without any script."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from fastapi.responses import StreamingResponse
from markupsafe import escape

from control_plane.domain.errors import VitrineError
from web.page import Pages, Visit, error_view

_MARK = "<!-- the steps come here -->"


async def importing(pages: Pages, visit: Visit, form: dict[str, object]) -> StreamingResponse:
    """Raises what is wrong with the form before anything is sent; later refusals are said on the page."""
    text = {key: str(value) for key, value in form.items()}
    steps = pages.backend.import_space(
        visit.actor, text["owner"], text["name"], text["sdk"], text["visibility"], text["hardware"], text["source"], text["branch"]
    )
    first = await anext(steps)
    page = pages.fragment(visit, "importing.html", form=text, mark=_MARK)
    head, _, tail = page.partition(_MARK)

    async def body() -> AsyncIterator[str]:
        yield f"{head}<li>{escape(visit.t(first.words))}</li>\n"
        end = ""
        try:
            async with aclosing(steps):  # who leaves the page ends the import
                async for step in steps:
                    if step.path:
                        end = pages.fragment(visit, "parts/imported.html", path=step.path)
                    else:
                        yield f"<li>{escape(visit.t(step.words))}</li>\n"
        except VitrineError as error:
            end = pages.fragment(visit, "parts/import_failed.html", failure=error_view(error))
        yield f"</ol>{end}{tail}"

    headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
    return StreamingResponse(body(), media_type="text/html; charset=utf-8", headers=headers)
