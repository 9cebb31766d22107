"""What an engine's words mean. Pure."""

from __future__ import annotations

from control_plane.domain.reasons import Reason


def reason_of(words: str) -> Reason:
    """Why a build failed, by the engine's last words (classic builder or BuildKit)."""
    lower = words.lower()
    if "no space left on device" in lower or "disk quota exceeded" in lower:
        return Reason.BUILD_DISK
    if "non-zero code: 137" in lower or "exit code: 137" in lower:
        return Reason.BUILD_MEMORY
    lost = ("cannot connect to the docker daemon", "error reading from server: eof")
    if any(words in lower for words in lost) or lower.rstrip().endswith("unexpected eof"):
        return Reason.BUILD_LOST
    return Reason.DOCKERFILE_FAILED


def no_base(name: str) -> str:
    """Words for a base image of the platform that was never built."""
    return f"The base image {name} is not on this machine; its operator makes it with `vitrine images build`."


def too_much_written(written: int, limit: int) -> str:
    """Words for a step that was ended for what it wrote, in bytes."""
    return f"A step wrote {written >> 20} MiB, more than the limit of {limit >> 20} MiB, and was stopped."
