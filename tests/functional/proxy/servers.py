"""Real HTTP servers for the differential fuzz. Each writes one line per request it believes to have received: id, path, body bytes.

Run as a program: `servers.py uvicorn|aiohttp PORT FILE`. nginx and Node get their configuration from the test.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

NODE = """
const fs = require("fs"), [port, file] = process.argv.slice(2);
require("http").createServer((request, answer) => {
  let size = 0;
  request.on("data", piece => { size += piece.length; });
  request.on("end", () => {
    const path = request.url.split("?")[0];
    fs.appendFileSync(file, `${request.headers["x-vitrine-request-id"] || "-"} ${path} ${size}\\n`);
    answer.end("ok");
  });
}).listen(Number(port), "127.0.0.1");
"""

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err; events {{ }}
http {{
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  merge_slashes off; log_format seen "$http_x_vitrine_request_id $request_uri - $status $request"; access_log {file} seen;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "ok"; }} }}
}}
"""


async def _asgi(file: str, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    request_id = dict(scope["headers"]).get(b"x-vitrine-request-id", b"-").decode()
    with Path(file).open("a") as log:
        log.write(f"{request_id} {scope['raw_path'].decode('latin-1')} {size}\n")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def main(kind: str, port: int, file: str) -> None:
    if kind == "uvicorn":
        import uvicorn

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await _asgi(file, scope, receive, send)

        uvicorn.run(app, host="127.0.0.1", port=port, http="h11", ws="none", lifespan="off", log_level="critical")
        return
    from aiohttp import web

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        with Path(file).open("a") as log:
            log.write(f"{request.headers.get('x-vitrine-request-id', '-')} {request.raw_path.partition('?')[0]} {len(body)}\n")
        return web.Response(text="ok")

    served = web.Application()
    served.router.add_route("*", "/{any:.*}", handle)
    web.run_app(served, host="127.0.0.1", port=port, print=None, loop=asyncio.new_event_loop())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
