"""A Docker Space's own Dockerfile as BuildKit gets it. Pure.

What the platform adds are mounts of RUN steps, which are in no layer and no history: its package index, its Debian mirror, its
certificates. What the author mounts is kept apart from other people's: a cache belongs to the owner, and a step with a secret is
never answered from the cache of a Space with another secret (BuildKit's key of a step has the secret's id in it, not its value).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from builder.dockerfile_rules import Instruction, is_directive, parse

PIP, UV, APT_SOURCES, APT_CONF, CA = "vitrine-pip", "vitrine-uv", "vitrine-apt", "vitrine-apt-conf", "vitrine-ca"
# Of pip and uv: for steps that mount a cache. In others these tools keep none, for theirs holds the address of the index, in a layer.
_KEEPING = {PIP: "vitrine-pip-keeping", UV: "vitrine-uv-keeping"}
CA_PATH, _APT_PATH = f"/run/secrets/{CA}", f"/run/secrets/{APT_SOURCES}"
_TARGETS = {PIP: "/etc/pip.conf", UV: "/etc/uv/uv.toml", APT_SOURCES: _APT_PATH, APT_CONF: "/etc/apt/apt.conf.d/99vitrine", CA: CA_PATH}
_TARGETS |= {kept: _TARGETS[name] for name, kept in _KEEPING.items()}
# Read by Python, requests, curl, git and Node; values are a path, and only steps see them
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS")


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The platform's own, "" = none. `suite`: the Debian release of the image, "" where it is not known: a mirror needs it.
    `ca_bundle`: all authorities that are trusted, as PEM text."""

    index_url: str = ""
    apt_mirror: str = ""
    suite: str = ""
    ca_bundle: str = field(default="", repr=False)

    def files(self) -> dict[str, str]:
        """Mount id → text."""
        found: dict[str, str] = {}
        trust = f"cert = {CA_PATH}\n" if self.ca_bundle else ""
        if self.index_url:
            host = re.sub(r"\A\w+://(?:[^/@]*@)?([^/:]+).*", r"\1", self.index_url)
            insecure = f"trusted-host = {host}\n" if self.index_url.startswith("http://") else ""
            found[_KEEPING[UV]] = f'[[index]]\nurl = "{self.index_url}"\ndefault = true\n'
            found[UV] = f"no-cache = true\n{found[_KEEPING[UV]]}"
            trust = f"index-url = {self.index_url}\n{insecure}{trust}"
        if trust:
            found[_KEEPING[PIP]] = f"[global]\n{trust}"
            found[PIP] = found[_KEEPING[PIP]] + ("no-cache-dir = true\n" if self.index_url else "")
        apt = ""
        if self.ca_bundle:
            found[CA] = self.ca_bundle
            apt = f'Acquire::https::CaInfo "{CA_PATH}";\n'
        if self.apt_mirror and self.suite:
            found[APT_SOURCES] = "".join(f"deb {self.apt_mirror} {suite} main\n" for suite in (self.suite, f"{self.suite}-updates"))
            apt += f'Dir::Etc::sourcelist "{_APT_PATH}";\nDir::Etc::sourceparts "-";\n'
        if apt:
            found[APT_CONF] = apt
        return found


def for_buildkit(text: str, *, tenant: str, space_id: str, mounts: Sequence[str]) -> str:
    """`mounts`: ids of `Mirrors.files()` that every RUN step gets."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.strip() and not line.lstrip().startswith("#"):
            break
        if is_directive(line, "syntax"):
            lines[number] = "#"  # the platform's own frontend reads it
    after: dict[int, str] = {}
    for one in parse("\n".join(lines)):
        if one.word == "RUN":
            for name, value in one.flags:
                if name == "mount" and (mine := _own_mount(value, tenant, space_id)) != value:
                    _replace_first(lines, one, value, mine)
            keeps = any(name == "mount" and "type=cache" in value.split(",") for name, value in one.flags)
            added = _mounts(name for name in mounts if name not in (_KEEPING if keeps else _KEEPING.values()))
            lines[one.line - 1] = re.sub(r"\A(\s*RUN\s+)", rf"\1{added}", lines[one.line - 1], count=1, flags=re.IGNORECASE)
        elif one.word == "FROM" and CA in mounts:
            after[one.end] = "ARG " + " ".join(f"{name}={CA_PATH}" for name in _CA_VARIABLES)
    return "".join(f"{line}\n" + (f"{after[number]}\n" if number in after else "") for number, line in enumerate(lines, 1))


def _mounts(names: Iterable[str]) -> str:
    return "".join(f"--mount=type=secret,id={name},target={_TARGETS[name]},mode=0444 " for name in names)


def secret_id(space_id: str, name: str) -> str:
    """How the secret `name` of a Space is called towards BuildKit."""
    return f"{space_id}.{name}"


def plain_line(text: str, space_id: str) -> str | None:
    """A line of BuildKit's log in the author's words; None for one that says nothing."""
    if re.match(r"#\d+ (sha256:[0-9a-f]{64}|)\Z", text):
        return None
    text = re.sub(r"--mount=type=secret,id=vitrine-[a-z-]+,\S+ ", "", text)
    return text.replace(f"id={space_id}.", "id=")


def _own_mount(value: str, tenant: str, space_id: str) -> str:
    fields = [part.partition("=")[::2] for part in value.split(",")]
    known: Mapping[str, str] = dict(fields)
    kind = known.get("type", "bind")
    target = known.get("target") or known.get("dst") or known.get("destination") or ""
    if kind not in ("secret", "cache"):
        return value
    name = known.get("id") or (target.rpartition("/")[2] if kind == "secret" else target)
    own = secret_id(space_id, name) if kind == "secret" else f"{tenant}/{name}"
    kept = [(key, content) for key, content in fields if key != "id"]
    if kind == "secret" and not target and "env" not in known:
        kept.append(("target", f"/run/secrets/{name}"))
    return ",".join(f"{key}={content}" if content or key == "id" else key for key, content in [*kept, ("id", own)])


def _replace_first(lines: list[str], one: Instruction, old: str, new: str) -> None:
    for number in range(one.line - 1, one.end):
        if old in lines[number]:
            lines[number] = lines[number].replace(old, new, 1)
            return
