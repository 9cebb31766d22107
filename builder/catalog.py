"""The base images: runtime_images/catalog.json says which Python and hardware each is for. Data, not code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildFailed
from control_plane.domain.reasons import Reason

DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "runtime_images"


@dataclass(frozen=True, slots=True)
class BaseImage:
    """`name` is its tag here; `upstream` what it is built from where a registry can be reached; `suite` the Debian release of the
    bootstrap, "" when Debian does not carry this Python."""

    name: str
    family: str  # "cpu" or "gpu"
    python: str  # "3.11"
    dockerfile: str
    upstream: str
    suite: str
    is_default: bool = False

    @property
    def debian(self) -> str:
        """The Debian release it is made of, by the bootstrap's or the upstream's name."""
        return self.suite or self.upstream.rpartition("-")[2]


@dataclass(frozen=True, slots=True)
class Catalog:
    images: tuple[BaseImage, ...]

    def find(self, family: str, python: str | None) -> BaseImage:
        """The base of a Space. Raises BuildFailed(PYTHON_MISSING) that lists what there is."""
        fits = [one for one in self.images if one.family == family]
        if python is None:
            chosen = next((one for one in fits if one.is_default), None)
        else:
            chosen = next((one for one in fits if python == one.python or python.startswith(f"{one.python}.")), None)
        if chosen is None:
            have = ", ".join(one.python for one in fits) or "none"
            raise BuildFailed(Reason.PYTHON_MISSING, f"There is no {family} base image for python_version {python}. There are: {have}.")
        return chosen


def load_catalog(folder: Path = DEFAULT_FOLDER) -> Catalog:
    """Raises ValueError or KeyError for a catalog that is not one: a mistake of the installation."""
    body = json.loads((folder / "catalog.json").read_text())
    return Catalog(tuple(BaseImage(**one) for one in body["images"]))
