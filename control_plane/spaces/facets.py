"""What a repository can be found by: the tags of its card, and its other facts as tags, as the public Hub spells them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from control_plane.domain.spaces import RepoType

_PLAIN = {RepoType.MODEL: ("pipeline_tag", "library_name", "language")}  # the bare value is the tag
_NAMED: dict[RepoType, tuple[tuple[str, str], ...]] = {
    RepoType.MODEL: (("license", "license"), ("language", "language"), ("datasets", "dataset"), ("base_model", "base_model")),
    RepoType.DATASET: (
        ("license", "license"), ("language", "language"), ("task_categories", "task_categories"), ("task_ids", "task_ids"),
        ("size_categories", "size_categories"), ("modality", "modality"),
    ),
    RepoType.SPACE: (("license", "license"), ("models", "models"), ("datasets", "datasets")),
}  # fmt: skip
_MAX_TAGS, _MAX_LENGTH = 200, 200


def tags_of(type: RepoType, card: Mapping[str, object], own: Sequence[str] = ()) -> tuple[str, ...]:
    """`own` tags first, else those of the card; then the card's facts, each once."""
    found = [*(own or _texts(card.get("tags")))]
    for key in _PLAIN.get(type, ()):
        found += _texts(card.get(key))
    for key, prefix in _NAMED[type]:
        found += [f"{prefix}:{value}" for value in _texts(card.get(key))]
    return tuple(dict.fromkeys(t for t in found if 0 < len(t) <= _MAX_LENGTH))[:_MAX_TAGS]


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(v) for v in values if isinstance(v, str | int) and not isinstance(v, bool) and v != ""]
