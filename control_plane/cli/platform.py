"""`vitrine up`, `vitrine serve …` and `vitrine doctor`: start the platform, whole or part by part."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from control_plane.domain.errors import Rejected, VitrineError
from control_plane.net.listen import Address
from control_plane.settings import Settings, load_settings

READY_FD = "VITRINE_READY_FD"
LISTEN_FDS = "VITRINE_LISTEN_FDS"  # of a proxy under the supervisor: `slot:fd[,fd]`, the listeners it takes over


def _fail(message: str) -> None:
    click.echo(f"vitrine: {message}", err=True)
    sys.exit(1)


def _settings(config: Path | None, **overrides: Any) -> Settings:
    try:
        return load_settings(config_file=config, overrides=overrides)
    except VitrineError as error:
        _fail(error.message)
        raise AssertionError from error


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--config", type=click.Path(path_type=Path), help="vitrine.toml; default: the one in the data dir"),
        click.option("--runtime", type=click.Choice(["auto", "process", "docker", "kubernetes"]), help="Where apps run"),
        click.option(
            "--trusted",
            is_flag=True,
            default=None,
            help="Start apps even where the sandbox floor cannot be met: your own code on your own machine",
        ),
        click.option("--apps-domain", help="Spaces answer at SUBDOMAIN.APPS_DOMAIN (default: localhost)"),
        click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on (up, proxy: 7860; 0: any free one)"),
        click.option("--host", help="Address to listen on (default: 127.0.0.1)"),
        click.option("--data-dir", type=click.Path(path_type=Path), help="Where everything is kept (default: .vitrine)"),
    ):
        command = option(command)
    return command


@click.command(epilog="Example: vitrine up --port 8000 --data-dir /srv/vitrine")
@_options
def up(config: Path | None, **overrides: Any) -> None:
    """Start the whole platform in one process tree; Ctrl-C stops all of it, apps included."""
    from control_plane.cli.supervisor import Supervisor

    settings = _settings(config, **overrides)
    try:
        sys.exit(Supervisor(settings, config).run())
    except VitrineError as error:
        _fail(error.message)


@click.group()
def serve() -> None:
    """Run one component: api, proxy, scheduler, builder or its guard. State is in the database, Redis, the volume and the cluster."""


@dataclass(frozen=True)
class Launch:
    """How one component was started. `listen` is the TCP address asked for, None = none; `ready` tells that it works."""

    ready: Callable[[dict[str, Any]], None]
    listen: Address | None
    supervised: bool


def _component(name: str, help_text: str, start: Callable[[Settings, Launch], None], example: str) -> None:
    @serve.command(name, help=help_text, epilog=f"Example: {example}")
    @_options
    def command(config: Path | None, host: str | None, port: int | None, **overrides: Any) -> None:
        if name == "proxy":
            overrides.update(host=host, port=port)
        settings = _settings(config, **overrides)
        supervised = READY_FD in os.environ
        _die_with_parent()
        set_up_logging(settings, name)
        try:
            listen = None if name == "proxy" or supervised else _listen_at(name, settings, host, port)
            start(settings, Launch(_ready if supervised else _announce(name), listen, supervised))
        except VitrineError as error:
            _fail(f"{error.message.rstrip('.')}. {error.hint}" if error.hint else error.message)
        except KeyboardInterrupt:
            pass


def _listen_at(name: str, settings: Settings, host: str | None, port: int | None) -> Address | None:
    """The TCP address of a component on its own; the API's default is the port of the address that others are told."""
    from control_plane.net.api_address import host_and_port

    if port is None and name == "api" and settings.api_url:
        port = host_and_port(settings.api_url)[1]
    if port is None and host is not None:
        raise Rejected(f"--host {host} needs a --port")
    return None if port is None else Address(host or settings.host, port)


def _announce(name: str) -> Callable[[dict[str, Any]], None]:
    """On its own, a component says so on its output: one line, and the API the way in until somebody signed in."""

    def say(facts: dict[str, Any]) -> None:
        where = facts.get("listen") or (f"port {facts['port']}" if "port" in facts else "")
        print(f"vitrine {name}: {facts.get('note') or 'ready'}{f' on {where}' if where else ''}", flush=True)
        if link := facts.get("sign_in_link"):
            print(f"Sign in once as admin: {link}", flush=True)
        for warning in facts.get("warnings", ()):
            print(f"warning: {warning}", flush=True)

    return say


def _ready(facts: dict[str, Any]) -> None:
    """Tell the supervisor that this component works, with what it wants known."""
    if fd := os.environ.pop(READY_FD, ""):
        os.write(int(fd), json.dumps(facts).encode() + b"\n")
        os.close(int(fd))


def _die_with_parent() -> None:
    """Under the supervisor: die when it dies, however it dies (PR_SET_PDEATHSIG, prctl(2))."""
    if READY_FD in os.environ:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(1)


def set_up_logging(settings: Settings, name: str) -> None:
    from control_plane.telemetry.logs import set_up

    set_up(name, settings.log_level)


def _run_async(main: Coroutine[Any, Any, None]) -> None:
    """Run until SIGTERM or SIGINT, then cancel and let it clean up."""

    async def until_told() -> None:
        task = asyncio.ensure_future(main)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            pass

    import uvloop

    uvloop.run(until_told())


def _api(settings: Settings, launch: Launch) -> None:
    from control_plane.serve_api import run_api

    _run_async(run_api(settings, launch.ready, listen=launch.listen, supervised=launch.supervised))


def _proxy(settings: Settings, launch: Launch) -> None:
    from control_plane.bootstrap import run_proxy

    slot, _, inherited = os.environ.pop(LISTEN_FDS, "1:").partition(":")
    fds = tuple(int(fd) for fd in inherited.split(",") if fd)
    _run_async(run_proxy(settings, launch.ready, listen_fds=fds, slot=int(slot)))


def _scheduler(settings: Settings, launch: Launch) -> None:
    from control_plane.bootstrap import run_scheduler

    _run_async(run_scheduler(settings, launch.ready, listen=launch.listen))


def _builder(settings: Settings, launch: Launch) -> None:
    from control_plane.bootstrap import run_builder

    run_builder(settings, launch.ready, listen=launch.listen)


def _guard(settings: Settings, launch: Launch) -> None:
    from control_plane.bootstrap.building import run_guard

    run_guard(settings, launch.ready)


_component("api", "The API, web pages, git and LFS", _api, "vitrine serve api --port 8000")
_component("proxy", "The reverse proxy in front of everything", _proxy, "vitrine serve proxy --host 0.0.0.0 --port 7860")
_component("scheduler", "Places, starts and stops apps", _scheduler, "vitrine serve scheduler --runtime docker")
_component("builder", "Builds what is pushed (a Celery worker)", _builder, "vitrine serve builder --port 8002")
_component(
    "guard",
    "Bounds BuildKit's steps, as root, for a builder that is not",
    _guard,
    "VITRINE_BUILD_GUARD=/run/guard.sock vitrine serve guard",
)


@click.command(epilog="Example: vitrine health http://127.0.0.1:8000/readyz")
@click.argument("url")
@click.option("--timeout", "timeout_s", type=float, default=4.0, help="Seconds to wait (default: 4)")
def health(url: str, timeout_s: float) -> None:
    """Whether a component answers at URL with a 2xx: exit code 0 or 1. For health checks of containers."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=timeout_s) as answer:
            click.echo(answer.read(2000).decode("utf-8", "replace").strip())
    except urllib.error.HTTPError as error:
        with error:
            _fail(f"{url} answered {error.code}: {error.read(500).decode('utf-8', 'replace').strip()}")
    except (OSError, ValueError) as error:
        _fail(f"{url} does not answer: {error}")


@click.command(
    epilog="Example: vitrine doctor --json        or, for other settings: vitrine doctor --runtime docker --data-dir /srv/vitrine"
)
@click.option("--json", "as_json", is_flag=True, help="For machines")
@click.option("--runtime", type=click.Choice(["auto", "process", "docker", "kubernetes"]), help="As if apps ran there")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Whose settings and disk are looked at (default: .vitrine)")
@click.option("--config", type=click.Path(path_type=Path), help="vitrine.toml; default: the one in the data dir")
def doctor(as_json: bool, runtime: str | None, data_dir: Path | None, config: Path | None) -> None:
    """What this machine can and cannot do, each finding with its fix. Exit code 1 when something users meet does not work."""
    from dataclasses import asdict

    from control_plane.cli.doctor import examine_platform
    from control_plane.runtimes.process.doctor import Level, examine

    settings = _settings(config, runtime=runtime, data_dir=data_dir)
    findings = (*examine(), *examine_platform(settings))
    if as_json:
        click.echo(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.level.value:8} {finding.name}: {finding.detail}")
            if finding.fix and finding.level is not Level.OK:
                click.echo(f"         fix: {finding.fix}")
    sys.exit(1 if any(f.level is Level.PROBLEM for f in findings) else 0)
