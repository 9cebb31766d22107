"""Which system calls an app may not make, as a classic BPF program assembled by hand. Pure.

Everything is allowed but a list: what changes namespaces, mounts, other processes, the clock or the kernel, and what
has been the way into the kernel most often (bpf, io_uring, userfaultfd, perf, keys). Numbers: the kernel's
`arch/x86/entry/syscalls/syscall_64.tbl` and `include/uapi/asm-generic/unistd.h`; layout: `seccomp(2)`, `linux/filter.h`.
"""

from __future__ import annotations

import struct

_LOAD, _JEQ, _JGE, _JSET, _AND, _RET = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NR, _ARCH, _ARG = 0, 4, 16  # offsets in struct seccomp_data; arguments are 8 bytes each, low word first
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET,TIME}
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_RAW = 3
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

# name → (x86-64, aarch64); None where the architecture lacks it
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "move_pages": (279, 239),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "open_tree_attr": (467, 467), "statmount": (457, 457), "listmount": (458, 458),
    "unshare": (272, 97), "setns": (308, 268), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "init_module": (175, 105),
    "delete_module": (176, 106), "finit_module": (313, 273), "create_module": (174, None), "query_module": (178, None),
    "acct": (163, 89), "swapon": (167, 224), "swapoff": (168, 225), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "sethostname": (170, 161), "setdomainname": (171, 162), "syslog": (103, 116), "vhangup": (153, 58),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "fanotify_init": (300, 262), "lookup_dcookie": (212, 18), "iopl": (172, None), "ioperm": (173, None),
    "modify_ldt": (154, None), "uselib": (134, None), "nfsservctl": (180, 42), "personality": (135, 92),
}  # fmt: skip
_CLONE, _SOCKET, _IOCTL, _CLONE3 = {"x86_64": 56, "aarch64": 220}, {"x86_64": 41, "aarch64": 198}, {"x86_64": 16, "aarch64": 29}, 435


def supported(machine: str) -> bool:
    return machine in _AUDIT_ARCH


def denied_numbers(machine: str) -> dict[str, int]:
    column = 0 if machine == "x86_64" else 1
    return {name: number for name, pair in _DENIED.items() if (number := pair[column]) is not None}


def build_filter(machine: str) -> bytes:
    """The program for `machine`. Raises KeyError for an architecture without a table."""
    code: list[tuple[int, int, int, int]] = []

    def op(what: int, value: int, if_true: int = 0, if_false: int = 0) -> None:
        code.append((what, if_true, if_false, value))

    def refuse(errno: int) -> None:
        op(_RET, _ERRNO | errno)

    op(_LOAD, _ARCH)
    op(_JEQ, _AUDIT_ARCH[machine], 1, 0)
    op(_RET, _KILL)  # a 32-bit call on a 64-bit kernel: its numbers mean other things
    op(_LOAD, _NR)
    if machine == "x86_64":
        op(_JGE, _X32_BIT, 0, 1)
        refuse(ENOSYS)
    for number in sorted(denied_numbers(machine).values()):
        op(_JEQ, number, 0, 1)
        refuse(EPERM)
    op(_JEQ, _CLONE3, 0, 1)
    refuse(ENOSYS)  # its flags are behind a pointer; the C library then falls back to clone
    op(_JEQ, _CLONE[machine], 0, 4)
    op(_LOAD, _ARG)
    op(_JSET, _NEW_NAMESPACES, 0, 1)
    refuse(EPERM)
    op(_RET, _ALLOW)
    op(_JEQ, _IOCTL[machine], 0, 5)
    op(_LOAD, _ARG + 8)
    op(_JEQ, _TIOCSTI, 1, 0)
    op(_JEQ, _TIOCLINUX, 0, 1)
    refuse(EPERM)
    op(_RET, _ALLOW)
    op(_JEQ, _SOCKET[machine], 1, 0)
    op(_RET, _ALLOW)
    op(_LOAD, _ARG)
    op(_JEQ, _AF_UNIX, 9, 0)  # → allow
    op(_JEQ, _AF_NETLINK, 5, 0)  # → protocol check
    op(_JEQ, _AF_INET, 1, 0)
    op(_JEQ, _AF_INET6, 0, 5)  # any other family → EAFNOSUPPORT
    op(_LOAD, _ARG + 8)
    op(_AND, 0xF)
    op(_JEQ, _SOCK_RAW, 4, 3)
    op(_LOAD, _ARG + 16)
    op(_JEQ, 0, 1, 0)  # NETLINK_ROUTE only: what getifaddrs asks
    refuse(EAFNOSUPPORT)
    op(_RET, _ALLOW)
    refuse(EPERM)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
