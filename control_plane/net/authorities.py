"""Whose certificates count when the platform calls out."""

from __future__ import annotations

import ssl
from functools import cache

import httpx


@cache
def trust() -> ssl.SSLContext:
    """The public authorities, or those of SSL_CERT_FILE, and those of this machine. Read once: each reading holds the loop up for 30 ms."""
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context
