"""The Celery worker: takes a message, asks the control plane whether it still holds, runs the build.

The message is a hint. Lost, doubled, stale or hostile ones do no harm: the answer to STARTED decides.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import sys
import threading
import warnings
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from celery import Celery, signals
from celery.apps.worker import Worker
from celery.platforms import SecurityWarning

from builder.broker import prepare_spool
from builder.config import ToolConfig, WorkerConfig
from builder.environments import EnvironmentStore
from builder.interpreters import Interpreters
from builder.layered import LayeredImages
from builder.pipeline import BuildDeps, ImagePipeline, run_build
from builder.reporter import BuildDoor, CancelToken
from builder.sandbox import make_sandbox
from builder.step_guard import StepGuard
from builder.uv import UvConfig
from control_plane.domain.builds import TASK_NAME, BuildRequest
from control_plane.domain.errors import Rejected

logger = logging.getLogger("vitrine.builder")


class BuildWorker:
    """The builds that run in this process. `close()` ends them at once."""

    def __init__(
        self,
        config: WorkerConfig,
        *,
        images: ImagePipeline | None = None,
        layers: LayeredImages | None = None,
        door: BuildDoor | None = None,
    ) -> None:
        tools = config.tools
        sandbox = make_sandbox(tools.sandbox_command, trusted=tools.trusted, allow=index_address(tools.pypi_index_url))
        self._guard = StepGuard()
        self._environments = EnvironmentStore(config.data_dir, uv_config(tools), sandbox, self._guard)
        self._door = door or BuildDoor(config.door)
        self._deps = BuildDeps(
            door=self._door,
            worker=config.name or f"{socket.gethostname()}-{os.getpid()}",
            data_dir=config.data_dir,
            environments=self._environments,
            interpreters=Interpreters(),
            sandbox=sandbox,
            images=images,
            layers=layers,
            heartbeat_s=config.heartbeat_s,
            dpkg_query=tools.dpkg_query,
            guard=self._guard,
        )
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], CancelToken] = {}
        self._closing = CancelToken()

    @property
    def environments(self) -> EnvironmentStore:
        return self._environments

    def handle(self, payload: object) -> None:
        """One message. Never raises: a bad one is logged and dropped."""
        if not isinstance(payload, Mapping):
            logger.warning("build.bad_message")
            return
        try:
            request = BuildRequest.from_payload(payload)
            check_request(request)
        except Rejected as error:
            logger.warning("build.bad_message", extra={"error": str(error)})
            return
        key, cancel = (request.build_id, request.attempt), CancelToken()
        with self._lock:
            if self._closing.is_set or key in self._running:
                return
            self._running[key] = cancel
        try:
            run_build(request, self._deps, cancel, self._closing)
        finally:
            with self._lock:
                del self._running[key]

    def stop(self) -> None:
        """Ends every running build now and takes no other; may be called from a signal handler's thread."""
        self._closing.stop()
        self._door.hurry()
        for cancel in list(self._running.values()):
            cancel.stop()

    def close(self) -> None:
        self.stop()
        self._environments.close()
        self._guard.close()
        self._door.close()


def check_request(request: BuildRequest) -> None:
    """Ids become paths here, so their shape is checked although only the control plane may send. Raises Rejected."""
    for name, value in (("build_id", request.build_id), ("space_id", request.space_id)):
        if not (isinstance(value, str) and 0 < len(value) <= 64 and value.isascii() and value.replace("-", "").replace("_", "").isalnum()):
            raise Rejected(f"not a BuildRequest: {name} {value!r}")
    if not isinstance(request.attempt, int) or not isinstance(request.app_file, str) or not isinstance(request.revision, str):
        raise Rejected("not a BuildRequest: wrong types")
    if request.app_file.startswith(("/", "-")) or ".." in request.app_file.split("/"):
        raise Rejected(f"not a BuildRequest: app_file {request.app_file!r}")


def uv_config(tools: ToolConfig) -> UvConfig:
    """uv as configured, beside this interpreter, or on PATH."""
    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    path = tools.uv or (beside if os.access(beside, os.X_OK) else shutil.which("uv") or "uv")
    return UvConfig(path=path, index_url=tools.pypi_index_url, ca_bundle=tools.ca_bundle, env=tools.tool_env)


def index_address(url: str) -> tuple[str, ...]:
    """The platform's own index as "host:port": the one address outside of the usual egress rule that builds may reach."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ()
    return (f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}",)


def make_worker_app(config: WorkerConfig, worker: BuildWorker | None = None) -> Celery:
    """The Celery app with its one task, `vitrine.build_revision`."""
    builds = worker or BuildWorker(config)
    app = Celery("vitrine-builder", broker=config.broker.url, set_as_current=False)
    if config.broker.transport:
        app.conf.broker_transport = config.broker.transport
    app.conf.update(
        broker_transport_options=dict(config.broker.transport_options),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_default_queue=config.broker.queue,
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        # Acknowledged at the build's end: until then it counts against the prefetch limit, so no message waits inside a busy worker.
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        worker_pool="threads",
        worker_concurrency=config.concurrency,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )

    @app.task(name=TASK_NAME, ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
    def build_revision(payload: Any = None) -> None:
        builds.handle(payload)

    return app


def run_worker(config: WorkerConfig, *, images: ImagePipeline | None = None, layers: LayeredImages | None = None) -> None:
    """Runs a worker in this process until SIGTERM or SIGINT, which end running builds at once. Call from the main thread."""
    prepare_spool(config.broker)
    # Root is celery's worry because of pickle; this worker takes JSON only, and contains what it runs.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    builds = BuildWorker(config, images=images, layers=layers)
    app = make_worker_app(config, builds)
    worker = Worker(
        app=app,
        pool="threads",
        concurrency=config.concurrency,
        queues=[config.broker.queue],
        hostname=f"builder-{os.getpid()}@{socket.gethostname()}",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
        loglevel="WARNING",
    )

    def stopping(**_: Any) -> None:
        builds.stop()

    def ours(**_: Any) -> None:
        """Logging is set up already; celery would put its own level on all of it."""
        for noisy in ("celery", "kombu"):
            logging.getLogger(noisy).setLevel(logging.WARNING)

    signals.worker_shutting_down.connect(stopping, weak=False)
    signals.setup_logging.connect(ours, weak=False)
    try:
        with contextlib.suppress(SystemExit):  # celery leaves by SystemExit after a warm shutdown
            worker.start()
    finally:
        signals.worker_shutting_down.disconnect(stopping)
        signals.setup_logging.disconnect(ours)
        builds.close()
        app.close()
