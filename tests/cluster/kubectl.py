"""kubectl, where this machine has one that is new enough for the manifests, and nodes that are emptied with it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def kubectl_or_skip() -> str:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is missing")
    said = subprocess.run([kubectl, "version", "--client", "-o", "json"], capture_output=True, text=True, timeout=60, check=False).stdout
    version = re.search(r'"gitVersion": *"v1\.(\d+)', said)
    if version is None or int(version[1]) < 27:
        pytest.skip("this kubectl's kustomize is older than the manifests ask for (1.27)")
    return kubectl


def run(*words: str) -> str:
    done = subprocess.run([kubectl_or_skip(), *words], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
    return done.stdout


@contextmanager
def drained(node: str, selector: str) -> Iterator[None]:
    """`kubectl drain` of this node, of the pods with these labels only: whatever else runs there stays. Uncordoned at the end."""
    try:
        run("drain", node, f"--pod-selector={selector}", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=300s")
        yield
    finally:
        run("uncordon", node)
