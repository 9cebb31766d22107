"""packages.txt on a machine where nothing is installed for an app: what is there is used, what is not is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from builder.errors import BuildFailed
from builder.steps import StepRunner
from control_plane.domain.reasons import Reason

IsPresent = Callable[[str], bool]


def check_present(names: Sequence[str], is_present: IsPresent) -> str:
    """A warning when all are there. Raises BuildFailed(UNSUPPORTED_HERE) that names those missing."""
    missing = [name for name in names if not is_present(name)]
    if missing:
        raise BuildFailed(
            Reason.UNSUPPORTED_HERE,
            f"packages.txt asks for system packages, which need an image runtime (docker or kubernetes). Not on this machine: "
            f"{', '.join(missing)}. Remove them, or ask the operator to install them or to run this Space on such a runtime.",
        )
    return f"packages.txt: the machine's own copies are used ({', '.join(names)})"


def machine_lookup(runner: StepRunner, dpkg_query: str = "dpkg-query") -> IsPresent:
    """Asks dpkg; on a machine without it, looks for a command of that name."""

    def is_present(name: str) -> bool:
        plain = name.partition(":")[0]
        if _on_path(dpkg_query):
            done = runner.run((dpkg_query, "-W", "-f", "${db:Status-Status}\n", plain), env={"PATH": os.defpath, "LC_ALL": "C"}, quiet=True)
            if done.ok and "installed" in done.tail:
                return True
        return _on_path(plain)

    return is_present


def _on_path(name: str) -> bool:
    return any(os.access(os.path.join(folder, name), os.X_OK) for folder in os.defpath.split(os.pathsep) if folder)
