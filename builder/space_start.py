"""Copied into the environment of Gradio Spaces and imported by every Python that starts there. Standard library only, any Python.

With SYSTEM=spaces Gradio starts the hot-reload server of the `spaces` package in a thread of each app. Nothing here talks to that
server: a push that changes code is live in seconds anyway. So the thread just waits, which spares each start about 0.7 s of
processor time and 30 MB.
"""

import os
import sys
from types import ModuleType


def start_reload_server(prerun, postrun, stop_event, port=7887):  # type: ignore[no-untyped-def]  # the signature that Gradio calls
    stop_event.wait()


if os.environ.get("SYSTEM") == "spaces":
    _module = ModuleType("spaces.reloading", __doc__)
    _module.__dict__.update(start_reload_server=start_reload_server, reload_server_ports=set())
    sys.modules["spaces.reloading"] = _module
