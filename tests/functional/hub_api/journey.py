"""One user's journey, run by the interpreter of a fresh environment: `python journey.py ENDPOINT TOKEN FOLDER`.

Uses only what every supported client version has.
"""

import hashlib
import io
import os
import sys
from pathlib import Path

endpoint, token, folder = sys.argv[1:4]
os.environ.update(HF_ENDPOINT=endpoint, HF_HOME=f"{folder}/home", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")

import huggingface_hub as hub  # noqa: E402

api = hub.HfApi(endpoint=endpoint, token=token)
me = api.whoami()["name"]
name = f"{me}/journey"
api.create_repo(name, repo_type="space", space_sdk="gradio", exist_ok=True)
api.create_repo(name, repo_type="space", space_sdk="gradio", exist_ok=True)
source = Path(folder) / "source"
(source / "sub").mkdir(parents=True, exist_ok=True)
(source / "app.py").write_text("print('hi')\n")
(source / "sub" / "weights.bin").write_bytes(os.urandom(3_000_000))
(source / "big.txt").write_bytes(b"line\n" * 2_500_000)
api.upload_folder(folder_path=str(source), repo_id=name, repo_type="space")
api.upload_file(path_or_fileobj=b"\0bytes\xff" * 1000, path_in_repo="inline.dat", repo_id=name, repo_type="space")
files = set(api.list_repo_files(name, repo_type="space"))
assert {"app.py", "sub/weights.bin", "big.txt", "inline.dat", "README.md", ".gitattributes"} <= files, files
target = Path(hub.snapshot_download(name, repo_type="space", token=token, endpoint=endpoint, cache_dir=f"{folder}/cache"))
for path in ("sub/weights.bin", "big.txt", "app.py"):
    assert (target / path).read_bytes() == (source / path).read_bytes(), path
info = api.get_paths_info(name, ["sub/weights.bin"], repo_type="space")[0]
assert info.lfs and info.lfs.size == 3_000_000
# With what `paths-info` says the file system reads through Xet where hf_xet is there and switched on, else by plain HTTP.
files_of = hub.HfFileSystem(endpoint=endpoint, token=token, expand_info=True)
for path in ("sub/weights.bin", "big.txt"):
    files_of.get_file(f"spaces/{name}/{path}", f"{folder}/through")
    assert Path(f"{folder}/through").read_bytes() == (source / path).read_bytes(), path
assert api.get_space_runtime(name).stage == "BUILDING"
api.add_space_variable(name, "A", "1")
api.create_branch(name, branch="feature/x", repo_type="space", exist_ok=True)
pull = api.create_commit(name, [hub.CommitOperationAdd("p.txt", b"p")], commit_message="Pull", create_pr=True, repo_type="space")
api.merge_pull_request(name, pull.pr_num, repo_type="space")
assert "p.txt" in api.list_repo_files(name, repo_type="space")
try:
    api.repo_info(f"{me}/nothing-here")
except hub.utils.RepositoryNotFoundError:
    pass
else:
    raise AssertionError("a missing repository was found")
# A folder of many files, one that replaces it, and an object in memory that goes up in parts: never the Xet way.
(source / "many").mkdir(exist_ok=True)
for number in range(300):
    (source / "many" / f"{number}.txt").write_text(str(number))
api.upload_folder(folder_path=source / "many", path_in_repo="many", repo_id=name, repo_type="space")
assert len([f for f in api.list_repo_files(name, repo_type="space") if f.startswith("many/")]) == 300
api.upload_folder(folder_path=source / "sub", path_in_repo="many", delete_patterns="*.txt", repo_id=name, repo_type="space")
assert [f for f in api.list_repo_files(name, repo_type="space") if f.startswith("many/")] == ["many/weights.bin"]
parts = bytes(65 << 20) + b"end"
api.upload_file(path_or_fileobj=io.BytesIO(parts), path_in_repo="parts.bin", repo_id=name, repo_type="space")
info = api.get_paths_info(name, ["parts.bin"], repo_type="space")[0]
assert info.lfs and info.lfs.sha256 == hashlib.sha256(parts).hexdigest()
api.delete_repo(name, repo_type="space")
print("journey complete", hub.__version__)
