"""Loads the rules that keep apps away from the host, its networks and each other. Needs nft and CAP_NET_ADMIN where the engine runs."""

from __future__ import annotations

import ipaddress
import logging
import shutil
import subprocess
from pathlib import Path

log = logging.getLogger(__name__)


def load(rules: str) -> str:
    """Load nft's `rules` in this network namespace. Gives "" when they are in force, else what is missing, in one line."""
    nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin")
    if nft is None:
        return "nft is not installed (Debian: apt-get install nftables)"
    try:
        done = subprocess.run([nft, "-f", "-"], input=rules, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nft could not run: {error}"
    if done.returncode != 0:
        first = next((line for line in done.stderr.splitlines() if line.strip()), f"status {done.returncode}")
        return f"nft refused the rules: {first[:200]}"
    return ""


def host_networks() -> list[str]:
    """The v4 networks that this host has routes to, the default route aside; other engines' bridges are among them."""
    found = []
    try:
        lines = Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return []
    for line in lines:
        words = line.split()
        address, mask = (int.from_bytes(bytes.fromhex(word), "little") for word in (words[1], words[7]))
        if mask:
            found.append(str(ipaddress.IPv4Network((address, mask.bit_count()), strict=False)))
    return found


def open_loopback(bridge: str) -> None:
    """Let packets from this bridge be led to the host's loopback; which ones, only the rules say."""
    try:
        Path(f"/proc/sys/net/ipv4/conf/{bridge}/route_localnet").write_text("1")
    except OSError as error:
        log.warning("docker.loopback_closed", extra={"bridge": bridge, "error": error.strerror})
