from __future__ import annotations

from pathlib import Path

from control_plane.runtimes.docker.build_limits import limit_buildkit
from control_plane.runtimes.docker.build_network import openings_of, reach
from control_plane.runtimes.docker.manifests import free_build_subnets, free_subnets
from control_plane.runtimes.docker.rules import Openings, firewall


def test_a_loopback_mirror_answers_at_the_gateway_and_only_its_port() -> None:
    openings = openings_of(("http://127.0.0.1:3141/simple", "https://10.1.2.3/debian", "http://8.8.8.8/", ""), ("10.9.9.9:5432", "bad"))
    assert (openings.loopback, openings.allow) == ((3141,), (("10.1.2.3", 443), ("10.9.9.9", 5432)))
    assert openings.uses_loopback
    assert reach("http://u:p@127.0.0.1:3141/simple", "10.212.7.1") == "http://u:p@10.212.7.1:3141/simple"
    assert reach("https://10.1.2.3/debian", "10.212.7.1") == "https://10.1.2.3/debian"
    rules = firewall("t", "w01234*", openings)
    assert 'iifname "w01234*" fib daddr type local tcp dport 3141 dnat ip to 127.0.0.1:3141' in rules
    assert 'iifname "w01234*" ip daddr 127.0.0.1 tcp dport 3141 accept' in rules


def test_the_hub_answers_on_the_gateway_s_port_80() -> None:
    assert "tcp dport { 7860, 80 } redirect to :7860" in firewall("t", "v*", Openings(hub_port=7860))
    assert "tcp dport { 7860, 80 } dnat ip to 127.0.0.1:7860" in firewall("t", "v*", Openings(hub_port=7860, hub_on_loopback=True))
    assert "nat hook" not in firewall("t", "v*", Openings())


def test_a_shared_bridge_is_closed_between_its_ports_and_open_from_outside() -> None:
    rules = firewall("t", "docker0", Openings(), shared_subnet="172.17.0.0/16")
    assert "table bridge t {" in rules and "    ip daddr 172.17.0.0/16 drop\n" in rules
    assert '    oifname "docker0" drop\n' not in rules
    assert '    oifname "v*" drop\n' in firewall("t", "v*", Openings())


def test_subnets_start_where_the_seed_says_and_go_round() -> None:
    everything = list(free_subnets("10.0.0.0/26", [], "seed"))
    assert sorted(everything) == sorted(free_subnets("10.0.0.0/26", []))
    assert next(free_subnets("10.0.0.0/26", everything[:1], "seed")) == everything[1]
    assert next(free_build_subnets("10.212.0.0/16", [], "x")).endswith("/24")


def test_limits_of_buildkit_are_written_where_its_steps_live(tmp_path: Path) -> None:
    assert limit_buildkit({"CgroupDriver": "cgroupfs", "CgroupVersion": "1"}, 5 << 30, 1.5, tmp_path)
    assert (tmp_path / "memory/docker/buildkit/memory.limit_in_bytes").read_text() == str(5 << 30)
    assert (tmp_path / "pids/docker/buildkit/pids.max").exists()
    assert (tmp_path / "cpu/docker/buildkit/cpu.cfs_quota_us").read_text() == "150000"
    assert limit_buildkit({"CgroupDriver": "cgroupfs", "CgroupVersion": "2"}, 5 << 30, 1.5, tmp_path)
    assert (tmp_path / "docker/buildkit/memory.max").read_text() == str(5 << 30)
    assert (tmp_path / "docker/buildkit/cpu.max").read_text() == "150000 100000"
    assert not limit_buildkit({"CgroupDriver": "systemd", "CgroupVersion": "2"}, 5 << 30, 1.5, tmp_path)
