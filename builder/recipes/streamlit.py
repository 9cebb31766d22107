"""Streamlit: its own server, told how it is reached. Options: docs.streamlit.io, "config.toml"."""

from __future__ import annotations

from builder.recipes.recipe import PYTHON_ENV, Plan, TreeView, require_app_file
from control_plane.domain.builds import ArtifactKind, BuildRequest, LaunchPlan

PORT = 8501


class StreamlitRecipe:
    def plan(self, request: BuildRequest, tree: TreeView) -> Plan:
        require_app_file(request, tree)
        argv = (
            "python", "-m", "streamlit", "run", request.app_file,
            f"--server.port={PORT}",
            "--server.address=0.0.0.0",
            "--server.headless=true",
            # The page is reached under a host name that Streamlit does not know, and inside a frame of another origin:
            # with these two on, its WebSocket and its uploads are refused.
            "--server.enableCORS=false",
            "--server.enableXsrfProtection=false",
            "--server.fileWatcherType=none",  # a pushed tree never changes
            "--browser.gatherUsageStats=false",
        )  # fmt: skip
        launch = LaunchPlan(argv=argv, port=PORT, env=PYTHON_ENV)
        return Plan(kind=ArtifactKind.BUNDLE, launch=launch, needs_environment=True)
