"""A small OpenID Connect provider over HTTP: discovery, authorization with PKCE, token, userinfo, keys. One person at a time."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT_ID, CLIENT_SECRET = "vitrine", "secret of the client"


class OidcProvider:
    """`person` is who signs in next; `twist` changes the claims of the next id token; `key` signs it."""

    def __init__(self) -> None:
        self.person: dict[str, Any] = {"sub": "1", "preferred_username": "ann"}
        self.twist: dict[str, Any] = {}
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.published = self.key.public_key()
        self._codes: dict[str, dict[str, str]] = {}
        self._tokens: dict[str, dict[str, Any]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._get(self)

            def do_POST(self) -> None:
                outer._post(self)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        if url.path == "/.well-known/openid-configuration":
            names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "userinfo_endpoint": "me", "jwks_uri": "keys"}
            addresses = {name: f"{self.issuer}/{path}" for name, path in names.items()}
            _answer(handler, 200, {"issuer": self.issuer, "scopes_supported": ["openid", "groups"], **addresses})
        elif url.path == "/keys":
            key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.published))
            _answer(handler, 200, {"keys": [{**key, "kid": "k1", "use": "sig", "alg": "RS256"}]})
        elif url.path == "/authorize":
            assert query["response_type"] == "code"
            assert query["client_id"] == CLIENT_ID
            assert query["code_challenge_method"] == "S256"
            assert "groups" in query["scope"].split()
            code = secrets.token_urlsafe(16)
            self._codes[code] = query
            handler.send_response(302)
            handler.send_header("Location", f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}")
            handler.end_headers()
        elif url.path == "/me":
            person = self._tokens.get(handler.headers.get("Authorization", "").removeprefix("Bearer "))
            _answer(handler, 200 if person else 401, person or {})
        else:
            _answer(handler, 404, {})

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        form = {k: v[0] for k, v in parse_qs(handler.rfile.read(int(handler.headers["Content-Length"])).decode()).items()}
        wanted = "Basic " + base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        asked = self._codes.pop(form.get("code", ""), None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest()).rstrip(b"=").decode()
        if handler.headers.get("Authorization") != wanted or asked is None or challenge != asked["code_challenge"]:
            _answer(handler, 400, {"error": "invalid_grant"})
            return
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT_ID, "sub": self.person["sub"], "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        token = jwt.encode({**claims, **self.twist}, self.key, "RS256", headers={"kid": "k1"})
        access = secrets.token_urlsafe(16)
        self._tokens[access] = self.person
        _answer(handler, 200, {"access_token": access, "token_type": "Bearer", "id_token": token})


def _answer(handler: BaseHTTPRequestHandler, status: int, body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(raw)))
    handler.end_headers()
    handler.wfile.write(raw)
