"""Static: the tree itself, or what `app_build_command` makes of it."""

from __future__ import annotations

import posixpath

from builder.errors import BuildFailed
from builder.recipes.recipe import Plan, TreeView
from control_plane.domain.builds import ArtifactKind, BuildRequest, LaunchPlan
from control_plane.domain.reasons import Reason

# where common site builders leave their result when `app_file` does not say so, in the order they are looked for
OUTPUTS = ("dist", "build", "out", "public", "_site")


class StaticRecipe:
    def plan(self, request: BuildRequest, tree: TreeView) -> Plan:
        command = request.app_build_command or ""
        output = ""
        if command:
            # On the public service, `app_file: dist/index.html` names the folder that is served.
            output = posixpath.dirname(request.app_file)
        elif not tree.has(request.app_file) and not tree.has("index.html"):
            raise BuildFailed(
                Reason.NO_APP_FILE,
                "There is no index.html in the repository. Push one, or name another file with app_file in README.md.",
            )
        return Plan(kind=ArtifactKind.SITE, launch=LaunchPlan(argv=(), port=0), build_command=command, output=output)
