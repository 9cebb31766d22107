"""`vitrine up`, `vitrine serve …` and `vitrine doctor`: start the platform, whole or part by part."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click

from control_plane.domain.errors import VitrineError
from control_plane.settings import Settings, load_settings

READY_FD = "VITRINE_READY_FD"


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
        click.option("--port", type=int, help="Port to listen on (default: 7860; 0: any free one)"),
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
    """Run one component: api, proxy, scheduler or builder. State is in the database, Redis, the volume and the cluster."""


def _component(name: str, help_text: str, start: Callable[[Settings, Callable[[dict[str, Any]], None]], None]) -> None:
    @serve.command(name, help=help_text)
    @_options
    def command(config: Path | None, **overrides: Any) -> None:
        settings = _settings(config, **overrides)
        _die_with_parent()
        set_up_logging(settings, name)
        try:
            start(settings, _ready)
        except VitrineError as error:
            _fail(error.message)
        except KeyboardInterrupt:
            pass


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


def _api(settings: Settings, ready: Callable[[dict[str, Any]], None]) -> None:
    from control_plane.asgi import run_api

    _run_async(run_api(settings, ready))


def _proxy(settings: Settings, ready: Callable[[dict[str, Any]], None]) -> None:
    from control_plane.bootstrap import run_proxy

    _run_async(run_proxy(settings, ready))


def _scheduler(settings: Settings, ready: Callable[[dict[str, Any]], None]) -> None:
    from control_plane.bootstrap import run_scheduler

    _run_async(run_scheduler(settings, ready))


def _builder(settings: Settings, ready: Callable[[dict[str, Any]], None]) -> None:
    from control_plane.bootstrap import run_builder

    run_builder(settings, ready)


_component("api", "The API, web pages, git and LFS", _api)
_component("proxy", "The reverse proxy in front of everything", _proxy)
_component("scheduler", "Places, starts and stops apps", _scheduler)
_component("builder", "Builds what is pushed (a Celery worker)", _builder)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For machines")
def doctor(as_json: bool) -> None:
    """What this machine can and cannot do, each finding with its fix. Exit code 1 when something users meet does not work."""
    from dataclasses import asdict

    from control_plane.runtimes.process.doctor import Level, examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.level.value:8} {finding.name}: {finding.detail}")
            if finding.fix and finding.level is not Level.OK:
                click.echo(f"         fix: {finding.fix}")
    sys.exit(1 if any(f.level is Level.PROBLEM for f in findings) else 0)
