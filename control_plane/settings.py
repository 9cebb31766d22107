"""The one reader of the environment and of `vitrine.toml`.

Precedence: `VITRINE_*` variable > `vitrine.toml` (in the data dir, or `--config`) > default. Every field's name carries its
unit; every field is documented in the README's settings table, and a test compares the two.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import urlsplit

from control_plane.domain.errors import Rejected

LOCAL_TOKEN_FILE = "local-token"  # in the run dir while the platform runs: what ready.json tells local tools


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. `doc` in each field's metadata is its line in the README's table."""

    data_dir: Path = field(default=Path(".vitrine"), metadata={"doc": "Where everything of the embedded default lives"})
    host: str = field(default="127.0.0.1", metadata={"doc": "Address the proxy listens on"})
    port: int = field(default=7860, metadata={"doc": "Port the proxy listens on"})
    public_url: str = field(default="", metadata={"doc": "Address people use; default `http://localhost:PORT`"})
    tls_certificates: str = field(
        default="", metadata={"doc": "`chain.pem:key.pem` pairs, comma-separated: the port speaks HTTPS, HTTP/2 included; first = default"}
    )
    http_port: int = field(default=0, metadata={"doc": "Second port, usually 80, that sends plain HTTP to HTTPS; 0 = none"})
    proxy_protocol: bool = field(default=False, metadata={"doc": "Connections begin with a PROXY header (v1 or v2) of a load balancer"})
    trusted_proxies: str = field(
        default="", metadata={"doc": "Networks of load balancers whose PROXY header or `X-Forwarded-*` is believed, comma-separated"}
    )
    proxy_processes: int = field(default=1, metadata={"doc": "Proxy processes that share the port (SO_REUSEPORT)"})
    access_log: str = field(default="-", metadata={"doc": "Where the proxy writes a JSON line per request: a file, `-` (its log) or `off`"})
    access_log_sample: str = field(default="1", metadata={"doc": "Part of successful requests that is logged, 0 to 1; errors always are"})
    client_rate: int = field(
        default=1000,
        metadata={"doc": "Requests a second of one client address per proxy process, loopback apart, five times that at once; 0 = any"},
    )
    client_connections: int = field(default=2048, metadata={"doc": "Open connections of one client address, loopback apart; 0 = any"})
    space_rate: int = field(
        default=0, metadata={"doc": "Requests a second to one Space per proxy process, five times that at once; 0 = any"}
    )
    apps_domain: str = field(default="localhost", metadata={"doc": "Spaces answer at `SUBDOMAIN.APPS_DOMAIN`"})
    runtime: str = field(
        default="auto",
        metadata={"doc": "`process`, `docker`, `kubernetes`, or `auto`: docker where its host and a registry are named, else process"},
    )
    trusted: bool = field(default=False, metadata={"doc": "Start apps even where the sandbox floor cannot be met"})
    database_url: str = field(default="", metadata={"doc": "`postgresql://…`; default: SQLite in the data dir"})
    redis_url: str = field(default="", metadata={"doc": "`redis://…`: broker, signals and routes; default: none of it needs a daemon"})
    secret_key: str = field(default="", metadata={"doc": "Master key (32 bytes, URL-safe base64); default: made once in the data dir"})
    worker_secret: str = field(default="", metadata={"doc": "Shared secret of builders and API; default: derived from the master key"})
    api_url: str = field(default="", metadata={"doc": "Address of the API for proxy and builders on other hosts; default: a Unix socket"})
    registry: str = field(default="", metadata={"doc": "`host:port[/prefix]` where images are pushed (container runtimes)"})
    registry_user: str = field(default="", metadata={"doc": "Name to sign in to the registry with; default: no sign-in"})
    registry_password: str = field(default="", metadata={"doc": "Password of that name"})
    registry_tokens: bool = field(
        default=False,
        metadata={
            "doc": "The registry trusts `vitrine images certificate`: builds and starts get tokens for their own Space's images only"
        },
    )
    docker_host: str = field(default="", metadata={"doc": "Docker Engine address; default: the engine's own default"})
    kube_namespace: str = field(default="vitrine", metadata={"doc": "Namespace of apps on Kubernetes"})
    kube_reach: str = field(
        default="auto", metadata={"doc": "How the proxy reaches apps on Kubernetes: `pod` addresses, API server `forward`, or `auto`"}
    )
    kube_cluster_ranges: str = field(
        default="", metadata={"doc": "Pod, service and node networks that apps may never reach, besides private ranges, comma-separated"}
    )
    kube_proxy_ranges: str = field(
        default="", metadata={"doc": "Addresses of proxies outside the cluster that may connect to apps, comma-separated"}
    )
    kube_dns_addresses: str = field(default="", metadata={"doc": "Addresses of a node-local DNS cache that apps may ask, comma-separated"})
    kube_namespace_per_owner: bool = field(default=False, metadata={"doc": "Each owner's apps in a namespace of their own"})
    kube_storage_gb: int = field(default=0, metadata={"doc": "Persistent `/data` of each Space on Kubernetes, GiB; 0 = none"})
    kube_storage_class: str = field(default="", metadata={"doc": "Storage class of that volume; default: the cluster's"})
    kube_pull_secret: str = field(
        default="", metadata={"doc": "Name of a Secret with which nodes pull all images; default: one per Space, made by Vitrine"}
    )
    kube_volume_image: str = field(
        default="",
        metadata={"doc": "Image with Python 3 in which nodes fetch the repositories that a Space mounts; default: the scheduler's own"},
    )
    kube_user_namespaces: bool = field(default=False, metadata={"doc": "Apps in user namespaces (`hostUsers: false`, Kubernetes 1.33)"})
    storage_tiers: str = field(
        default="small=20,medium=150,large=1000",
        metadata={"doc": "Persistent `/data` that owners may ask for: GB of each tier, comma-separated; what is not named is not offered"},
    )
    volume_trees_gb: int = field(
        default=50,
        metadata={"doc": "Disk for copies of repositories that Spaces mount, GB; large files are links to the repository's and need none"},
    )
    preempt_idle_s: int = field(
        default=60, metadata={"doc": "Seconds without use after which a Space may be put to sleep to make room for another"}
    )
    pools_file: str = field(default="", metadata={"doc": "YAML file of flavors and node pools; default: the shipped catalogue"})
    pypi_index_url: str = field(default="", metadata={"doc": "Package index that builds use"})
    apt_mirror: str = field(default="", metadata={"doc": "Debian mirror that builds of images use"})
    ca_bundle: str = field(default="", metadata={"doc": "PEM file of certificate authorities that builds and apps trust besides the usual"})
    build_concurrency: int = field(default=2, metadata={"doc": "Builds at once per worker process"})
    build_time_limit_s: int = field(default=1800, metadata={"doc": "Longest build, seconds"})
    build_cpu: int = field(default=0, metadata={"doc": "Cores of one build; 0 = all of the machine's, which apps get first"})
    build_memory_bytes: int = field(default=8 << 30, metadata={"doc": "Memory of one build, bytes"})
    build_disk_bytes: int = field(default=20 << 30, metadata={"doc": "Disk of one build, bytes"})
    build_guard: str = field(
        default="", metadata={"doc": "Socket of `vitrine serve guard`, which bounds BuildKit's steps for a builder that is not root"}
    )
    max_file_bytes: int = field(default=10 << 20, metadata={"doc": "Largest file in git without LFS, bytes"})
    max_push_bytes: int = field(default=2 << 30, metadata={"doc": "Largest pack of one push, bytes"})
    wake_timeout_s: int = field(default=300, metadata={"doc": "Longest time a request to a sleeping Space is held, seconds"})
    drain_s: int = field(default=60, metadata={"doc": "How long a replaced version finishes what it began, seconds"})
    finish_s: int = field(
        default=3600,
        metadata={"doc": "How long a renewed proxy still goes on with uploads, downloads and streams that it has begun, seconds"},
    )
    rights_recheck_s: int = field(
        default=30,
        metadata={"doc": "Seconds after which proxies ask again for what is open to private apps, should news of an ended right get lost"},
    )
    sleep_after_s: int = field(default=0, metadata={"doc": "Idle seconds before sleep, for Spaces whose owner set none; 0 = by flavor"})
    egress_ports: str = field(default="80,443", metadata={"doc": "Ports of the internet that apps may reach, comma-separated"})
    egress_allow: str = field(default="", metadata={"doc": "Private `host:port` pairs that apps may reach all the same, comma-separated"})
    import_allow: str = field(
        default="",
        metadata={"doc": "`host:port` of git servers that Spaces may be imported from although private or plain HTTP, comma-separated"},
    )
    thumbnails: bool = field(default=True, metadata={"doc": "Whether cards show pictures of running apps, where Chromium is installed"})
    thumbnails_proxy: str = field(
        default="", metadata={"doc": "`host:port` of a proxy that this API takes pictures through; default: the port of this machine"}
    )
    registration: bool = field(default=False, metadata={"doc": "Whether people may create their own account"})
    org_creation: bool = field(
        default=False, metadata={"doc": "Whether people may make organisations, each with quotas of its own; administrators always may"}
    )
    oidc_issuer: str = field(default="", metadata={"doc": "OpenID Connect provider people may sign in at; default: none"})
    oidc_client_id: str = field(default="", metadata={"doc": "Client id there; the callback is `PUBLIC_URL/sign-in/sso/callback`"})
    oidc_client_secret: str = field(default="", metadata={"doc": "Client secret at the provider"})
    oidc_name: str = field(default="single sign-on", metadata={"doc": "What the sign-in page calls the provider"})
    oidc_groups: str = field(default="", metadata={"doc": "`GROUP=ORG:ROLE,…`: a provider's group gives a role in an organisation"})
    oidc_admin_group: str = field(default="", metadata={"doc": "Group whose members are platform administrators; default: none"})
    metrics_token: str = field(default="", metadata={"doc": "Bearer token that may read `/-/proxy/metrics` of a proxy; default: nobody"})
    otlp_endpoint: str = field(default="", metadata={"doc": "Address of an OTLP/HTTP collector that gets a trace of each push"})
    audit_keep_days: int = field(default=0, metadata={"doc": "Days that audit events are kept, older ones go with `gc`; 0 = for ever"})
    log_level: str = field(default="info", metadata={"doc": "Platform log level"})

    @property
    def resolved_public_url(self) -> str:
        return (self.public_url or f"{'https' if self.tls_certificates else 'http'}://localhost:{self.port}").rstrip("/")

    @property
    def is_https(self) -> bool:
        return urlsplit(self.resolved_public_url).scheme == "https"

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'vitrine.db'}"

    @property
    def run_dir(self) -> Path:
        """Sockets. Unix socket paths end at 107 bytes, so a deep data dir gets a short private directory instead."""
        wanted = self.data_dir / "run"
        if len(str(wanted)) <= 70:
            return wanted
        import hashlib

        tag = hashlib.sha256(str(self.data_dir).encode()).hexdigest()[:12]
        base = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/vitrine-{os.getuid()}")
        return base / f"vitrine-{tag}"

    def app_url(self, subdomain: str) -> str:
        """Origin of a Space, with the port people use when it is not the scheme's own."""
        parts = urlsplit(self.resolved_public_url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{subdomain}.{self.apps_domain}{port}"

    def app_host(self, subdomain: str) -> str:
        return f"{subdomain}.{self.apps_domain}"


_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off", ""}


def _convert(name: str, kind: object, value: Any) -> Any:
    try:
        if kind is bool:
            if isinstance(value, bool):
                return value
            text = str(value).strip().lower()
            if text in _TRUE | _FALSE:
                return text in _TRUE
            raise ValueError("use true or false")
        if kind is int:
            if isinstance(value, bool):
                raise ValueError("use a whole number")
            return int(str(value))
        if kind is Path:
            return Path(str(value)).expanduser()
        return str(value)
    except ValueError as error:
        raise Rejected(f"setting {name}: {value!r} is not usable ({error})") from error


def _from_file(environ: Mapping[str, str], name: str) -> str:
    """The value of `VITRINE_X` out of the file that `VITRINE_X_FILE` names: how container engines hand over secrets."""
    path = environ.get(f"{name}_FILE")
    if not path:
        return ""
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Rejected(f"setting {name}_FILE: {path} cannot be read ({words})") from error


def env_name(field_name: str) -> str:
    return f"VITRINE_{field_name.upper()}"


def load_settings(
    *, environ: Mapping[str, str] | None = None, config_file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Read everything once. Raises Rejected naming the setting for an unknown key or an unusable value."""
    environ = os.environ if environ is None else environ
    kinds = get_type_hints(Settings)
    known = {f.name for f in fields(Settings)}
    values: dict[str, Any] = {}
    chosen = {k: v for k, v in (overrides or {}).items() if v is not None}
    data_dir = Path(chosen.get("data_dir") or environ.get("VITRINE_DATA_DIR") or ".vitrine").expanduser()
    path = config_file or data_dir / "vitrine.toml"
    if config_file is not None and not path.is_file():
        raise Rejected(f"there is no configuration file {path}")
    if path.is_file():
        try:
            document = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Rejected(f"{path}: {error}") from error
        for key, value in document.items():
            if key not in known:
                raise Rejected(f"{path}: unknown setting '{key}'; the README's table lists the known ones")
            values[key] = _convert(key, kinds[key], value)
    for name in known:
        text = environ.get(env_name(name)) or _from_file(environ, env_name(name))
        if text:
            values[name] = _convert(env_name(name), kinds[name], text)
    # The name that every OpenTelemetry program knows, where ours is not set.
    if not values.get("otlp_endpoint") and (standard := environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        values["otlp_endpoint"] = standard
    for key, value in chosen.items():
        values[key] = _convert(key, kinds[key], value)
    settings = replace(Settings(), **values)
    if settings.runtime == "auto" and settings.docker_host and settings.registry:
        settings = replace(settings, runtime="docker")
    if settings.runtime not in ("auto", "process", "docker", "kubernetes"):
        raise Rejected(f"setting runtime: '{settings.runtime}' is not one of auto, process, docker, kubernetes")
    if settings.kube_reach not in ("auto", "pod", "forward"):
        raise Rejected(f"setting kube_reach: '{settings.kube_reach}' is not one of auto, pod, forward")
    if not 0 <= settings.port <= 65535:
        raise Rejected(f"setting port: {settings.port} is not a port")
    return replace(settings, data_dir=settings.data_dir.absolute())
