"""A network namespace in which every address is local: what an app calls ends at our listeners or nowhere.

Loopback is brought up and `local default dev lo` is added for both families, so that a connection to any address is
delivered inside the namespace. Nothing is routed out: the only way out is a socket that the egress gateway made.
Layouts: `rtnetlink(7)`, `linux/rtnetlink.h`.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

_SIOCGIFINDEX, _SIOCSIFFLAGS = 0x8933, 0x8914
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_RTM_NEWROUTE = 24
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE, _NLM_F_REPLACE = 1, 4, 0x400, 0x100
_RT_TABLE_LOCAL, _RTPROT_BOOT, _RT_SCOPE_HOST, _RTN_LOCAL, _RTA_OIF = 255, 3, 254, 2, 4


def local_default_route(family: int, interface: int, sequence: int) -> bytes:
    """The netlink request for `ip route add local default dev <interface>`. Pure."""
    route = struct.pack("=BBBBBBBBI", family, 0, 0, 0, _RT_TABLE_LOCAL, _RTPROT_BOOT, _RT_SCOPE_HOST, _RTN_LOCAL, 0)
    attribute = struct.pack("=HHI", 8, _RTA_OIF, interface)
    flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_REPLACE
    return struct.pack("=IHHII", 16 + len(route) + len(attribute), _RTM_NEWROUTE, flags, sequence, 0) + route + attribute


def raise_loopback() -> int:
    """Bring `lo` up; its interface index."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFINDEX, struct.pack("16sI12x", b"lo", 0))
        index = int(struct.unpack("16sI12x", answer)[1])
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP | _IFF_RUNNING))
    return index


def make_everything_local() -> bool:
    """Route all of IPv4 (and IPv6 where the kernel has it) to `lo`; whether IPv6 took part."""
    index = raise_loopback()
    _add_route(socket.AF_INET, index)
    try:
        _add_route(socket.AF_INET6, index)
    except OSError:
        return False
    return True


def _add_route(family: int, index: int) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.bind((0, 0))
        netlink.send(local_default_route(family, index, 1))
        answer = netlink.recv(4096)
    error = struct.unpack_from("=i", answer, 16)[0]
    if error:
        raise OSError(-error, f"local default route: {os.strerror(-error)}")


def open_listeners(ports: list[int], *, ipv6: bool) -> list[tuple[str, int, socket.socket]]:
    """Sockets that catch what the app calls: TCP on `ports` and 53, UDP on 53. They work in this namespace for good."""
    found: list[tuple[str, int, socket.socket]] = []
    for family in [socket.AF_INET, socket.AF_INET6] if ipv6 else [socket.AF_INET]:
        for port in [*ports, 53]:
            listener = socket.socket(family, socket.SOCK_STREAM)
            _bind(listener, family, port)
            listener.listen(256)
            found.append(("tcp", port, listener))
        names = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET:
            names.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO: answer from the address that was asked
        else:
            names.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        _bind(names, family, 53)
        found.append(("udp", 53, names))
    return found


def _bind(sock: socket.socket, family: int, port: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
