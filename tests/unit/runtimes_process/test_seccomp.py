"""The filter is run by a small BPF interpreter, so that every row of its table is checked on any machine."""

from __future__ import annotations

import struct

import pytest

from control_plane.runtimes.process.seccomp import build_filter, denied_numbers

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS, EAFNOSUPPORT = (0x00050000 | errno for errno in (1, 38, 97))
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE, SOCKET, IOCTL, READ, GETPID = (
    {"x86_64": 56, "aarch64": 220}, {"x86_64": 41, "aarch64": 198}, {"x86_64": 16, "aarch64": 29},
    {"x86_64": 0, "aarch64": 63}, {"x86_64": 39, "aarch64": 172},
)  # fmt: skip


def run(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    data = struct.pack("=IIQ6Q", number, ARCH[machine] if arch is None else arch, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    program = list(struct.iter_unpack("=HBBI", build_filter(machine)))
    at, accumulator = 0, 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x54:
            accumulator &= value
        elif code == 0x06:
            return int(value)
        else:
            met = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            at += if_true if met else if_false


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_each_listed_call_is_refused_and_ordinary_ones_pass(machine: str) -> None:
    assert {run(machine, number) for number in denied_numbers(machine).values()} == {EPERM}
    assert run(machine, READ[machine]) == ALLOW
    assert run(machine, GETPID[machine]) == ALLOW
    assert len(build_filter(machine)) // 8 < 4096  # the kernel's limit


def test_a_foreign_architecture_is_killed(machine: str) -> None:
    assert run(machine, 1, arch=0x40000003) == KILL


def test_x32_calls_do_not_exist() -> None:
    assert run("x86_64", 0x40000000 | 39) == ENOSYS


def test_clone_may_make_threads_and_processes_but_no_namespaces(machine: str) -> None:
    assert run(machine, CLONE[machine], 17) == ALLOW
    assert run(machine, CLONE[machine], 0x3D0F00) == ALLOW  # what pthread_create asks for
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
        assert run(machine, CLONE[machine], flag | 17) == EPERM
    assert run(machine, 435) == ENOSYS


@pytest.mark.parametrize(
    ("family", "kind", "protocol", "verdict"),
    [
        (1, 1, 0, ALLOW), (2, 1, 0, ALLOW), (2, 2 | 0o2000000, 17, ALLOW), (10, 1 | 0o4000, 6, ALLOW), (16, 3, 0, ALLOW),
        (2, 3, 1, EPERM), (10, 3 | 0o2000000, 58, EPERM), (16, 3, 12, EAFNOSUPPORT), (17, 3, 768, EAFNOSUPPORT),
        (38, 5, 0, EAFNOSUPPORT), (40, 1, 0, EAFNOSUPPORT), (44, 3, 0, EAFNOSUPPORT), (0, 1, 0, EAFNOSUPPORT),
    ],
)  # fmt: skip
def test_sockets(machine: str, family: int, kind: int, protocol: int, verdict: int) -> None:
    assert run(machine, SOCKET[machine], family, kind, protocol) == verdict


def test_no_typing_into_a_terminal(machine: str) -> None:
    assert run(machine, IOCTL[machine], 0, 0x5412) == EPERM
    assert run(machine, IOCTL[machine], 0, 0x541C) == EPERM
    assert run(machine, IOCTL[machine], 0, 0x5413) == ALLOW
