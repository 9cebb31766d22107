"""Running the git program with nothing inherited: no user configuration, no hooks but ours, no prompts, no replace refs.

`GitBinary.argv` and `.env` are pure; `run` and `spawn` start the program. Options that would let a repository's own
configuration run something are overridden on the command scope, which wins over the file in the repository.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from control_plane.domain.errors import Broken

# Written into every repository and repeated on the command line. `core.fsync` in the words of git 2.36 and later.
PINNED: tuple[tuple[str, str], ...] = (
    ("core.fsync", "objects,derived-metadata,reference"),
    ("core.fsyncMethod", "fsync"),
    ("core.logAllRefUpdates", "false"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("core.symlinks", "true"),
    ("transfer.fsckObjects", "true"),
    ("receive.fsckObjects", "true"),
    ("receive.denyDeletes", "false"),  # what may be deleted is the push policy's decision
    ("receive.denyNonFastForwards", "false"),
    ("receive.denyDeleteCurrent", "refuse"),
    ("receive.advertisePushOptions", "true"),
    ("receive.autogc", "false"),
    ("receive.updateServerInfo", "false"),
    # A push stays the pack it came as: loose objects cost a sync each now, and every later clone would have to deflate and
    # compare them again (10 s instead of 1 s for 100 MB in 50 files). `BareGitStore.tidy` rolls small packs together.
    ("receive.unpackLimit", "1"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("http.receivepack", "true"),
    ("uploadpack.allowFilter", "true"),
    ("uploadpack.allowAnySHA1InWant", "false"),
    ("protocol.allow", "never"),
    ("protocol.file.allow", "always"),
    ("core.sshCommand", "false"),
    ("core.fsmonitor", "false"),
    ("core.alternateRefsCommand", "true"),
    ("core.alternateRefsPrefixes", "refs/none/"),
    ("safe.directory", "*"),
)


class GitFailed(Exception):
    """git ended with a non-zero status; `stderr` is its text."""

    def __init__(self, argv: Sequence[str], returncode: int, stderr: str) -> None:
        super().__init__(f"git {argv[0] if argv else ''} ended with {returncode}: {stderr.strip()[:500]}")
        self.returncode = returncode
        self.stderr = stderr


@dataclass(frozen=True, slots=True)
class GitBinary:
    """`hooks_path` is a directory the platform owns (empty unless a push is being received). `search_path` is PATH."""

    hooks_path: Path
    program: str = "git"
    search_path: str = "/usr/local/bin:/usr/bin:/bin"

    def argv(self, *args: str, config: Sequence[tuple[str, str]] = (), hooks_path: Path | None = None) -> list[str]:
        pins = (*PINNED, ("core.hooksPath", str(hooks_path or self.hooks_path)), *config)
        return [self.program, *(part for key, value in pins for part in ("-c", f"{key}={value}")), *args]

    def env(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {
            "PATH": self.search_path,
            "HOME": "/dev/null",
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            **(extra or {}),
        }

    async def spawn(
        self,
        repo: Path,
        *args: str,
        env: Mapping[str, str] | None = None,
        config: Sequence[tuple[str, str]] = (),
        hooks_path: Path | None = None,
        stdin: int | None = asyncio.subprocess.DEVNULL,
        stderr: int | None = asyncio.subprocess.PIPE,
        pass_fds: Sequence[int] = (),
    ) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                *self.argv(*args, config=config, hooks_path=hooks_path),
                cwd=repo,
                env=self.env({"GIT_DIR": str(repo), **(env or {})}),
                stdin=stdin,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                pass_fds=tuple(pass_fds),
                limit=1 << 20,
            )
        except FileNotFoundError as error:
            raise Broken(f"the program '{self.program}' was not found; install git") from error

    async def run(
        self,
        repo: Path,
        *args: str,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        ok: tuple[int, ...] = (0,),
    ) -> bytes:
        """Standard output. Raises GitFailed on another exit status and Broken after `timeout_s` seconds."""
        process = await self.spawn(repo, *args, env=env, stdin=asyncio.subprocess.PIPE if input is not None else asyncio.subprocess.DEVNULL)
        try:
            async with asyncio.timeout(timeout_s):
                out, err = await process.communicate(input)
        except TimeoutError:
            raise Broken(f"git {args[0]} took more than {timeout_s:g} s") from None
        finally:
            await end(process)
        if process.returncode not in ok:
            raise GitFailed(args, process.returncode or 0, err.decode(errors="replace"))
        return out


async def end(process: asyncio.subprocess.Process) -> None:
    """Make sure that a child and what it started are gone and reaped; safe to call twice.

    SIGTERM first: git then removes its quarantine and its lock files.
    """
    for word in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            break
        try:
            os.killpg(process.pid, word)  # every child leads a session of its own
        except ProcessLookupError:
            pass
        try:
            async with asyncio.timeout(2.0):
                await process.wait()
        except TimeoutError:
            continue
    # The transport keeps the pipes open until the loop has seen their end; close them now.
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()
