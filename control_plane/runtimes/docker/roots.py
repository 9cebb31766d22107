"""How the root of a container is made: read-only, with volumes where its image lets user 1000 write. Pure; see README.md, "Root and home".

Images that the platform writes say by a label where that is. In others a look tells it: once per image, a container without a network
and with no rights, in which the image's own `find` lists what user 1000 may write. Its words are a stranger's, and only ever cost them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

USER = "1000:1000"
HOME = "/home/user"
HOME_LABEL = "vitrine.home"
MAX_VOLUMES = 12
MAX_COPIED_KIB = 256 << 10  # volumes are filled from the image at each start: a fraction of a second
LOOK_S = 20  # longest look, seconds
# Everybody may write there in nearly every image, and hardly anybody does.
_LEFT_OUT = ("/run", "/tmp", "/var/crash", "/var/lock", "/var/mail", "/var/spool", "/var/tmp")
_NEVER = ("/", "/bin", "/etc", "/lib", "/lib64", "/sbin", "/usr", "/usr/bin", "/usr/lib", "/var")  # whole systems lie there
_KERNELS = ("/dev", "/proc", "/sys")

# $1: the image's working directory.
LOOK = f"""
size() {{ du -skx "$1" | {{ read -r k rest; echo "$k"; }}; }}
[ -d {HOME} ] || echo h 0 {HOME}
[ ! -d "$1" ] || echo w "$(size "$1")" "$1"
find / -xdev \\( {" -o ".join(f"-path {one}" for one in (*_LEFT_OUT, *_KERNELS))} \\) -prune -o \
\\( -type d -o -type f \\) \\( -user 1000 -o -perm -2 -o -group 1000 -perm -20 \\) -print -prune 2>/dev/null | while read -r p; do
  if [ -d "$p" ]; then echo d "$(size "$p")" "$p"; else echo f 0 "$p"; fi
done
echo end
"""


@dataclass(frozen=True, slots=True)
class Root:
    """`volumes`: where the image's files can be changed, for as long as the container is there. `has_home`: whether the image has a home
    folder; where it has none, a small one in memory is made."""

    is_read_only: bool = False
    volumes: tuple[str, ...] = ()
    has_home: bool = True


def root_by_label(image: Mapping[str, Any]) -> Root | None:
    """What the builder says about an image that the platform wrote; None where only a look tells. `image`: the engine's words about it."""
    labels = (image.get("Config") or {}).get("Labels") or {}
    return Root(True, (HOME,)) if labels.get(HOME_LABEL) == "volume" else None


def look_container(image: str, workdir: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """The body of `POST /containers/create`. Its root can be written, for `find` to see what could be; nothing of it is kept."""
    return {
        "Image": image, "User": USER, "Labels": dict(labels), "WorkingDir": "/",
        "Entrypoint": ["/bin/sh", "-c", LOOK, "look", workdir], "Cmd": [],
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "NetworkMode": "none", "Privileged": False, "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges:true"],
            "IpcMode": "private", "CgroupnsMode": "private", "NanoCpus": 1_000_000_000, "Memory": 256 << 20, "MemorySwap": 256 << 20,
            "PidsLimit": 32, "Init": True, "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
        },
    }  # fmt: skip


def root_by_look(words: str) -> Root:
    """From what the look printed. A root that can be written where it did not end well, or where too much would have to be copied.

    A working directory in which anything can be written is one volume: what belongs to whom stays as it is in the image. Single files
    elsewhere are not worth one.
    """
    lines = words.splitlines()
    if not lines or lines[-1] != "end":
        return Root()
    folders: dict[str, int] = {}
    files: list[str] = []
    workdir, has_home = ("", 0), True
    for line in lines[:-1]:
        kind, _, rest = line.partition(" ")
        size, _, path = rest.partition(" ")
        if kind == "h":
            has_home = False
        elif not size.isdigit() or not _is_plain(path):
            continue
        elif kind == "w":
            workdir = (path, int(size))
        elif kind == "d":
            folders[path] = int(size)
        elif kind == "f":
            files.append(path)
    inside = [path for path in (*folders, *files) if workdir[0] and path.startswith(f"{workdir[0]}/")]
    if inside and workdir[1] <= MAX_COPIED_KIB:
        folders = {workdir[0]: workdir[1], **{path: size for path, size in folders.items() if path not in inside}}
    if len(folders) > MAX_VOLUMES or sum(folders.values()) > MAX_COPIED_KIB:
        return Root()
    return Root(True, tuple(sorted(folders)), has_home)


def _is_plain(path: str) -> bool:
    """Whether it may be mounted on: a path and nothing else, and not a folder that whole systems lie in."""
    is_path = path.startswith("/") and posixpath.normpath(path) == path and path.isprintable() and len(path) <= 255
    return is_path and ":" not in path and path not in _NEVER
