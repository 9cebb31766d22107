"""The hardware file: flavors and node pools, read from YAML, checked key by key, every mistake with its line.

`parse` is pure. `PoolFile` re-reads the file when it changed; a file with a mistake leaves the last good one in force.
The annotated default beside this module is also the manual of the format.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from control_plane.domain.capacity import NodePool
from control_plane.domain.errors import Rejected
from control_plane.domain.hardware import Accelerator, Flavor, FlavorCatalog

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_RESOURCE = re.compile(r"[a-z0-9.-]+/[A-Za-z0-9._-]+")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_OPERATORS = ("Exists", "Equal")


class PoolFileError(Rejected):
    """One mistake in the hardware file. `line` counts from 1."""

    def __init__(self, source: str, line: int, message: str) -> None:
        super().__init__(f"{source}, line {line}: {message}", facts={"line": line})
        self.line = line


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the file says: the catalogue in picker order, and the pools in file order.

    `refused`: the mistake in a newer version of the file, which is therefore not in force; "" = none.
    """

    catalog: FlavorCatalog
    pools: tuple[NodePool, ...]
    refused: str = field(default="", compare=False)


class _Lines(yaml.SafeLoader):
    """Keeps the line of every mapping and of every key; a key given twice is a mistake."""


class _Map(dict[str, Any]):
    line: int
    key_lines: dict[str, int]


def _construct_map(loader: _Lines, node: yaml.MappingNode) -> _Map:
    found = _Map()
    found.line = node.start_mark.line + 1
    found.key_lines = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise yaml.MarkedYAMLError(problem=f"a key must be text, not {key!r}", problem_mark=key_node.start_mark)
        if key in found:
            raise yaml.MarkedYAMLError(problem=f"the key '{key}' is given twice", problem_mark=key_node.start_mark)
        found[key] = loader.construct_object(value_node, deep=True)
        found.key_lines[key] = line
    return found


_Lines.add_constructor("tag:yaml.org,2002:map", _construct_map)


class _Reader:
    """Takes typed values out of one mapping; what is left at the end is an unknown key."""

    def __init__(self, source: str, found: object, what: str, line: int) -> None:
        self.source, self.what, self.line = source, what, line
        if not isinstance(found, _Map):
            raise PoolFileError(source, line, f"{what} must be a mapping of keys to values")
        self.map = found
        self.line = found.line
        self.seen: set[str] = set()

    def wrong(self, key: str, message: str) -> PoolFileError:
        return PoolFileError(self.source, self.map.key_lines.get(key, self.line), f"{self.what}: {message}")

    def take(self, key: str, default: object = ...) -> Any:
        self.seen.add(key)
        if key in self.map:
            return self.map[key]
        if default is ...:
            raise self.wrong(key, f"'{key}' is missing")
        return default

    def name(self, key: str = "name") -> str:
        value = self.take(key)
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise self.wrong(key, f"'{key}' must be lower-case letters, digits and '-', at most 63, not {value!r}")
        return value

    def text(self, key: str, default: str) -> str:
        value = self.take(key, default)
        if not isinstance(value, str) or not value or len(value) > 200:
            raise self.wrong(key, f"'{key}' must be text, not {value!r}")
        return value

    def number(self, key: str, default: object = ..., *, least: float = 0.0, above: bool = False) -> float:
        value = self.take(key, default)
        good = (
            isinstance(value, int | float) and not isinstance(value, bool) and (value > least if above else value >= least) and value < 1e9
        )
        if not good:
            raise self.wrong(key, f"'{key}' must be a number {'above' if above else 'of at least'} {least:g}, not {value!r}")
        return float(value)

    def whole(self, key: str, default: object = ..., *, least: int = 0) -> int:
        value = self.take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 10**9:
            raise self.wrong(key, f"'{key}' must be a whole number of at least {least}, not {value!r}")
        return value

    def flag(self, key: str) -> bool:
        value = self.take(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, f"'{key}' must be true or false, not {value!r}")
        return value

    def items(self, key: str, default: object = ...) -> list[Any]:
        value = self.take(key, default)
        if not isinstance(value, list):
            raise self.wrong(key, f"'{key}' must be a list")
        return value

    def labels(self, key: str) -> Mapping[str, str]:
        value = self.take(key, {})
        if not isinstance(value, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
            raise self.wrong(key, f"'{key}' must map text to text; put numbers and true/false in quotes")
        return dict(value)

    def done(self) -> None:
        for key in self.map:
            if key not in self.seen:
                raise self.wrong(key, f"unknown key '{key}'; known: {', '.join(sorted(self.seen))}")


def parse(text: str, *, source: str = "pools.yaml") -> Hardware:
    """Flavors and pools of one file. Raises PoolFileError at the first mistake."""
    try:
        found = yaml.load(text, _Lines)  # noqa: S506 (a SafeLoader subclass)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PoolFileError(source, line, f"not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise PoolFileError(source, 1, "not valid YAML") from error
    top = _Reader(source, found, "the file", 1)
    flavors = [_flavor(source, item, top.map.key_lines.get("flavors", 1)) for item in top.items("flavors")]
    _unique(source, top, "flavors", [f.name for f in flavors])
    if not flavors:
        raise top.wrong("flavors", "'flavors' must name at least one")
    known = {flavor.name for flavor in flavors}
    gpu_flavors = {flavor.name for flavor in flavors if flavor.has_gpu}
    pools = [_pool(source, item, top.map.key_lines.get("pools", 1), known, gpu_flavors) for item in top.items("pools")]
    _unique(source, top, "pools", [p.name for p in pools])
    top.done()
    return Hardware(FlavorCatalog(tuple(flavors)), tuple(pools))


def default_text() -> str:
    """The file shipped with the platform."""
    return resources.files(__package__).joinpath("default_pools.yaml").read_text("utf-8")


def default_hardware() -> Hardware:
    return parse(default_text(), source="default_pools.yaml")


class PoolFile:
    """The hardware in force. `path` None = the shipped default.

    `on_refused` is told about a changed file that has a mistake; the previous one stays. The first read raises.
    """

    def __init__(self, path: Path | None, on_refused: Callable[[Rejected], None] | None = None) -> None:
        self._path = path
        self._on_refused = on_refused
        self._stamp: tuple[int, int, int] | None = None
        self.current = default_hardware() if path is None else self._read(path)

    def reload(self) -> bool:
        """Look at the file again; true when the hardware in force changed. One `stat` when it did not."""
        if self._path is None:
            return False
        try:
            if _stamp(self._path) == self._stamp:
                return False
            fresh = self._read(self._path)
        except Rejected as error:
            if error.message != self.current.refused and self._on_refused is not None:
                self._on_refused(error)
            self.current = replace(self.current, refused=error.message)
            return False
        changed = fresh != self.current
        self.current = fresh
        return changed

    def _read(self, path: Path) -> Hardware:
        try:
            self._stamp = _stamp(path)
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self._stamp = None
            raise PoolFileError(path.name, 1, f"cannot be read: {error.__class__.__name__}") from error
        return parse(text, source=path.name)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise PoolFileError(path.name, 1, f"cannot be read: {error.strerror}") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _unique(source: str, top: _Reader, key: str, names: list[str]) -> None:
    for place, name in enumerate(names):
        if name in names[:place]:
            line = top.map[key][place].key_lines.get("name", top.line)
            raise PoolFileError(source, line, f"{key}: the name '{name}' is given twice")


def _flavor(source: str, item: object, line: int) -> Flavor:
    read = _Reader(source, item, "flavor", line)
    name = read.name()
    read.what = f"flavor '{name}'"
    gpu = read.take("gpu", None)
    sleep = read.take("sleep_after_s", None)
    flavor = Flavor(
        name=name,
        pretty_name=read.text("pretty_name", name),
        vcpu=read.number("vcpu", above=True),
        memory_gb=read.number("memory_gb", above=True),
        disk_gb=read.whole("disk_gb", least=1),
        price_per_hour=read.number("price_per_hour", 0.0),
        accelerator=None if gpu is None else _gpu(source, name, gpu, read.map.key_lines["gpu"]),
        default_sleep_s=None if sleep is None else read.whole("sleep_after_s", least=1),
        pids_max=read.whole("pids_max", 1024, least=16),
        open_files_max=read.whole("open_files_max", 65536, least=64),
    )
    read.done()
    return flavor


def _gpu(source: str, flavor: str, item: object, line: int) -> Accelerator:
    read = _Reader(source, item, f"gpu of flavor '{flavor}'", line)
    gpu = Accelerator(
        read.name("model"), read.whole("count", 1, least=1), read.whole("memory_gb", least=1), read.text("manufacturer", "Nvidia")
    )
    read.done()
    return gpu


def _pool(source: str, item: object, line: int, known: set[str], gpu_flavors: set[str]) -> NodePool:
    read = _Reader(source, item, "pool", line)
    name = read.name()
    read.what = f"pool '{name}'"
    flavors = tuple(read.items("flavors"))
    if not flavors:
        raise read.wrong("flavors", "'flavors' must name at least one")
    for place, flavor in enumerate(flavors):
        if flavor not in known:
            raise read.wrong("flavors", f"unknown flavor {flavor!r}; known: {', '.join(sorted(known))}")
        if flavor in flavors[:place]:
            raise read.wrong("flavors", f"the flavor '{flavor}' is named twice")
    limit = read.take("max_nodes", None)
    runtime_class = read.take("runtime_class", None)
    pool = NodePool(
        name=name,
        flavors=flavors,
        is_spot=read.flag("spot"),
        min_nodes=read.whole("min_nodes", 0),
        max_nodes=None if limit is None else read.whole("max_nodes", least=1),
        node_selector=read.labels("node_selector"),
        tolerations=tuple(_toleration(source, name, t, read.map.key_lines["tolerations"]) for t in read.items("tolerations", [])),
        runtime_class=None if runtime_class is None else read.name("runtime_class"),
        gpu_resource=read.text("gpu_resource", "nvidia.com/gpu"),
        overcommit=read.number("overcommit", 1.0, least=1.0),
    )
    if pool.max_nodes is not None and pool.min_nodes > pool.max_nodes:
        raise read.wrong("min_nodes", f"'min_nodes' ({pool.min_nodes}) is above 'max_nodes' ({pool.max_nodes})")
    if not _RESOURCE.fullmatch(pool.gpu_resource):
        raise read.wrong("gpu_resource", f"'gpu_resource' must look like 'vendor.example/gpu', not {pool.gpu_resource!r}")
    if pool.overcommit > 1.0 and any(flavor in gpu_flavors for flavor in flavors):
        raise read.wrong("overcommit", "'overcommit' above 1 is for pools of CPU flavors only")
    read.done()
    return pool


def _toleration(source: str, pool: str, item: object, line: int) -> Mapping[str, str]:
    read = _Reader(source, item, f"toleration of pool '{pool}'", line)
    allowed: dict[str, tuple[str, ...] | None] = {"key": None, "operator": _OPERATORS, "value": None, "effect": _EFFECTS}
    made: dict[str, str] = {}
    for key, values in allowed.items():
        value = read.take(key, None)
        if value is None:
            continue
        if not isinstance(value, str) or (values is not None and value not in values):
            raise read.wrong(key, f"'{key}' must be {'one of ' + ', '.join(values) if values else 'text'}, not {value!r}")
        made[key] = value
    read.done()
    return made
