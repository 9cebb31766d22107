"""Every sub-command of `hf` about Spaces, repositories and what people say and collect: `python sweep.py ENDPOINT TOKEN FOLDER`.

Run by the interpreter of a fresh environment: the program itself in this one process, which is as it starts but for the seconds that
starting takes. Prints what was not as it should be, and which sub-commands nobody has looked at yet.
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
    (("volumes", "set", name, "-v", f"hf://models/{model}:/models"), True, "/models"),
    (("volumes", "list", name), True, "/models"),
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

# The same for all else that a platform of one's own has. Made before: what the words below need the id of.
talk = api.create_discussion(model, title="Why", description="So").num
first_words = api.get_discussion_details(model, talk).events[0].id
hook = api.create_webhook(url="http://localhost:9/", watched=[{"type": "user", "name": me}]).id
slug = api.create_collection("Swept").slug
chosen = api.add_collection_item(slug, item_id=name, item_type="space").items[0].item_object_id
pull = api.create_commit(model, [hub.CommitOperationAdd("pulled.txt", b"new line")], commit_message="Pull", create_pr=True).pr_num
other = f"{me}/swept-other"
OTHERS = (
    (("repos", "create", other, "--private"), True, other),
    (("repos", "create", other), False, "already created"),
    (("repos", "create", other, "--exist-ok"), True, other),
    (("repos", "list"), True, other),
    (("repos", "settings", other, "--gated", "auto"), True, other),
    (("repos", "branch", "create", other, "side"), True, "side"),
    (("repos", "branch", "create", other, "side"), False, "already exists"),
    (("repos", "branch", "delete", other, "side"), True, "side"),
    (("repos", "tag", "create", other, "v1", "-m", "First"), True, "v1"),
    (("repos", "tag", "list", other), True, "v1"),
    (("repos", "tag", "delete", other, "v1", "-y"), True, "v1"),
    (("repos", "cp", new_app, f"hf://{other}/copied.py"), True, "copied.py"),
    (("repos", "delete-files", other, ".gitattributes"), True, ""),
    (("repos", "duplicate", other, f"{other}-2"), True, f"{other}-2"),
    (("repos", "move", f"{other}-2", f"{other}-3"), True, f"{other}-3"),
    (("repos", "delete", f"{other}-2", "--yes"), True, ""),  # by its old name
    (("repos", "delete", f"{other}-3", "--yes"), False, "not found"),
    (("models", "list", "--author", me), True, model),
    (("models", "list", model), True, ".gitattributes"),
    (("models", "info", model), True, model),
    (("models", "card", model), False, "not found"),
    (("datasets", "list", "--author", me), True, ""),
    (("datasets", "info", f"{me}/nothing-here"), False, "not found"),
    (("datasets", "card", f"{me}/nothing-here"), False, "not found"),
    (("discussions", "create", model, "--title", "Asked", "--body", "Why?"), True, "#"),
    (("discussions", "list", model, "--status", "all"), True, "Asked"),
    (("discussions", "info", model, str(talk)), True, "Why"),
    (("discussions", "comment", model, str(talk), "--body", "More"), True, ""),
    (("discussions", "edit", model, str(talk), first_words, "--body", "Less"), True, ""),
    (("discussions", "rename", model, str(talk), "Why not"), True, "Why not"),
    (("discussions", "close", model, str(talk), "--yes"), True, "closed"),
    (("discussions", "reopen", model, str(talk), "--yes"), True, "reopened"),
    (("discussions", "diff", model, str(pull)), True, "+new line"),
    (("discussions", "merge", model, str(pull), "--yes"), True, "merged"),
    (("discussions", "merge", model, str(pull), "--yes"), False, "merged"),
    (("webhooks", "create", "--url", "http://localhost:9/x", "--watch", f"model:{model}"), True, ""),
    (("webhooks", "list"), True, hook),
    (("webhooks", "info", hook), True, "http://localhost:9/"),
    (("webhooks", "disable", hook), True, hook),
    (("webhooks", "enable", hook), True, hook),
    (("webhooks", "update", hook, "--url", "http://localhost:9/y"), True, hook),
    (("webhooks", "delete", hook, "--yes"), True, hook),
    (("webhooks", "info", hook), False, ""),
    (("collections", "create", "Made"), True, "made"),
    (("collections", "list", "--owner", me, "--format", "json"), True, slug),
    (("collections", "info", slug), True, name),
    (("collections", "add-item", slug, model, "model", "--note", "n"), True, slug),
    (("collections", "update-item", slug, chosen, "--note", "m"), True, ""),
    (("collections", "delete-item", slug, chosen), True, ""),
    (("collections", "update", slug, "--title", "Renamed"), True, "renamed"),
    (("collections", "delete", slug), True, ""),  # by its old address
)
WITHOUT_US = ("datasets leaderboard", "datasets parquet", "datasets sql")  # services of the public Hub alone
tried = {" ".join(words[:depth]) for words, _, _ in OTHERS for depth in (2, 3)}
has: set[str] = set()
for group in ("repos", "repos branch", "repos tag", "models", "datasets", "discussions", "webhooks", "collections"):
    has |= {f"{group} {one}" for one in commands(*group.split())}
print(*(f"nobody tries: hf {one}" for one in sorted(has - tried) if one not in WITHOUT_US), sep="\n")
for words, works, text in OTHERS:
    if " ".join(words[:2]) not in has:
        continue  # a newer client's
    status, printed = hf(*words)
    if (status == 0) != works or text.lower() not in printed.lower() or "Traceback" in printed:
        print(f"wrong: hf {' '.join(words)}: {status} {printed}")
# What a person types first; with a program for each line: `test_command_line`.
for words, text in (
    (("auth", "login", "--token", token), ""),
    (("auth", "whoami"), me),
    (("upload", other, new_app, "up.py"), f"{endpoint}/{other}"),
    (("upload", other, new_app, "proposed.py", "--create-pr"), f"{endpoint}/{other}"),
    (("download", other, "up.py", "--local-dir", f"{folder}/down"), "up.py"),
):
    status, printed = hf(*words)
    if status or text not in printed or "Traceback" in printed:
        print(f"wrong: hf {words[0]}: {status} {printed}")
for one in api.list_webhooks():
    api.delete_webhook(one.id)
for made in api.list_collections(owner=me):
    api.delete_collection(made.slug)
api.delete_repo(other)
api.delete_repo(name, repo_type="space")
api.delete_repo(model)
print(f"swept {len(known)} of", hub.__version__)
