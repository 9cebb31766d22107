"""The shape of a recipe, and the choice between them. Pure: a tree is seen through two questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from builder.errors import BuildFailed
from control_plane.domain.builds import ArtifactKind, BuildRequest, LaunchPlan
from control_plane.domain.reasons import Reason


class TreeView(Protocol):
    """The two questions a recipe may ask about the source."""

    def text(self, name: str, limit: int = ...) -> str | None: ...

    def has(self, name: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make for the process target. `needs_environment`: a Python environment belongs to it.

    `build_command`: a shell line of the owner that makes what is served; `output`: where it leaves it, relative to the tree.
    """

    kind: ArtifactKind
    launch: LaunchPlan
    needs_environment: bool = False
    build_command: str = ""
    output: str = ""
    warnings: tuple[str, ...] = ()


class Recipe(Protocol):
    def plan(self, request: BuildRequest, tree: TreeView) -> Plan:
        """Raises BuildFailed when the tree cannot be run this way."""


def select(sdk: str) -> Recipe:
    """The recipe of an SDK. Raises BuildFailed(CONFIG_ERROR) for one that nobody knows."""
    from builder.recipes.docker import DockerRecipe
    from builder.recipes.gradio import GradioRecipe
    from builder.recipes.static import StaticRecipe
    from builder.recipes.streamlit import StreamlitRecipe

    recipes: Mapping[str, Recipe] = {
        "gradio": GradioRecipe(),
        "streamlit": StreamlitRecipe(),
        "static": StaticRecipe(),
        "docker": DockerRecipe(),
    }
    try:
        return recipes[sdk]
    except KeyError:
        raise BuildFailed(Reason.CONFIG_ERROR, f"sdk {sdk!r} is not known; allowed: {', '.join(recipes)}.") from None


def require_app_file(request: BuildRequest, tree: TreeView) -> None:
    """Raises BuildFailed(NO_APP_FILE) when `app_file` is not in the tree."""
    if not tree.has(request.app_file):
        raise BuildFailed(
            Reason.NO_APP_FILE,
            f"{request.app_file} is not in the repository. Push it, or name another file with app_file in README.md.",
        )


PYTHON_ENV: Mapping[str, str] = {
    "PYTHONUNBUFFERED": "1",  # run logs appear when they are printed
    "PYTHONDONTWRITEBYTECODE": "1",  # the environment is read-only and has its bytecode
}
