"""Pictures of apps: headless Chromium inside the launcher's sandbox, because the page is a stranger's program too.

It reaches the app's own host, through the platform's proxy like any visitor, and the public internet; no loopback service and no
other Space. One picture is one process tree that ends within `_LIMIT_S`. Chromium's own sandbox is off inside ours.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import html
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from control_plane.runtimes.process.floor import launcher_command

WIDTH, HEIGHT = 1280, 800  # of the window; the picture is half of it
_SETTLE_MS = 7000  # what the page gets for its scripts and sockets
_LIMIT_S = 45.0
_ASK_S = 10.0
_CPU_S = 40
_MOST_BYTES = 400_000
_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome-headless-shell")
_PROGRAMS = ("/usr/lib/chromium/chromium", "/usr/lib/chromium-browser/chromium-browser")  # behind distributions' shell wrappers
_HUB_ADDRESS = "198.18.0.1"  # the one inside address that leads to the platform
_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic", "--disable-extensions",
    "--mute-audio", "--disable-breakpad", "--user-data-dir=/tmp/profile", "--force-device-scale-factor=0.5",
)  # fmt: skip


def find_browser() -> str | None:
    """The program itself, None when this machine has none. Only browsers under /usr are visible inside the sandbox."""
    found = [path for path in _PROGRAMS if os.access(path, os.X_OK)]
    found += [os.path.realpath(path) for name in _NAMES if (path := shutil.which(name))]
    return next((path for path in found if path.startswith("/usr/")), None)


def key_pins(chains: Sequence[Path]) -> tuple[str, ...]:
    """The public keys of the first certificate of each file, as Chromium names them: base64 of the SHA-256 of the key.

    ValueError or OSError for a file that holds no certificate.
    """
    found = []
    for path in chains:
        key = x509.load_pem_x509_certificate(path.read_bytes()).public_key()
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        found.append(base64.b64encode(hashlib.sha256(der).digest()).decode())
    return tuple(found)


class SandboxedBrowser:
    """`upstream` is "host:port" of the proxy; one picture at a time is the caller's business.

    `chains`: certificate files of the proxy where its port speaks TLS itself; () = it speaks plain HTTP, also where a load
    balancer before it speaks TLS. Whoever vouches for them, the browser takes these keys and no others that nobody vouches for.
    """

    def __init__(self, browser: str, upstream: str, chains: Sequence[Path] = ()) -> None:
        self._browser = browser
        self._upstream = upstream
        self._chains = tuple(chains)

    async def shoot(self, host: str, path: str) -> bytes | None:
        if not await self._answers(host, path):
            return None
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="vitrine-picture-"))
        try:
            return await self._shoot(host, path, folder)
        except ValueError as error:
            raise OSError(f"a certificate of the proxy cannot be read: {error}") from error
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, True)

    async def _answers(self, host: str, path: str) -> bool:
        """Whether there is a page: what a browser shows in place of one is no picture of an app. Of a TLS port, whether it is open."""
        address, _, port = self._upstream.rpartition(":")
        status = b""
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(_ASK_S):
                reader, writer = await asyncio.open_connection(address.strip("[]"), int(port))
                try:
                    if self._chains:
                        return True
                    writer.write(f"GET {quote(path)} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                    status = await reader.readline()
                finally:
                    writer.close()
        return status[9:12].isdigit() and int(status[9:12]) < 400

    async def _shoot(self, host: str, path: str, folder: Path) -> bytes | None:
        process = await asyncio.create_subprocess_exec(
            *launcher_command(), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": os.defpath}, start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_LIMIT_S):
                await process.communicate(json.dumps(self._spec(host, path, folder)).encode())
        except TimeoutError:
            return None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()  # the launcher takes everything inside with it
                await process.wait()
        return await asyncio.to_thread(_picture, folder / "shot.webp")

    def _spec(self, host: str, path: str, folder: Path) -> dict[str, object]:
        name, _, port = host.partition(":")
        scheme = "https" if self._chains else "http"
        # Read for each picture: a renewed certificate may have another key.
        pins = [f"--ignore-certificate-errors-spki-list={','.join(key_pins(self._chains))}"] if self._chains else []
        fonts = [["/etc/fonts", "/etc/fonts"]] if os.path.isdir("/etc/fonts") else []
        return {
            "v": 1,
            "argv": [
                "nice", "-n", "15", self._browser, *_QUIET, *pins, f"--window-size={WIDTH},{HEIGHT}", f"--timeout={_SETTLE_MS + 15000}",
                f"--host-resolver-rules=MAP {name} {_HUB_ADDRESS}", "--screenshot=/tmp/out/shot.webp",
                f"data:text/html;base64,{_frame(f'{scheme}://{host}{path}')}",
            ],
            "env": {"PATH": "/usr/bin:/bin", "HOME": "/home/user", "LANG": "C.UTF-8"},
            "cwd": "/home/user",
            "binds_ro": fonts,
            "binds_rw": [[str(folder), "/tmp/out"]],
            "scratch_bytes": 256 << 20,
            "network": "egress",
            "egress": {"ports": [80, 443, int(port or 443)], "allow": [], "hub_hosts": [name], "hub_upstream": self._upstream},
            "egress_inline": True,
            "limits": {"nofile": 4096, "cpu_s": _CPU_S, "fsize": 8 << 20, "nproc": 256},
        }  # fmt: skip


def _frame(url: str) -> str:
    """A page around the app that is done loading `_SETTLE_MS` later: headless Chromium takes the picture at that moment.

    Its virtual time would be quicker, and does not wait for WebSockets, which Streamlit draws by.
    """
    page = f"""<!doctype html><style>html,body,iframe{{margin:0;border:0;width:100%;height:100%;display:block;background:#fff}}
#hold{{display:none}}</style><iframe src="{html.escape(url)}"></iframe><iframe id=hold></iframe>
<script>const held = document.getElementById("hold").contentDocument; held.open(); setTimeout(() => held.close(), {_SETTLE_MS})</script>"""
    return base64.b64encode(page.encode()).decode()


def _picture(path: Path) -> bytes | None:
    """What the browser wrote, if it is what it should be: the page may have taken the browser over."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        body = file.read(_MOST_BYTES + 1)
    return body if len(body) <= _MOST_BYTES and body[:4] == b"RIFF" and body[8:12] == b"WEBP" else None
