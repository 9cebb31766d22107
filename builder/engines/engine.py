"""What the image path asks of a container engine and a registry. Frozen values in, ids and digests out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from builder.steps import StepRunner


@dataclass(frozen=True, slots=True)
class ImageBuild:
    """One build. `context` is a folder; `dockerfile` is a path inside it; `secrets` are files, name → path, never in a layer.

    `network` names the engine's network for RUN steps; BuildKit in an engine knows its default one only. `args` are build arguments.
    `space`: the Space's id, which `kit_dockerfile` puts into mounts. `bases`: the platform's own images that it starts from; the engine
    must have them, for a public registry may have a stranger's of the same name.
    """

    context: Path
    dockerfile: str
    tag: str
    network: str
    args: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    with_buildkit: bool = False  # the Dockerfile uses what the classic builder does not know, or the platform has mirrors
    space: str = ""
    bases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """`id` is the engine's own digest of the configuration; `size_bytes` counts all layers."""

    id: str
    size_bytes: int


class ImageEngine(Protocol):
    """Raises BuildFailed with DOCKERFILE_FAILED, REGISTRY_UNAVAILABLE, BUILD_DISK, UNSUPPORTED_HERE or a limit's reason."""

    @property
    def has_buildkit(self) -> bool:
        """Whether Dockerfiles that need BuildKit (secret mounts among them) can be built."""
        ...

    def build(self, build: ImageBuild, runner: StepRunner) -> BuiltImage: ...

    def push(self, tag: str, runner: StepRunner, token: str = "") -> str:
        """Pushes to the registry that the tag names, with `token` where there is one; gives `name@sha256:…`."""
        ...

    def untag(self, tag: str, runner: StepRunner) -> None:
        """Forgets a tag here, and the layers that nothing else uses; absent is fine."""
        ...
