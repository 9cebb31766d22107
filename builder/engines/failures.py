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
    if "cannot connect to the docker daemon" in lower or "error reading from server: eof" in lower:
        return Reason.BUILD_LOST
    return Reason.DOCKERFILE_FAILED
