"""Gradio: `python <app_file>`. Any Python program that listens on the port works as well."""

from __future__ import annotations

from builder.recipes.recipe import PYTHON_ENV, Plan, TreeView, require_app_file
from control_plane.domain.builds import ArtifactKind, BuildRequest, LaunchPlan


class GradioRecipe:
    def plan(self, request: BuildRequest, tree: TreeView) -> Plan:
        require_app_file(request, tree)
        env = {
            **PYTHON_ENV,
            "GRADIO_SERVER_NAME": "0.0.0.0",
            "GRADIO_SERVER_PORT": str(request.app_port),
            "GRADIO_NUM_PORTS": "1",  # never wander to the next free port: nobody would find it
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_ALLOW_FLAGGING": "never",
            "GRADIO_FLAGGING_MODE": "never",
            "GRADIO_THEME": "huggingface",
        }
        launch = LaunchPlan(argv=("python", request.app_file), port=request.app_port, env=env)
        return Plan(kind=ArtifactKind.BUNDLE, launch=launch, needs_environment=True)
