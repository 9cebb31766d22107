"""The hardware file: the default equals the code's catalogue, every mistake names its line, reload keeps the last good one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from control_plane.domain.errors import Rejected
from control_plane.domain.hardware import DEFAULT_FLAVORS
from control_plane.scheduler.pools import PoolFile, PoolFileError, default_hardware, parse

GOOD = """flavors:
  - {name: small, vcpu: 1, memory_gb: 2, disk_gb: 5}
  - name: gpu
    vcpu: 4
    memory_gb: 8
    disk_gb: 9
    gpu: {model: t4, memory_gb: 16}
pools:
  - name: p
    flavors: [small]
    overcommit: 1.5
  - name: g
    flavors: [gpu, small]
    max_nodes: 3
    spot: true
    runtime_class: gvisor
    node_selector: {vitrine.dev/pool: g}
    tolerations: [{key: gpu, operator: Exists, effect: NoSchedule}]
"""


def test_default_file_is_the_default_catalogue() -> None:
    hardware = default_hardware()
    assert hardware.catalog.flavors == DEFAULT_FLAVORS
    served = {flavor for pool in hardware.pools for flavor in pool.flavors}
    assert served == set(hardware.catalog.names)


def test_good_file() -> None:
    hardware = parse(GOOD)
    assert hardware.catalog.names == ("small", "gpu")
    gpu = hardware.pools[1]
    assert (gpu.is_spot, gpu.max_nodes, gpu.runtime_class, gpu.gpu_resource) == (True, 3, "gvisor", "nvidia.com/gpu")
    assert gpu.tolerations == ({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("vcpu: 1,", "vcpu: -1,", 2, "'vcpu' must be a number above 0"),
        ("vcpu: 1,", "vcpu: .nan,", 2, "'vcpu' must be a number"),
        ("vcpu: 1,", "cpus: 1,", 2, "'vcpu' is missing"),
        ("disk_gb: 5}", "disk_gb: 5, colour: red}", 2, "unknown key 'colour'"),
        ("name: gpu", "name: small", 3, "given twice"),
        ("    vcpu: 4", "    vcpu: true", 4, "'vcpu' must be a number"),
        ("model: t4,", "", 7, "'model' is missing"),
        ("model: t4", "model: t4, count: 0", 7, "'count' must be a whole number"),
        ("flavors: [small]", "flavors: [smal]", 10, "unknown flavor 'smal'"),
        ("flavors: [small]", "flavors: []", 10, "at least one"),
        ("flavors: [gpu, small]", "flavors: [gpu, gpu]", 13, "named twice"),
        ("overcommit: 1.5", "overcommit: 0.5", 11, "'overcommit'"),
        ("spot: true", "overcommit: 2", 15, "CPU flavors only"),
        ("max_nodes: 3", "max_nodes: 3\n    min_nodes: 4", 15, "'min_nodes' (4) is above"),
        ("spot: true", "spot: perhaps", 15, "true or false"),
        ("effect: NoSchedule", "effect: Never", 18, "must be one of"),
        ("{vitrine.dev/pool: g}", "{vitrine.dev/pool: 1}", 17, "text to text"),
        ("    overcommit: 1.5", "    overcommit: [1.5", 12, "not valid YAML"),
        ("name: g\n", "name: g\n    name: h\n", 13, "given twice"),
        ("spot: true", "gpu_resource: gpu", 15, "vendor.example/gpu"),
    ],
)
def test_mistakes_name_their_line(old: str, new: str, line: int, words: str) -> None:
    assert old in GOOD
    with pytest.raises(PoolFileError) as caught:
        parse(GOOD.replace(old, new, 1), source="hw.yaml")
    assert (caught.value.line, words in caught.value.message) == (line, True), caught.value.message
    assert caught.value.message.startswith(f"hw.yaml, line {line}:")


@pytest.mark.parametrize("text", ["", "[]", "flavors: 3", "flavors: []\npools: []", "a: &a [*a]", "!!python/object:os.system {}"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(Rejected):
        parse(text)


def test_reload_on_change_and_refusal_of_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    path.write_text(GOOD)
    refused: list[Rejected] = []
    file = PoolFile(path, refused.append)
    assert not file.reload()
    path.write_text(GOOD.replace("vcpu: 1,", "vcpu: 3,"))
    os.utime(path, ns=(1, 1))
    assert file.reload()
    assert file.current.catalog.flavors[0].vcpu == 3
    path.write_text("flavors: nonsense")
    assert not file.reload()
    assert not file.reload(), "the same bad file is reported once"
    assert len(refused) == 1
    assert file.current.catalog.flavors[0].vcpu == 3
    assert file.current.refused == refused[0].message
    path.unlink()
    assert not file.reload()
    assert len(refused) == 2
    path.write_text(GOOD)
    assert file.reload()
    assert file.current.refused == ""


def test_a_mounted_config_map_is_read_again_when_its_link_turns(tmp_path: Path) -> None:
    """Kubernetes changes a mounted file by turning the link of its folder; the file's own name stays what it was."""
    for number, text in enumerate((GOOD, GOOD.replace("vcpu: 1,", "vcpu: 3,"))):
        (tmp_path / f"v{number}").mkdir()
        (tmp_path / f"v{number}" / "pools.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("v0")
    (tmp_path / "pools.yaml").symlink_to("..data/pools.yaml")
    file = PoolFile(tmp_path / "pools.yaml")
    assert not file.reload()
    (tmp_path / "..new").symlink_to("v1")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    assert file.reload()
    assert file.current.catalog.flavors[0].vcpu == 3


def test_first_read_raises(tmp_path: Path) -> None:
    with pytest.raises(PoolFileError):
        PoolFile(tmp_path / "absent.yaml")
    assert PoolFile(None).current == default_hardware()
