"""Images of Python Spaces without a container engine: interpreter, environment and app as three layers.

    interpreter + the machine's libraries it loads   /usr…           one per Python of the builder
    environment of the shared store                  /opt/env        one per lock, with the libraries its wheels load
    the pushed tree                                  /home/user/app  one per build, a few kilobytes

Nothing of the owner's runs as root or outside of the build sandbox, no daemon and no base image is needed, and a push that
changes code only sends one small layer. Dockerfiles and Debian packages still need an engine.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from builder.elf import Libraries
from builder.environments import COMPILED
from builder.interpreters import Interpreter
from builder.oci import Entry, Layer, Registry, pack, tree_entries
from builder.recipes import Plan
from builder.reporter import BuildReporter, CancelToken
from builder.requirements import read_packages
from builder.source import SourceTree
from control_plane.domain.builds import Artifact, ArtifactKind, BuildPhase, BuildRequest, BuildResult

ENVIRONMENT, APP, USER = "/opt/env", "/home/user/app", 1000
_SKIPPED = ("test", "tests", "idlelib", "lib2to3", "ensurepip", "tkinter", "turtledemo", "site-packages", "dist-packages", "__pycache__")
_ASK = "import sysconfig as s; print(s.get_paths()['stdlib']); print(s.get_paths()['platstdlib'])"
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_MACHINE_FILES = ("/etc/ssl/openssl.cnf", "/bin/sh", "/usr/bin/env")
_PASSWD = b"root:x:0:0:root:/root:/usr/sbin/nologin\nuser:x:1000:1000:user:/home/user:/bin/sh\n"


class LayeredImages:
    """`cache` keeps packed layers of interpreters and environments; the newest of each key is used again."""

    def __init__(self, registry: str, cache: Path, login: tuple[str, str] | None = None) -> None:
        self._registry, self._cache = Registry(registry, login), cache

    def takes(self, request: BuildRequest, tree: SourceTree) -> bool:
        """Python Spaces without Debian packages and without a GPU base image of their own."""
        return request.sdk in ("gradio", "streamlit") and not read_packages(tree.text("packages.txt") or "")

    def assemble(
        self, request: BuildRequest, plan: Plan, environment: Path, python: Interpreter, tree: SourceTree, reporter: BuildReporter,
        cancel: CancelToken,
    ) -> BuildResult:  # fmt: skip
        """Raises BuildFailed or BuildStopped."""
        reporter.phase(BuildPhase.IMAGE, "packing the layers of the image")
        libraries = _libraries(python)
        with tempfile.TemporaryDirectory(prefix="vitrine-layers-") as scratch:
            base = self._kept(f"python-{python.version}-{_stamp(Path(python.path))}", _interpreter(python, libraries), cancel)
            kept = "env" if is_compiled(environment) else "source"
            env = self._kept(f"{kept}-{environment.name}", environment_entries(environment, libraries), cancel)
            app = pack(tree_entries(tree.root, APP, uid=USER), Path(scratch, "app"), cancel)
            layers = (base, env, app)
            reporter.phase(BuildPhase.PUBLISH, "pushing the image")
            ref = self._registry.push(
                request.space_id, layers, _config(request, plan), request.build_id, cancel, token=reporter.registry_token()
            )
        size = sum(layer.size for layer in layers)
        return BuildResult(Artifact(ArtifactKind.IMAGE, ref, size_bytes=size), replace(plan.launch, argv=()))

    def _kept(self, name: str, entries: Iterator[Entry], cancel: CancelToken) -> Layer:
        """A layer of the cache, or packed now. Two workers that pack the same do no harm: the last rename wins, both are whole."""
        folder = self._cache / name
        try:
            facts = json.loads((folder.with_suffix(".json")).read_text())
            layer = Layer(folder.with_suffix(f".{facts['digest'][7:19]}.tar.gz"), **facts)
            if layer.path.stat().st_size == layer.size:
                return layer
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, fresh = tempfile.mkstemp(prefix=".new-", dir=self._cache)
        os.close(handle)
        packed = pack(entries, Path(fresh), cancel)
        final = folder.with_suffix(f".{packed.digest[7:19]}.tar.gz")
        os.rename(fresh, final)
        layer = replace(packed, path=final)
        note = Path(f"{fresh}.json")
        note.write_text(json.dumps(layer.as_json()))
        os.rename(note, folder.with_suffix(".json"))
        return layer


def _libraries(python: Interpreter) -> Libraries:
    """An interpreter built by hand has its own library beside it, which its run path names."""
    return Libraries((Path(os.path.realpath(python.path)).parent.parent / "lib",))


def interpreter_layer(python: Interpreter, path: Path, cancel: CancelToken) -> Layer:
    """The lowest layer alone."""
    return pack(_interpreter(python, _libraries(python)), path, cancel)


def _interpreter(python: Interpreter, libraries: Libraries) -> Iterator[Entry]:
    real = Path(os.path.realpath(python.path))
    done = subprocess.run([python.path, "-I", "-S", "-c", _ASK], capture_output=True, text=True, timeout=10, check=True, env={})
    files: dict[str, Path] = {str(real): real}
    for root in {Path(line) for line in done.stdout.split()}:
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(d for d in folders if d not in _SKIPPED and not d.startswith("config-"))
            files |= {str(Path(folder, name)): Path(folder, name) for name in names if not name.endswith(".pyc")}
    binaries = [path for path in files.values() if path == real or ".so" in path.name]
    for name in _MACHINE_FILES:
        if os.path.exists(name):
            files[name] = Path(os.path.realpath(name))
            binaries.append(files[name])
    bundle = next((name for name in _BUNDLES if os.path.exists(name)), None)
    if bundle:
        files[_BUNDLES[0]] = Path(os.path.realpath(bundle))
    files |= libraries.closure(binaries)
    for folder in ("/lib", "/usr/lib"):  # the C library loads these by itself
        for path in Path(folder, f"{os.uname().machine}-linux-gnu").glob("libnss_*.so.2"):
            files[str(path)] = Path(os.path.realpath(path))
    yield Entry("/tmp", mode=0o1777)
    yield Entry("/data", uid=USER)
    yield Entry("/home/user", uid=USER)
    yield Entry("/etc/passwd", content=_PASSWD, mode=0o644)
    yield Entry("/etc/group", content=b"root:x:0:\nuser:x:1000:\n", mode=0o644)
    yield Entry("/usr/local/bin/python", link=str(real), mode=0o777)
    yield Entry("/usr/local/bin/python3", link=str(real), mode=0o777)
    for name, path in files.items():
        yield Entry(name, path, mode=0o755 if os.access(path, os.X_OK) else 0o644)


def is_compiled(environment: Path) -> bool:
    """Whether nobody writes to this environment any more."""
    return (environment / COMPILED).exists()


def environment_entries(environment: Path, libraries: Libraries) -> Iterator[Entry]:
    """Times are kept: bytecode beside a source is valid for its exact time only. While it is being written it is left out."""
    unfinished = () if is_compiled(environment) else ("__pycache__",)
    yield from tree_entries(environment, ENVIRONMENT, keep_times=True, skip=unfinished)
    binaries = [path for path in environment.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    for name, path in libraries.closure(binaries).items():
        yield Entry(name, path, mode=0o755)


def _config(request: BuildRequest, plan: Plan) -> dict[str, object]:
    variables = {
        "PATH": f"{ENVIRONMENT}/bin:/usr/local/bin:/usr/bin:/bin", "VIRTUAL_ENV": ENVIRONMENT, "HOME": "/home/user",
        "LANG": "C.UTF-8", "SSL_CERT_FILE": _BUNDLES[0], **plan.launch.env,
    }  # fmt: skip
    return {
        "User": f"{USER}:{USER}",
        "WorkingDir": APP,
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "Cmd": list(plan.launch.argv),
        "ExposedPorts": {f"{plan.launch.port}/tcp": {}},
        "Labels": {"vitrine.space": request.space_id, "vitrine.revision": request.revision},
    }


def _stamp(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size:x}-{found.st_mtime_ns:x}"
