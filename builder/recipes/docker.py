"""Docker Spaces need an image runtime; the process runtime says so in words."""

from __future__ import annotations

from builder.errors import BuildFailed
from builder.recipes.recipe import Plan, TreeView
from control_plane.domain.builds import BuildRequest
from control_plane.domain.reasons import Reason


class DockerRecipe:
    def plan(self, request: BuildRequest, tree: TreeView) -> Plan:
        raise BuildFailed(
            Reason.UNSUPPORTED_HERE,
            "This platform runs apps as processes, and sdk: docker needs one that runs container images "
            "(--runtime docker or kubernetes). Gradio, Streamlit and static Spaces run here.",
        )
