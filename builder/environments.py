"""The shared store of Python environments of the process target: declaration → lock → environment.

    declaration key ──resolve once──▶ lock (name==version lines) ──sha256 with Python──▶ env key ──install once──▶ DIR/envs/<key>

Two Spaces whose declarations resolve to the same lock share one environment. An environment is built in a hidden folder
under a lock file and renamed into place when complete, so it is there whole or not at all, with any number of workers and
after any crash. It never changes after, except that bytecode may be added (see `bytecode`).
control_plane/decisions/0003-environment-store.md has the reasons.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from builder.bytecode import BytecodeStore, read_distributions
from builder.errors import BuildEnded, BuildFailed, IndexMoved
from builder.interpreters import Interpreter
from builder.locks import Lock, read_lock, tree_digest
from builder.reporter import CancelToken
from builder.requirements import Declaration
from builder.sandbox import BuildSandbox
from builder.step_guard import StepGuard
from builder.steps import Deadline, StepResult, StepRunner
from builder.uv import NEEDS_SOURCE_BUILD, UvConfig, lacks_what_was_resolved, last_words, lock_lines
from control_plane.domain.builds import BuildLimits
from control_plane.domain.reasons import Reason

logger = logging.getLogger("vitrine.builder")

READY = ".vitrine-env.json"  # inside an environment: what it was made of; its mtime is the last use
COMPILED = ".vitrine-compiled"  # beside it: all bytecode is there
_SPACE_START, _SPACE_START_NAME = Path(__file__).with_name("space_start.py"), "_vitrine_space_start"


@dataclass(frozen=True, slots=True)
class Environment:
    """A published environment. `was_there`: nothing had to be installed."""

    key: str
    path: Path
    was_there: bool


class EnvironmentStore:
    """DIR/envs and the caches that feed it. Safe for several workers and threads at once."""

    def __init__(self, data_dir: Path, uv: UvConfig, sandbox: BuildSandbox, guard: StepGuard | None = None) -> None:
        self._envs = data_dir / "envs"
        self._locks = self._envs / ".locks"
        self._resolved = self._envs / ".resolved"
        self._cache = data_dir / "cache"
        self._uv = uv
        self._sandbox = sandbox
        self._guard = guard
        self._bytecode = BytecodeStore(self._cache / "pyc")
        self._background: list[threading.Thread] = []
        self._closing = CancelToken()

    def path(self, key: str) -> Path:
        return self._envs / key

    def provide(
        self,
        declaration: Declaration,
        python: Interpreter,
        tree: Path,
        tenant: str,
        runner: StepRunner,
        *,
        fresh: bool = False,
        resolved: Callable[[Lock], None] = lambda lock: None,
    ) -> Environment:
        """The environment of a declaration; resolves and installs what is not there. `fresh` resolves again (factory rebuild);
        `resolved` hears of the lock before it is installed.

        An index and its caches may answer two questions differently: a release appears or is withdrawn between them. Then both are
        asked once more, past every cache. Raises BuildFailed (REQUIREMENTS_UNRESOLVED, REQUIREMENTS_FAILED, SANDBOX_UNAVAILABLE,
        limits) or BuildStopped.
        """
        lock = self.resolve(declaration, python, tree, tenant, runner, fresh=fresh)
        resolved(lock)
        try:
            return self.install(lock, python, tree, tenant, runner)
        except IndexMoved:
            runner.log.line("the package index does not have what it named before; resolving and installing once more, past its caches")
            lock = self.resolve(declaration, python, tree, tenant, runner, fresh=True)
            return self.install(lock, python, tree, tenant, runner)

    def resolve(
        self, declaration: Declaration, python: Interpreter, tree: Path, tenant: str, runner: StepRunner, *, fresh: bool = False
    ) -> Lock:
        """The lock of a declaration: kept from the first time until a factory rebuild, so a code-only push never moves a version."""
        facts = (python.version, self._uv.index_url) + ((tenant, tree_digest(tree)) if declaration.is_open else ())
        name = self._resolved / f"{declaration.key(*facts)}.json"
        with self._held(f"lock-{name.stem}", runner.cancel):
            if not fresh and (kept := read_lock(name)) is not None:
                return kept
            try:
                lock = self._lock(declaration, python, tree, tenant, runner, fresh)
            except BuildFailed:
                if not declaration.companions:
                    raise
                # The index lacks one, or the requirements contradict it; if they are wrong by themselves, this says so.
                lock = self._lock(replace(declaration, companions=()), python, tree, tenant, runner, fresh)
                runner.log.line(f"installed without {' and '.join(declaration.companions)}, which do not resolve here")
            _write_json(name, {"lines": list(lock.lines), "open": lock.is_open})
            return lock

    def _lock(self, declaration: Declaration, python: Interpreter, tree: Path, tenant: str, runner: StepRunner, fresh: bool) -> Lock:
        lock = self._resolve_wheels(declaration, python, runner, fresh) if not declaration.is_open else None
        return lock or self._resolve_open(declaration, python, tree, tenant, runner, fresh)

    def install(self, lock: Lock, python: Interpreter, tree: Path, tenant: str, runner: StepRunner) -> Environment:
        """The environment of a lock."""
        key = lock.key(python, self._uv.index_url, tenant if lock.is_open else "", tree_digest(tree) if lock.is_open else "")
        path = self._envs / key
        with self._held(f"env-{key}", runner.cancel):
            if (path / READY).is_file():
                os.utime(path / READY)
                runner.log.line(f"environment {key[:12]} is there already; nothing to install")
                environment = Environment(key, path, True)
            else:
                self._build(key, path, lock, python, tree, tenant, runner)
                environment = Environment(key, path, False)
        if not (path / COMPILED).exists():
            self._compile_later(environment, python, lock.is_open, tenant)
        return environment

    def touch(self, key: str) -> None:
        """Stamps a use of an environment; `gc` spares what was used lately."""
        with contextlib.suppress(OSError):
            os.utime(self._envs / key / READY)

    def gc(self, keep: Collection[str], *, unused_s: float = 7 * 86400.0) -> tuple[str, ...]:
        """Removes environments that are neither in `keep` nor used for `unused_s`, and folders a crash left. Returns their keys."""
        removed = []
        for entry in sorted(self._envs.iterdir()) if self._envs.is_dir() else ():
            if entry.name in (".locks", ".resolved") or not entry.is_dir():
                continue
            key = entry.name.removeprefix(".new-").partition("~")[0]
            with self._held_now(f"env-{key}") as held:
                if not held:
                    continue
                if not entry.name.startswith(".new-"):
                    if key in keep or _age_s(entry / READY) < unused_s:
                        continue
                    removed.append(key)
                    gone = self._envs / f".new-{key}~gone"
                    shutil.rmtree(gone, ignore_errors=True)
                    entry.rename(gone)  # out of sight at once: nobody finds half of it
                    entry = gone
                shutil.rmtree(entry, ignore_errors=True)
        return tuple(removed)

    def close(self) -> None:
        """Stops compiling in the background; the next use of an environment goes on with it."""
        self._closing.stop()
        for thread in self._background:
            thread.join(timeout=10)

    def settle(self, timeout_s: float = 60.0) -> None:
        """Waits until background compiling is done (tests, benchmarks)."""
        for thread in list(self._background):
            thread.join(timeout_s)

    # ── resolving ────────────────────────────────────────────────────────────────────────────────────────────────

    def _resolve_wheels(self, declaration: Declaration, python: Interpreter, runner: StepRunner, fresh: bool) -> Lock | None:
        """From wheels only; None when that needs a source build."""
        if not declaration.requirements:
            return Lock((), False)
        with _scratch() as folder:
            done = runner.run(
                self._compile_argv(declaration, python, folder, fresh, ("--no-build",)), env=self._variables(""), cwd=folder, quiet=True
            )
            if done.ok:
                return Lock(lock_lines((folder / "lock.txt").read_text()), False)
        if any(words in done.text.lower() for words in NEEDS_SOURCE_BUILD):
            runner.log.line("some requirements have no wheel for this Python; they are built from source in the build sandbox")
            return None
        raise _unresolved(done.text, runner)

    def _resolve_open(
        self, declaration: Declaration, python: Interpreter, tree: Path, tenant: str, runner: StepRunner, fresh: bool
    ) -> Lock:
        runner.log.line(f"this declaration is installed for its owner alone ({declaration.open_because or 'a source build'})")
        with _scratch() as folder:
            argv = self._compile_argv(declaration, python, folder, fresh, ())
            done = self._contained(argv, folder, tree, tenant, python, runner)
            if done.ok:
                return Lock((*declaration.options, *lock_lines((folder / "lock.txt").read_text())), True)
        raise _unresolved(done.text, runner)

    def _compile_argv(
        self, declaration: Declaration, python: Interpreter, folder: Path, fresh: bool, extra: tuple[str, ...]
    ) -> tuple[str, ...]:
        wanted = (*declaration.options, *declaration.requirements, *declaration.companions)
        (folder / "requirements.in").write_text("\n".join(wanted) + "\n")
        (folder / "constraints.txt").write_text("\n".join(declaration.constraints) + "\n")
        return (
            self._uv.path,
            "pip",
            "compile",
            "--quiet",
            "--no-header",
            "--no-annotate",
            "--python",
            python.path,
            "--constraints",
            str(folder / "constraints.txt"),
            "--output-file",
            str(folder / "lock.txt"),
            *extra,
            *(("--prerelease", "allow") if declaration.prerelease else ()),
            *(("--refresh",) if fresh else ()),
            str(folder / "requirements.in"),
        )

    # ── installing ───────────────────────────────────────────────────────────────────────────────────────────────

    def _build(self, key: str, path: Path, lock: Lock, python: Interpreter, tree: Path, tenant: str, runner: StepRunner) -> None:
        for left in self._envs.glob(f".new-{key}~*"):  # a worker died here; we hold its lock
            shutil.rmtree(left, ignore_errors=True)
        if path.exists():
            shutil.rmtree(path)
        self._envs.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".new-{key}~", dir=self._envs))
        try:
            building.chmod(0o755)
            self._create(building, python, tenant, lock, runner)
            if lock.lines:
                self._fill(building, lock, python, tree, tenant, runner)
            site = site_packages(building)
            if (site / "spaces" / "reloading").is_dir():
                shutil.copyfile(_SPACE_START, site / f"{_SPACE_START_NAME}.py")
                (site / f"{_SPACE_START_NAME}.pth").write_text(f"import {_SPACE_START_NAME}\n")
            missing = self._store(lock.is_open, tenant).link(site, read_distributions(site), python)
            if not missing:
                (building / COMPILED).touch()
            _write_json(
                building / READY, {"python": python.version, "interpreter": python.path, "lock": list(lock.lines), "open": lock.is_open}
            )
            building.rename(path)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise

    def _create(self, building: Path, python: Interpreter, tenant: str, lock: Lock, runner: StepRunner) -> None:
        argv = (self._uv.path, "venv", "--quiet", "--allow-existing", "--relocatable", "--python", python.path, str(building))
        done = runner.run(argv, env=self._variables(""), quiet=True)
        if not done.ok:
            raise BuildFailed(Reason.PLATFORM_ERROR, f"An environment could not be created: {done.text[-400:]}")

    def _fill(self, building: Path, lock: Lock, python: Interpreter, tree: Path, tenant: str, runner: StepRunner) -> None:
        runner.log.line(f"installing {len(lock.lines)} packages")
        with _scratch() as folder:
            (folder / "lock.txt").write_text("\n".join(lock.lines) + "\n")
            argv = (
                self._uv.path,
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--python",
                str(building / "bin/python"),
                *(() if lock.is_open else ("--no-build",)),
                "--requirements",
                str(folder / "lock.txt"),
            )
            if lock.is_open:
                done = self._contained(argv, folder, tree, tenant, python, runner, building)
            else:
                done = runner.run(argv, env=self._variables(""), watch=(building,))
        if not done.ok:
            failed = IndexMoved if lacks_what_was_resolved(done.text) else BuildFailed
            raise failed(Reason.REQUIREMENTS_FAILED, f"A requirement could not be installed: {last_words(done.text)}")

    def _contained(
        self,
        argv: Sequence[str],
        folder: Path,
        tree: Path,
        tenant: str,
        python: Interpreter,
        runner: StepRunner,
        building: Path | None = None,
    ) -> StepResult:
        cache = self._tenant_cache(tenant)
        return self._sandbox.run(
            argv,
            runner=runner,
            cwd=tree,
            # Two mounts are never one file system to link(2), so uv copies.
            env={**self._variables(tenant), "UV_LINK_MODE": "copy"},
            read_only=(tree, *_prefix(python), *self._uv.files()),
            writable=(folder, cache, *((building,) if building else ())),
        )

    # ── bytecode ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _compile_later(self, environment: Environment, python: Interpreter, is_open: bool, tenant: str) -> None:
        """Compiles in the background what the store does not have: the app may start meanwhile, only more slowly."""
        self._background = [one for one in self._background if one.is_alive()]
        thread = threading.Thread(
            target=self._compile, args=(environment, python, is_open, tenant), name=f"compile-{environment.key[:8]}", daemon=True
        )
        self._background.append(thread)
        thread.start()

    def _compile(self, environment: Environment, python: Interpreter, is_open: bool, tenant: str) -> None:
        try:
            with self._held_now(f"pyc-{environment.key}") as held, _scratch() as folder:
                if not held or (environment.path / COMPILED).exists():
                    return
                site, store = site_packages(environment.path), self._store(is_open, tenant)
                missing = store.link(site, read_distributions(site), python)
                listing = folder / "files.txt"
                listing.write_text("".join(f"{site / source}\n" for one in missing for source in one.sources if "\n" not in source))
                limits = BuildLimits(memory_bytes=4 << 30, time_s=900)
                runner = StepRunner(_Silent(), limits, self._closing, Deadline(900), self._guard)
                runner.run(("nice", "-n", "10", *store.compile_argv(python, listing)), env={"PATH": os.defpath}, quiet=True)
                store.harvest(site, missing, python)
                (environment.path / COMPILED).touch()
        except (BuildEnded, OSError) as error:
            logger.info("build.compile_stopped", extra={"env": environment.key, "error": repr(error)})

    def _store(self, is_open: bool, tenant: str) -> BytecodeStore:
        return BytecodeStore(self._tenant_cache(tenant) / "pyc") if is_open else self._bytecode

    # ── caches and locks ─────────────────────────────────────────────────────────────────────────────────────────

    def _tenant_cache(self, tenant: str) -> Path:
        """What untrusted steps may write is kept per tenant: a poisoned cache hits only its maker."""
        return self._cache / "tenants" / hashlib.sha256(tenant.encode()).hexdigest()[:24]

    def _variables(self, tenant: str) -> dict[str, str]:
        cache = self._tenant_cache(tenant) if tenant else self._cache / "uv"
        cache.mkdir(parents=True, exist_ok=True)
        return self._uv.variables(cache)

    @contextmanager
    def _held(self, name: str, cancel: CancelToken) -> Iterator[None]:
        """Waits for a lock between threads, processes and after crashes (flock dies with its holder)."""
        while True:
            with self._held_now(name) as held:
                if held:
                    yield
                    return
            cancel.check()
            cancel.wait(0.05)

    @contextmanager
    def _held_now(self, name: str) -> Iterator[bool]:
        self._locks.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._locks / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(handle)


class _Silent:
    def line(self, text: str) -> None:
        return


def _prefix(python: Interpreter) -> tuple[Path, ...]:
    """The interpreter's own tree, where it is not one of the system folders that every sandbox shows."""
    prefix = Path(python.path).parent.parent
    return () if prefix in (Path("/"), Path("/usr")) else (prefix,)


def site_packages(environment: Path) -> Path:
    """`lib/python3.X/site-packages` of an environment."""
    return next((environment / "lib").glob("python3.*/site-packages"))


def _unresolved(text: str, runner: StepRunner) -> BuildFailed:
    for line in text.splitlines():
        runner.log.line(line)
    return BuildFailed(Reason.REQUIREMENTS_UNRESOLVED, f"The requirements cannot be resolved: {last_words(text)}")


def _write_json(path: Path, body: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    hidden.write_text(json.dumps(body))
    hidden.replace(path)


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vitrine-build-") as folder:
        yield Path(folder)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")
