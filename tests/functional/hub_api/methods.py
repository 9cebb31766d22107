"""Every public method of the client's `HfApi`: `python methods.py ENDPOINT TOKEN GUEST_TOKEN FOLDER`, by the Python of a fresh environment.

Each is called as a person would and its answer looked at; what the platform has not (section of other services) is named here. Prints
what was not as it should be, and the methods that nobody has looked at yet.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, get_args

endpoint, token, guest_token, folder = sys.argv[1:5]
os.environ.update(HF_ENDPOINT=endpoint, HF_HOME=f"{folder}/home", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")

import huggingface_hub as hub  # noqa: E402
from huggingface_hub.utils import HfHubHTTPError, get_session  # noqa: E402

# Services of other hosts, or ones that no platform of one's own has: jobs, buckets, papers, inference.
ELSEWHERE = ("bucket", "job", "paper", "inference", "leaderboard", "kernel", "parquet", "resource_group")
# Of the object itself, without a call; and what needs an app that runs (`tests/e2e/test_clients_live.py`).
WITHOUT_US = ("get_full_repo_name", "wait_for_space", "preupload_lfs_files")

api = hub.HfApi(endpoint=endpoint, token=token)
guest = hub.HfApi(endpoint=endpoint, token=guest_token)
tried: set[str] = set()


class Calls:
    """`api`, noting each method that was called."""

    def __init__(self, of: hub.HfApi) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        tried.add(name)
        return getattr(self._of, name)


def check(what: str, holds: object) -> None:
    if not holds:
        print(f"wrong: {what}")


def refused(name: str, *args: Any, status: int, of: Any = None, **kwargs: Any) -> None:
    try:
        getattr(of or our, name)(*args, **kwargs)
        print(f"wrong: {name} was not refused")
    except HfHubHTTPError as error:
        check(f"{name}: {error}", error.response.status_code == status)


def has(name: str) -> bool:
    return hasattr(hub.HfApi, name)


our, their = Calls(api), Calls(guest)
me, other = our.whoami()["name"], their.whoami()["name"]
model, data, space = f"{me}/methods", f"{me}/methods-data", f"{me}/methods-space"

our.create_repo(model)
our.create_repo(data, repo_type="dataset")
our.create_repo(space, repo_type="space", space_sdk="gradio")
our.create_repo(space, repo_type="space", space_sdk="gradio", exist_ok=True)
source = Path(folder) / "source"
(source / "sub").mkdir(parents=True)
(source / "sub" / "note.txt").write_text("note\n")
(source / "weights.bin").write_bytes(os.urandom(100_000))
our.upload_folder(folder_path=str(source), repo_id=model)
if has("upload_large_folder"):
    our.upload_large_folder(repo_id=data, folder_path=str(source), repo_type="dataset", print_report=False)
first = our.upload_file(path_or_fileobj=b"one", path_in_repo="one.txt", repo_id=model)
numbers = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
our.upload_file(path_or_fileobj=len(numbers).to_bytes(8, "little") + numbers + bytes(4), path_in_repo="model.safetensors", repo_id=model)
our.create_commit(model, [hub.CommitOperationCopy("weights.bin", "copy.bin")], commit_message="Copy")

check("repo_exists", our.repo_exists(model) and not our.repo_exists(f"{me}/nothing"))
check("file_exists", our.file_exists(model, "one.txt") and not our.file_exists(model, "two.txt"))
check("revision_exists", our.revision_exists(model, "main") and not our.revision_exists(model, "nope"))
check("repo_info", our.repo_info(model).id == model and our.model_info(model, files_metadata=True).siblings)
check("dataset_info", our.dataset_info(data).id == data)
check("space_info", our.space_info(space).host)
chosen_facts = our.space_info(space, expand=["subdomain", "runtime", "sdk", "likes", "siblings", "sha", "tags"])
check("space_info(expand)", chosen_facts.subdomain and chosen_facts.sdk == "gradio" and chosen_facts.runtime.stage == "NO_APP_FILE")
check("space_info(expand) alone", chosen_facts.siblings and chosen_facts.host is None and chosen_facts.card_data is None)
for ask, kind, of in ((our.model_info, "Model", model), (our.dataset_info, "Dataset", data), (our.space_info, "Space", space)):
    every = list(get_args(getattr(hub.hf_api, f"Expand{kind}Property_T")))
    check(f"expand of a {kind}", len(every) > 10 and ask(of, expand=every).id == of)
bare = "gpt2"  # a legal name of clients, and nothing that is here
check("repo_exists of a bare name", not our.repo_exists(bare) and not our.file_exists(bare, "config.json"))
for name, more in (("hf_hub_download", {"filename": "config.json"}), ("snapshot_download", {}), ("list_repo_refs", {})):
    refused(name, bare, status=404, **more)
for name, more in (("hf_hub_download", {"filename": "config.json"}), ("snapshot_download", {}), ("list_repo_commits", {})):
    refused(name, f"{me}/nothing", status=404, **more)
if has("resolve_revision"):
    check("resolve_revision", our.resolve_revision(model, revision="main", cache_dir=f"{folder}/cache"))
check("list_models", model in [m.id for m in our.list_models(author=me)])
check("list_datasets", data in [d.id for d in our.list_datasets(author=me)])
check("list_spaces", space in [s.id for s in our.list_spaces(author=me)])
check("search_spaces", space in [s.id for s in our.search_spaces("methods-space", include_non_running=True)])
check("get_model_tags", isinstance(our.get_model_tags(), dict) and isinstance(our.get_dataset_tags(), dict))
check("auth_check", our.auth_check(model) is None)
check("list_repo_files", {"one.txt", "weights.bin", "copy.bin", "sub/note.txt"} <= set(our.list_repo_files(model)))
check("list_repo_tree", len(list(our.list_repo_tree(model, recursive=True))) > 4)
check("list_repo_tree(expand)", all(e.last_commit.title for e in our.list_repo_tree(model, expand=True)))
check("list_repo_tree(path)", [e.path for e in our.list_repo_tree(model, "sub")] == ["sub/note.txt"])
check("get_paths_info", our.get_paths_info(model, ["weights.bin"])[0].lfs.size == 100_000)
check("get_hf_file_metadata", our.get_hf_file_metadata(url=hub.hf_hub_url(model, "weights.bin", endpoint=endpoint)).size == 100_000)
kept = our.hf_hub_download(model, "weights.bin", cache_dir=f"{folder}/cache")
check("hf_hub_download", Path(kept).read_bytes() == (source / "weights.bin").read_bytes())
down = our.snapshot_download(model, local_dir=f"{folder}/down")
check("snapshot_download", Path(down, "sub/note.txt").read_text() == "note\n")
some = our.snapshot_download(model, local_dir=f"{folder}/some", allow_patterns=["*.txt"], ignore_patterns="one*")
check("allow_patterns", [p.name for p in Path(some).rglob("*.*") if p.is_file() and ".cache" not in p.parts] == ["note.txt"])
check("run_as_future", our.run_as_future(our.file_exists, model, "one.txt").result(60))
check("run_as_future=True", our.upload_file(path_or_fileobj=b"1", path_in_repo="later", repo_id=model, run_as_future=True).result(60).oid)
check("verify_repo_checksums", not our.verify_repo_checksums(model, local_dir=down).mismatches)
check("get_safetensors_metadata", our.get_safetensors_metadata(model).parameter_count == {"F32": 1})
check("parse_safetensors", "w" in our.parse_safetensors_file_metadata(model, "model.safetensors").tensors)
shards = {f"model-0000{n}-of-00002.safetensors": {f"w{n}": {"dtype": "F16", "shape": [n, 5], "data_offsets": [0, 10 * n]}} for n in (1, 2)}
index = {"metadata": {"total_size": 30}, "weight_map": {f"w{n}": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}}
parts = [hub.CommitOperationAdd("model.safetensors.index.json", json.dumps(index).encode())]
for file, tensors in shards.items():
    header = json.dumps(tensors).encode()
    parts.append(hub.CommitOperationAdd(file, len(header).to_bytes(8, "little") + header + bytes(20)))
our.create_repo(f"{me}/methods-shards")
our.create_commit(f"{me}/methods-shards", parts, commit_message="Shards")
for ask in ("get_safetensors_metadata", "get_sharded_safetensors_metadata"):
    if has(ask):
        whole = getattr(our, ask)(f"{me}/methods-shards")
        check(ask, whole.sharded and whole.parameter_count == {"F16": 15} and whole.weight_map == index["weight_map"])
for expand in (None, ["safetensors"]):
    check("model_info", our.model_info(f"{me}/methods-shards", expand=expand).safetensors.total == 15)
our.delete_repo(f"{me}/methods-shards")
try:
    our.copy_files(f"hf://{model}/weights.bin", f"hf://datasets/{data}/copied.bin")
    check("copy_files", our.file_exists(data, "copied.bin", repo_type="dataset"))
except ValueError as error:
    check(f"copy_files: {error}", "not supported" in str(error))  # an older client's own
# The same repositories as a file system: what pandas, datasets and others open.
disk = hub.HfFileSystem(endpoint=endpoint, token=token)
check("fs.ls", {f"{model}/one.txt", f"{model}/sub"} <= set(disk.ls(model, detail=False)))
check("fs.info", disk.info(f"{model}/weights.bin")["size"] == 100_000 and disk.isdir(f"{model}/sub") and not disk.exists(f"{model}/no"))
check("fs.glob", disk.glob(f"{model}/**/*.txt") == [f"{model}/one.txt", f"{model}/sub/note.txt"])
with disk.open(f"{model}/weights.bin", "rb", block_size=4096) as file:
    file.seek(99_990)
    check("fs.open", file.read() == (source / "weights.bin").read_bytes()[99_990:])
check("fs.cat_file", disk.cat_file(f"{model}/weights.bin", start=5, end=25) == (source / "weights.bin").read_bytes()[5:25])
with disk.open(f"{model}/written.txt", "w") as file:
    file.write("by the file system\n")
disk.invalidate_cache()
check("fs.write", disk.read_text(f"{model}/written.txt") == "by the file system\n")
disk.cp_file(f"{model}/written.txt", f"{model}/sub/copied.txt")
disk.rm(f"{model}/written.txt")
disk.invalidate_cache()
check("fs.cp, fs.rm", disk.exists(f"{model}/sub/copied.txt") and not disk.exists(f"{model}/written.txt"))
check("fs of a revision", disk.ls(f"{model}@main/sub", detail=False))
check("fs.walk", {name for _, _, names in disk.walk(model) for name in names} >= {"note.txt", "copied.txt", "one.txt"})

growing = Path(folder) / "growing"
growing.mkdir()
(growing / "events.jsonl").write_text("1\n")
keeper = hub.CommitScheduler(repo_id=data, folder_path=growing, path_in_repo="log", repo_type="dataset", hf_api=api)
keeper.trigger().result(60)
with keeper.lock, (growing / "events.jsonl").open("a") as file:
    file.write("2\n")
keeper.trigger().result(60)
keeper.stop()
logged = our.hf_hub_download(data, "log/events.jsonl", repo_type="dataset", cache_dir=f"{folder}/cache")
check("CommitScheduler", Path(logged).read_text() == "1\n2\n")
large = [f for f in our.list_lfs_files(model) if f.filename == "copy.bin"] or list(our.list_lfs_files(model))
check("list_lfs_files", large)

our.create_branch(model, branch="side")
our.create_branch(model, branch="side", exist_ok=True)
our.create_tag(model, tag="v1", tag_message="First")
names = our.list_repo_refs(model)
check("list_repo_refs", {b.name for b in names.branches} == {"main", "side"} and names.tags[0].name == "v1")
check("list_repo_commits", len(our.list_repo_commits(model)) >= 4)
our.super_squash_history(model, branch="side")
check("super_squash_history", len(our.list_repo_commits(model, revision="side")) == 1)
our.delete_branch(model, branch="side")
our.delete_tag(model, tag="v1")
our.delete_file("one.txt", model)
our.delete_folder("sub", model)
our.delete_files(model, ["copy.bin"])
check("deleted", not {"one.txt", "sub/note.txt", "copy.bin"} & set(our.list_repo_files(model)))
gone = [f for f in our.list_lfs_files(model) if f.filename == "weights.bin"]
our.permanently_delete_lfs_files(model, gone)
check("permanently_delete_lfs_files", "weights.bin" not in our.list_repo_files(model))

talk = their.create_discussion(model, title="Why?", description="It says so")
check("comment_discussion", their.comment_discussion(model, talk.num, "More").content == "More")
last = our.get_discussion_details(model, talk.num).events[-1]
check("edit_discussion_comment", their.edit_discussion_comment(model, talk.num, last.id, "Less").content == "Less")
their.hide_discussion_comment(model, talk.num, last.id)
check("rename_discussion", their.rename_discussion(model, talk.num, "Why not?").new_title == "Why not?")
our.change_discussion_status(model, talk.num, "closed")
pull = their.create_pull_request(model, title="Better")
their.upload_file(path_or_fileobj=b"b", path_in_repo="better.txt", repo_id=model, revision=f"refs/pr/{pull.num}")
our.change_discussion_status(model, pull.num, "open")
our.merge_pull_request(model, pull.num)
check("merge_pull_request", our.file_exists(model, "better.txt"))
check("get_repo_discussions", len(list(our.get_repo_discussions(model))) == 2)
if has("upload_attachment"):
    Path(f"{folder}/dot.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    refused("upload_attachment", f"{folder}/dot.png", status=404)  # an optional part of the contract

their.auth_check(model)
liked = get_session().post(f"{endpoint}/api/models/{model}/like", headers={"authorization": f"Bearer {guest_token}"})
check("like", liked.status_code == 200 and their.list_liked_repos(other).models == [model])
check("list_repo_likers", [u.username for u in our.list_repo_likers(model)] == [other] and our.model_info(model).likes == 1)
their.unlike(model)
check("unlike", list(our.list_repo_likers(model)) == [])
check("list_liked_repos", our.list_liked_repos(me).total == 0)
check("get_user_overview", our.get_user_overview(me).username == me)
check("followers", list(our.list_user_followers(me)) == list(our.list_user_following(me)) == [])
refused("get_organization_overview", "nobody-there", status=404)
for name in ("list_organization_members", "list_organization_followers"):
    try:
        check(name, list(getattr(our, name)("nobody-there")) == [])
    except HfHubHTTPError as error:
        check(f"{name}: {error}", error.response.status_code == 404)
if has("list_user_repos"):
    check("list_user_repos", model in [r.id for r in our.list_user_repos()])

our.update_repo_settings(model, gated="manual")
our.grant_access(model, user=other)
check("list_accepted", [r.username for r in our.list_accepted_access_requests(model)] == [other])
our.cancel_access_request(model, user=other)
check("list_pending", [r.username for r in our.list_pending_access_requests(model)] == [other])
our.reject_access_request(model, user=other, rejection_reason="No")
check("list_rejected", [r.username for r in our.list_rejected_access_requests(model)] == [other])
our.accept_access_request(model, user=other)
our.update_repo_settings(model, gated=False, private=True)
refused("model_info", model, status=404, of=their)

hook = our.create_webhook(url="http://localhost:9/", watched=[{"type": "user", "name": me}], domains=["repo"], secret="s")
check("get_webhook", our.get_webhook(hook.id).url == hook.url)
check("list_webhooks", [h.id for h in our.list_webhooks()] == [hook.id])
check("update_webhook", our.update_webhook(hook.id, url="http://localhost:9/x").url.endswith("/x"))
check("disable_webhook", our.disable_webhook(hook.id).disabled and not our.enable_webhook(hook.id).disabled)
our.delete_webhook(hook.id)

chosen = our.create_collection("Chosen", description="d")
chosen = our.add_collection_item(chosen.slug, item_id=space, item_type="space", note="n")
our.update_collection_item(chosen.slug, chosen.items[0].item_object_id, note="m")
check("update_collection_metadata", our.update_collection_metadata(chosen.slug, title="Choice").title == "Choice")
check("get_collection", our.get_collection(chosen.slug).items[0].note == "m")
check("list_collections", [c.slug for c in our.list_collections(owner=me)])
our.delete_collection_item(chosen.slug, chosen.items[0].item_object_id)
our.delete_collection(chosen.slug)

our.upload_file(path_or_fileobj=b"print(1)\n", path_in_repo="app.py", repo_id=space, repo_type="space")
check("get_space_runtime", our.get_space_runtime(space).stage == "BUILDING")
check("request_space_hardware", our.request_space_hardware(space, "t4-small").requested_hardware == "t4-small")
check("set_space_sleep_time", our.set_space_sleep_time(space, 600).sleep_time == 600)
check("add_space_variable", our.add_space_variable(space, "A", "1")["A"].value == "1")
check("get_space_variables", set(our.get_space_variables(space)) == {"A"})
our.delete_space_variable(space, "A")
our.add_space_secret(space, "S", "canary")
check("get_space_secrets", set(our.get_space_secrets(space)) == {"S"})
our.delete_space_secret(space, "S")
check("list_spaces_hardware", "cpu-basic" in [h.name for h in our.list_spaces_hardware()])
if has("list_space_templates"):
    check("list_space_templates", isinstance(our.list_space_templates(), list))
if has("get_zero_gpu_quota"):
    check("get_zero_gpu_quota", our.get_zero_gpu_quota())
if has("set_space_volumes"):
    our.set_space_volumes(space, [hub.Volume(type="model", source=model, mount_path="/models")])
    check("set_space_volumes", [v.source for v in our.get_space_runtime(space).volumes] == [model])
    our.delete_space_volumes(space)
    check("delete_space_volumes", our.get_space_runtime(space).volumes == [])
    refused("delete_space_volumes", space, status=400)
if has("request_space_storage"):
    check("request_space_storage", our.request_space_storage(space, "small").storage == "small")
    check("delete_space_storage", our.delete_space_storage(space).storage is None)
refused("enable_space_dev_mode", space, status=400)
our.disable_space_dev_mode(space)
check("fetch_space_logs", list(our.fetch_space_logs(space, build=True)) is not None)
check("pause_space", our.pause_space(space).stage == "PAUSED")
check("restart_space", our.restart_space(space).stage in ("BUILDING", "APP_STARTING"))
our.duplicate_repo(space, f"{me}/methods-copy", repo_type="space", private=True)
if has("duplicate_space"):
    our.duplicate_space(space, f"{me}/methods-copy", exist_ok=True)
our.move_repo(f"{me}/methods-copy", f"{me}/methods-moved", repo_type="space")
check("move_repo", our.space_info(f"{me}/methods-copy").id == f"{me}/methods-moved")
for name, kind in ((model, "model"), (data, "dataset"), (space, "space"), (f"{me}/methods-moved", "space")):
    our.delete_repo(name, repo_type=kind)

public = {n for n in dir(hub.HfApi) if not n.startswith("_") and callable(getattr(hub.HfApi, n))}
left = [n for n in sorted(public - tried) if n not in WITHOUT_US and not any(word in n for word in ELSEWHERE)]
print(*(f"nobody tries: {name}" for name in left), sep="\n")
print("methods complete", hub.__version__)
