"""Reading the launcher's JSON object, and the one error of making a sandbox. Runs inside the launcher."""

from __future__ import annotations

CANNOT = 125  # exit status: the sandbox could not be made
PLACE = "place"  # the step at which a volume's place turns out to be unusable: the owner's choice, no fault of ours

Json = dict[str, object]


class Failed(Exception):
    """The sandbox could not be made: which step, and why."""

    def __init__(self, step: str, why: object) -> None:
        super().__init__(f"{step}: {why}")


def list_of(spec: Json, key: str) -> list[object]:
    value = spec.get(key) or []
    if not isinstance(value, list):
        raise Failed("spec", f"{key} is not a list")
    return value


def object_of(spec: Json, key: str) -> Json:
    value = spec.get(key) or {}
    if not isinstance(value, dict):
        raise Failed("spec", f"{key} is not an object")
    return value
