"""Finding a request's route among hundreds: only those that an address of its shape can mean are asked, in their order.

The framework asks every route in turn, and with routers inside routers it asks anew at each level: that was half of what a small
request cost this process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache

from fastapi import APIRouter, FastAPI, Request
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Receive, Scope, Send

_DEEPEST = 6  # segments that are looked at; later ones are left to the routes' own patterns
_ANY = ""  # stands for a segment that no route names at its place
_KEPT = 4096  # shapes whose routes are remembered


def join(router: APIRouter | FastAPI, part: APIRouter) -> None:
    """The routes of `part`, as they are, behind those of `router`. It has no prefix or dependency to add to them."""
    routes = router.router.routes if isinstance(router, FastAPI) else router.routes
    routes.extend(part.routes)


class _Shape:
    """What an address of a route looks like: its fixed words by place, and how many segments it has."""

    def __init__(self, route: BaseRoute) -> None:
        self.words: dict[int, str] = {}
        self.is_open = True  # more segments may follow
        self.count = 0
        if not isinstance(route, Route | Mount):
            return
        ends_open = isinstance(route, Mount)
        path = route.path if ends_open else route.path_format
        for segment in path.removeprefix("/").split("/"):
            if any(convertor.regex == ".*" and f"{{{name}}}" in segment for name, convertor in route.param_convertors.items()):
                ends_open = True
                break
            if "{" not in segment:
                self.words[self.count] = segment
            self.count += 1
        self.is_open = ends_open

    def fits(self, count: int, words: tuple[str, ...]) -> bool:
        if count < self.count or (count > self.count and not self.is_open):
            return False
        return all(words[place] == word for place, word in self.words.items() if place < len(words))


class RouteIndex:
    """ASGI app in the place of the router's own. `before` runs ahead of each route that is found and may raise.

    What no route answers as it is asked for (another method, a slash too many, nothing) goes to the router.
    """

    def __init__(self, router: APIRouter, before: Callable[[Request], Awaitable[None]]) -> None:
        self._otherwise = router.middleware_stack
        self._before = before
        shapes = [(_Shape(route), route) for route in router.routes]
        self._words = [{shape.words[place] for shape, _ in shapes if place in shape.words} for place in range(_DEEPEST)]

        @lru_cache(maxsize=_KEPT)
        def candidates(count: int, words: tuple[str, ...]) -> tuple[BaseRoute, ...]:
            return tuple(route for shape, route in shapes if shape.fits(count, words))

        self._candidates = candidates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            route, found = self.find(scope)
            if route is not None:
                await self._before(Request(scope, receive))
                scope.update(found)
                await route.handle(scope, receive, send)
                return
        await self._otherwise(scope, receive, send)

    def find(self, scope: Scope) -> tuple[BaseRoute | None, Scope]:
        """The first route that answers the address and method as they are, and what it adds to the scope."""
        segments = scope["path"].removeprefix("/").split("/")
        words = tuple(word if word in known else _ANY for word, known in zip(segments, self._words, strict=False))
        for route in self._candidates(min(len(segments), 2 * _DEEPEST), words):
            match, found = route.matches(scope)
            if match is Match.FULL:
                return route, found
        return None, {}


def install_index(app: FastAPI, before: Callable[[Request], Awaitable[None]]) -> None:
    """Call when every route is there."""
    app.router.middleware_stack = RouteIndex(app.router, before)
