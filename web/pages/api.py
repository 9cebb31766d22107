"""The API document as a page of ours: no script and nothing from elsewhere, because it stands under the name of the session cookie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from web.page import Pages, page_route
from web.views import ApiCall, ApiFamily, ApiValue

_SCHEMAS = "#/components/schemas/"


def api_router(pages: Pages) -> APIRouter:
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)

    @router.get("/docs")
    async def document(request: Request) -> Response:
        visit = await pages.visit(request)
        return pages.page(visit, "api.html", families=families(request.app.openapi()))

    return router


def families(document: Mapping[str, Any]) -> tuple[ApiFamily, ...]:
    """The calls of an OpenAPI document by their first tag, in the order of the document."""
    found: dict[str, list[ApiCall]] = {}
    schemas = document.get("components", {}).get("schemas", {})
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            values = (*_parameters(call), *_fields(call, schemas))
            good = tuple(code for code in call.get("responses", {}) if code.startswith("2"))
            title, words = str(call.get("summary", "")), str(call.get("description", ""))
            found.setdefault((call.get("tags") or ["other"])[0], []).append(ApiCall(method.upper(), path, title, words, values, good))
    return tuple(ApiFamily(name, tuple(calls)) for name, calls in found.items())


def _parameters(call: Mapping[str, Any]) -> Iterator[ApiValue]:
    for one in call.get("parameters", ()):
        yield ApiValue(one["name"], one["in"], _kind(one.get("schema", {})), bool(one.get("required")))


def _fields(call: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[ApiValue]:
    for kind, content in call.get("requestBody", {}).get("content", {}).items():
        schema = content.get("schema", {})
        schema = schemas.get(str(schema.get("$ref", "")).removeprefix(_SCHEMAS), schema)
        if not schema.get("properties"):
            yield ApiValue(kind, "body", _kind(schema), bool(call["requestBody"].get("required")))
        for name, field in schema.get("properties", {}).items():
            yield ApiValue(name, "body", _kind(field), name in schema.get("required", ()))


def _kind(schema: Mapping[str, Any]) -> str:
    """The type in a few words: `string`, `array of string`, `integer or null`, the name of a schema."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_kind(one) for one in choices))
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {_kind(schema.get('items', {}))}"
    return str(schema.get("type", "any"))
