"""Every sub-command of `hf spaces`, run by the interpreter of a fresh environment: `python sweep.py ENDPOINT TOKEN FOLDER`.

The program itself in this one process, which is as it starts but for the seconds that starting takes. Prints what was not as it
should be, and which sub-commands nobody has looked at yet.
"""

import contextlib
import io
import os
import re
import sys

endpoint, token, folder = sys.argv[1:4]
os.environ.update(HF_ENDPOINT=endpoint, HF_HOME=f"{folder}/home", HF_TOKEN=token, HF_HUB_DISABLE_TELEMETRY="1", NO_COLOR="1", COLUMNS="200")

import huggingface_hub as hub  # noqa: E402
from huggingface_hub.cli.hf import main  # noqa: E402


def hf(*words: str) -> tuple[int, str]:
    """Exit status and all that was printed."""
    out = io.StringIO()
    sys.argv = ["hf", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main()  # type: ignore[no-untyped-call]
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception as error:  # as the interpreter would show it
            status = getattr(error, "exit_code", 1)  # the way that some versions of its command line library end
            print(f"{type(error).__name__}: {error}" if status else "")
    return status, out.getvalue()


def commands(*group: str) -> list[str]:
    _, text = hf(*group, "--help")
    return re.findall(r"^  ([a-z][a-z-]+)  +[A-Z]", text.partition("commands:")[2].partition("Examples")[0], re.MULTILINE)


api = hub.HfApi(endpoint=endpoint, token=token)
me = api.whoami()["name"]
name, model = f"{me}/swept", f"{me}/weights"
api.create_repo(name, repo_type="space", space_sdk="gradio")
api.create_repo(model)
api.upload_file(path_or_fileobj=b"print('hi')\n", path_in_repo="app.py", repo_id=name, repo_type="space")
new_app = f"{folder}/app.py"
with open(new_app, "w") as file:
    file.write("print('hello')\n")

# words after `hf spaces`, whether it works, what is printed. What the platform has not is refused with a sentence.
SWEEP = (
    (("card", name), True, "sdk: gradio"),
    (("hardware", "--format", "json"), True, "cpu-basic"),
    (("info", name), True, name),
    (("info", name, "--expand", "sdk,runtime"), True, "gradio"),
    (("info", f"{me}/nothing-here"), False, "not found"),
    (("list", "--author", me), True, name),
    (("list", name), True, "app.py"),
    (("ls", name, "-R"), True, "README.md"),
    (("search", "swept", "--include-non-running"), True, name),
    (("templates",), True, ""),
    (("settings", name, "--sleep-time", "300"), True, ""),
    (("settings", name, "--hardware", "t4-small"), True, ""),
    (("settings", name, "--hardware", "cpu-basic"), True, ""),
    (("variables", "add", name, "-e", "COLOUR=blue"), True, ""),
    (("variables", "list", name), True, "COLOUR"),
    (("variables", "delete", name, "COLOUR", "--yes"), True, ""),
    (("secrets", "add", name, "-s", "HIDDEN=canary"), True, ""),
    (("secrets", "list", name), True, "HIDDEN"),
    (("secrets", "delete", name, "HIDDEN", "--yes"), True, ""),
    (("volumes", "set", name, "-v", f"hf://models/{model}:/models"), False, "over HF_ENDPOINT"),
    (("volumes", "list", name), True, ""),
    (("volumes", "delete", name, "--yes"), True, ""),
    (("dev-mode", name), False, "dev mode"),
    (("dev-mode", name, "--stop"), True, ""),
    (("ssh", name, "--dry-run", "--auto"), False, "dev mode"),
    (("hot-reload", name, "app.py", "-f", new_app, "--skip-checks", "--skip-summary"), True, ""),
    (("logs", name, "--build", "-n", "5"), True, ""),
    (("logs", name), True, ""),
    (("pause", name), True, "PAUSED"),
    (("wait", name, "--timeout", "5"), False, "PAUSED"),
    (("restart", name, "--factory-reboot"), True, "BUILDING"),
    (("wait", name, "--timeout", "1"), False, "Timed out"),
    (("zero-gpu", "quota"), True, ""),
)

known = commands("spaces")
seen = {words[0] for words, _, _ in SWEEP}
for group in ("variables", "secrets", "volumes", "zero-gpu"):
    if group in known:
        tried = {word for words, _, _ in SWEEP if words[0] == group for word in words[1:2]}
        print(*(f"nobody tries: hf spaces {group} {one}" for one in commands("spaces", group) if one not in tried), sep="\n")
print(*(f"nobody tries: hf spaces {one}" for one in known if one not in seen), sep="\n")
for words, works, text in SWEEP:
    if words[0] not in (*known, "ls"):
        continue  # a newer client's
    status, printed = hf("spaces", *words)
    if (status == 0) != works or text.lower() not in printed.lower() or "canary" in printed or "Traceback" in printed:
        print(f"wrong: hf spaces {' '.join(words)}: {status} {printed}")
api.delete_repo(name, repo_type="space")
api.delete_repo(model)
print(f"swept {len(known)} of", hub.__version__)
