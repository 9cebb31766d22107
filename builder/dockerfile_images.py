"""Which images a Docker Space may build on. Pure.

The engine that builds holds the images of every Space, and can reach the platform's registry: a name that leads to either would be
another owner's files.
"""

from __future__ import annotations

import ipaddress
import re

_BASES = re.compile(r"vitrine/python(?:-gpu)?(?::[\w.-]+)?\Z")
_HEX = re.compile(r"(?:sha256:)?[0-9a-f]+\Z")
_INNER = (".localhost", ".internal", ".local", ".lan", ".svc")


def check_image(name: str, registry: str) -> str:
    """What is wrong with this name, "" when nothing is. `registry`: the platform's own, "host:port/prefix"."""
    if not name:
        return "FROM names no image"
    if name == "scratch" or _BASES.match(name):
        return ""
    if name.startswith(("vitrine/", "docker.io/vitrine/")):
        return f"{name[:80]!r} is not one of the platform's base images"
    if _HEX.match(name):
        return f"{name[:80]!r} is an image's id; images are named as registry/name:tag"
    host, slash, _ = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        return ""  # of the engine's usual registry
    if registry and host.lower() == registry.partition("/")[0].lower():
        return "images of the platform's own registry are other people's Spaces"
    return f"the registry {host[:80]!r} is on a private address" if _is_inner(host) else ""


def _is_inner(host: str) -> bool:
    bare = host.rpartition(":")[0] if re.search(r":\d+\Z", host) else host
    bare = bare.strip("[]").rstrip(".").lower()
    if bare.endswith(_INNER) or "." not in bare.replace(":", "."):
        return True
    if re.fullmatch(r"0x[0-9a-f]+|\d+", bare):
        return True
    try:
        return not ipaddress.ip_address(bare).is_global
    except ValueError:
        return bool(re.fullmatch(r"[0-9.x]+", bare))
