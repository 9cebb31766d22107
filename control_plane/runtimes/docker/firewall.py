"""Loads the rules that keep apps away from the host, its networks and each other. Needs nft and CAP_NET_ADMIN where the engine runs."""

from __future__ import annotations

import shutil
import subprocess


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
