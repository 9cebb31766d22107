"""The program git starts as `pre-receive` and `post-receive`. Runs alone (`python -I -S`), so it imports the standard library only.

It knows nothing: it hands its input to the platform over an inherited socket, prints the lines that come back (git sends them
to the person who pushes) and exits as told. When the socket is gone, it refuses.

    → {"hook": "pre-receive", "updates": [[ref, old, new], …], "options": […], "env": {…}}      one line
    ← {"line": "text"} …  {"exit": 0}                                                          one line each
"""

import json
import os
import socket
import sys

ENV_FD = "VITRINE_PUSH_FD"
PASSED = ("GIT_QUARANTINE_PATH", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES")


def main() -> int:
    updates = []
    for line in sys.stdin.buffer:
        old, new, ref = line.decode(errors="replace").rstrip("\n").split(" ", 2)
        updates.append([ref, old, new])
    count = int(os.environ.get("GIT_PUSH_OPTION_COUNT", "0"))
    options = [os.environ.get(f"GIT_PUSH_OPTION_{i}", "") for i in range(count)]
    env = {name: os.environ[name] for name in PASSED if name in os.environ}
    with socket.socket(fileno=int(os.environ[ENV_FD])) as door, door.makefile("rwb") as stream:
        stream.write(
            json.dumps({"hook": os.path.basename(sys.argv[1]), "updates": updates, "options": options, "env": env}).encode() + b"\n"
        )
        stream.flush()
        for reply in stream:
            body = json.loads(reply)
            if "exit" in body:
                return int(body["exit"])
            sys.stdout.write(body["line"] + "\n")
            sys.stdout.flush()
    return 1


if __name__ == "__main__":
    sys.exit(main())
