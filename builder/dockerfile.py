"""The Dockerfile of Gradio and Streamlit Spaces: a pure function of the tree's declarations. Golden: tests/golden/dockerfiles.

Layers from rarely to often changed: base, system packages, dependencies, code. The dependency layer depends on nothing but the
declaration, so Spaces that declare the same share it, and a code-only push makes only the last layer. Dependencies are installed in
a stage of their own: what that stage was told (index, certificates) is in no layer and no history of the image that runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

APP_DIR = "/home/user/app"
VENV = "/opt/venv"
REQUIREMENTS = "vitrine/requirements.txt"  # in the build context; everything of the tree lies under `tree/`
CONSTRAINTS = "vitrine/constraints.txt"
COMPANIONS = "vitrine/companions.txt"  # what the SDK brings along where the index has it
MODELS, HUB_CACHE = "models", "cache"  # of `preload_from_hub`: the bytes, and the client's cache that points at them
MODELS_DIR, HUB_CACHE_DIR = "/opt/models", "/home/user/.cache/huggingface/hub"
CA_BUNDLE = "vitrine/ca.pem"  # always there; empty when the platform needs none


@dataclass(frozen=True, slots=True)
class PythonImage:
    """What a generated image is made of. `base`: an image of the catalog; `command`: argv of the app."""

    base: str
    command: tuple[str, ...]
    port: int
    packages: tuple[str, ...] = ()
    needs_compiler: bool = False  # some requirement is built from source
    has_models: bool = False  # the card names models that the image brings along


def render(image: PythonImage) -> str:
    """The text. Equal input gives equal text, so equal prefixes are equal layers."""
    parts = [
        "# Made by Vitrine from requirements.txt, packages.txt and README.md.",
        _block(
            f"FROM {image.base} AS dependencies",
            "USER root",
            *((f"RUN {_apt(('build-essential', 'git', 'python3-dev'))}",) if image.needs_compiler else ()),
            f"COPY {REQUIREMENTS} {COMPANIONS} {CONSTRAINTS} {CA_BUNDLE} /opt/vitrine/",
            "ARG UV_DEFAULT_INDEX",
            f"RUN export NO_COLOR=1; \\\n"
            f"    if [ -s /opt/vitrine/ca.pem ]; then export SSL_CERT_FILE=/opt/vitrine/ca.pem; fi; \\\n"
            f"    if [ -z \"$UV_DEFAULT_INDEX\" ]; then unset UV_DEFAULT_INDEX; fi; \\\n"
            f"    put() {{ uv pip install --no-cache --compile-bytecode --python {VENV}/bin/python \"$@\"; }}; \\\n"
            f"    cd /opt/vitrine && uv venv --quiet {VENV} || exit 1; \\\n"
            f"    if [ -s companions.txt ]; then \\\n"
            f"        if put -c constraints.txt -r requirements.txt -r companions.txt 2>said; then cat said; exit 0; fi; \\\n"
            f"        grep -q 'No solution found' said || {{ cat said; exit 1; }}; \\\n"
            f"        echo \"installed without $(tr '\\n' ' ' <companions.txt): not to be had here\"; \\\n"
            f"    fi; \\\n"
            f"    put -c constraints.txt -r requirements.txt",
        ),
        _block(
            f"FROM {image.base}",
            "USER root",
            *((f"RUN {_apt(image.packages)}",) if image.packages else ()),
            f"COPY --from=dependencies {VENV} {VENV}",
            *((f"COPY {MODELS}/ {MODELS_DIR}/", f"COPY --chown=1000:1000 {HUB_CACHE}/ {HUB_CACHE_DIR}/") if image.has_models else ()),
            f"ENV PATH={VENV}/bin:/usr/local/bin:/usr/bin:/bin HOME=/home/user PYTHONUNBUFFERED=1",
            f"WORKDIR {APP_DIR}",
            "USER 1000:1000",
            f"EXPOSE {image.port}",
            f"CMD {json.dumps(list(image.command))}",
            f"COPY --chown=1000:1000 tree/ {APP_DIR}/",
        ),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _block(*lines: str) -> str:
    return "\n".join(lines)


def _apt(packages: Sequence[str]) -> str:
    """Names were checked by `requirements.read_packages`: no character of them means anything to a shell."""
    return (
        "apt-get update && \\\n"
        "    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\\n"
        f"    {' '.join(sorted(packages))} && \\\n"
        "    rm -rf /var/lib/apt/lists/*"
    )
