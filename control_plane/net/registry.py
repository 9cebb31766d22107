"""The platform's own connection to the registry, and signing in with tokens that it makes itself."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from typing import Protocol

import httpx

from control_plane.domain.errors import Unavailable
from control_plane.net.authorities import trust


class Sign(Protocol):
    """Makes a bearer token with these rights: "repository:NAME" or "registry:catalog" → actions. `life_s` in seconds."""

    def __call__(self, rights: Mapping[str, Sequence[str]], *, life_s: float = 3600.0) -> str: ...


NODE = "vitrine-node"  # the name under which nodes of a cluster ask for tokens; the password says for which repository
_OF_REPOSITORY = re.compile(r"/v2/(.+)/(?:manifests|blobs|tags)/")


class SignedAuth(httpx.Auth):
    """Each request carries a token with the rights that it needs."""

    def __init__(self, sign: Sign) -> None:
        self._sign = sign

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._sign(_needed(request.method, request.url.path))}"
        yield request


def _needed(method: str, path: str) -> dict[str, Sequence[str]]:
    if path == "/v2/_catalog":
        return {"registry:catalog": ("*",)}
    found = _OF_REPOSITORY.match(path)
    return {f"repository:{found.group(1)}": ("delete",) if method == "DELETE" else ("pull",)} if found else {}


async def connect(host: str, auth: httpx.Auth | None, transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """A client for `host`: https, or plain http where the registry speaks only that. The caller closes it.

    Raises Unavailable when the registry does not answer, refuses the sign-in, or has a certificate of somebody we do not know.
    """
    for scheme in ("https", "http"):
        client = httpx.AsyncClient(
            base_url=f"{scheme}://{host}", auth=auth, timeout=30, trust_env=False, transport=transport, verify=trust()
        )  # fmt: skip
        try:
            if (await client.get("/v2/")).status_code == 200:
                return client
        except httpx.HTTPError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                await client.aclose()
                raise Unavailable(f"the certificate of the registry {host} is not trusted; set SSL_CERT_FILE") from error
        await client.aclose()
    raise Unavailable(f"the registry {host} does not answer, or refuses VITRINE_REGISTRY_USER")
