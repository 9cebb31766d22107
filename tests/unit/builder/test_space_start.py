"""The start file of Gradio Spaces, in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import builder

_SCRIPT = """
import sys, threading
import space_start
from spaces.reloading import reload_server_ports, start_reload_server
stop = threading.Event()
thread = threading.Thread(target=start_reload_server, kwargs={"prerun": print, "postrun": bool, "stop_event": stop})
thread.start()
stop.set()
thread.join(10)
print(thread.is_alive(), reload_server_ports)
"""


def run(system: str) -> subprocess.CompletedProcess[str]:
    env = {"SYSTEM": system, "PYTHONPATH": str(Path(builder.__file__).parent), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-S", "-c", _SCRIPT], env=env, capture_output=True, text=True, timeout=30, check=False)


def test_the_reload_thread_waits_for_the_end_and_does_nothing() -> None:
    assert run("spaces").stdout == "False set()\n"


def test_elsewhere_nothing_is_replaced() -> None:
    assert "ModuleNotFoundError" in run("").stderr
