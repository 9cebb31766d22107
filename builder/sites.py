"""Static Spaces with `app_build_command`: the owner's command makes the site, inside the build sandbox."""

from __future__ import annotations

import os
from pathlib import Path

from builder.errors import BuildFailed
from builder.recipes import Plan
from builder.recipes.static import OUTPUTS
from builder.sandbox import BuildSandbox
from builder.source import SourceTree
from builder.steps import StepRunner
from control_plane.domain.reasons import Reason


def build_site(plan: Plan, tree: SourceTree, sandbox: BuildSandbox, runner: StepRunner, building: Path) -> Path:
    """Runs the command in the tree; gives the folder to serve. Raises BuildFailed."""
    home = building / "home"
    home.mkdir(mode=0o755, exist_ok=True)
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "CI": "1", "NO_COLOR": "1", "npm_config_cache": str(home / "npm")}
    runner.log.line(f"$ {plan.build_command}")
    done = sandbox.run(
        ("/bin/sh", "-e", "-c", plan.build_command), runner=runner, cwd=tree.root, env=env, read_only=(), writable=(tree.root, home)
    )
    if not done.ok:
        raise BuildFailed(Reason.BUILD_FAILED, f"app_build_command ended with status {done.exit_code}; the build log has its output.")
    names = (plan.output,) if plan.output else OUTPUTS
    for name in names:
        folder = tree.root / name
        if folder.is_dir() and folder.resolve().is_relative_to(tree.root.resolve()):
            _refuse_leaving_links(folder)
            return folder
    raise BuildFailed(
        Reason.BUILD_FAILED, f"app_build_command made none of the folders {', '.join(names)}; name it with app_file in README.md."
    )


def _refuse_leaving_links(folder: Path) -> None:
    root = folder.resolve()
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise BuildFailed(Reason.SOURCE_REJECTED, f"The built site holds a link that leaves it: {path.relative_to(folder)}.")
