"""The client's sign-in for apps of one's own framework: `python attached.py ENDPOINT CLIENT_ID SECRET HOST COOKIE`, in a fresh environment.

An app with `attach_huggingface_oauth`, asked as the browser of somebody whose session on the platform is COOKIE asks it. Prints who it
saw before and after.
"""

import asyncio
import os
import re
import sys
from html import unescape
from urllib.parse import urlsplit

endpoint, client_id, secret, host, cookie = sys.argv[1:6]
os.environ.update(
    SPACE_ID="somebody/app", SPACE_HOST=host, OAUTH_CLIENT_ID=client_id, OAUTH_CLIENT_SECRET=secret, OAUTH_SCOPES="openid profile email",
    OPENID_PROVIDER_URL=endpoint, HF_ENDPOINT=endpoint, HF_HUB_DISABLE_TELEMETRY="1",
)  # fmt: skip

import httpx  # noqa: E402
from fastapi import FastAPI, Request  # noqa: E402
from huggingface_hub import attach_huggingface_oauth, parse_huggingface_oauth  # noqa: E402

app = FastAPI()
attach_huggingface_oauth(app)


@app.get("/")
def home(request: Request) -> str:
    info = parse_huggingface_oauth(request)
    return info.user_info.preferred_username if info else "nobody"


async def main() -> None:
    transport = httpx.ASGITransport(app=app)
    async with (
        httpx.AsyncClient(transport=transport, base_url=f"https://{host}") as visit,
        httpx.AsyncClient(base_url=endpoint, cookies={"vitrine": cookie}, timeout=60) as hub,
    ):
        before = (await visit.get("/")).json()
        asked = await visit.get("/oauth/huggingface/login?_target_url=/")
        page = await hub.get(asked.headers["location"])
        fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
        form = {name: unescape(value) for name, value in fields.items()}
        allowed = await hub.post("/oauth/authorize", data={**form, "decision": "allow"}, headers={"Origin": endpoint})
        back = urlsplit(allowed.headers["location"])
        assert back.netloc == host, back
        done = await visit.get(f"{back.path}?{back.query}")
        print(before, done.headers["location"], (await visit.get("/")).json())


asyncio.run(main())
