from __future__ import annotations

from builder.collect import collect
from control_plane.domain.builds import BuildResult
from control_plane.domain.ids import BuildId
from tests.functional.builder.conftest import Workplace, build_request
from tests.functional.builder.door import tar_of


def build(workplace: Workplace, letter: str, requirements: str) -> BuildResult:
    workplace.door.source = tar_of({"app.py": "", "requirements.txt": requirements})
    workplace.worker.handle(build_request(build_id=BuildId(letter * 24)).to_payload())
    result = workplace.door.last().result
    assert result
    return result


def test_only_what_is_named_is_kept(workplace: Workplace) -> None:
    first, second = build(workplace, "1", "tinydep==1.0"), build(workplace, "2", "tinydep==2.0")
    workplace.worker.environments.settle()
    (workplace.data_dir / "envs" / ".new-dead~x").mkdir()
    kept = collect(workplace.data_dir, keep_artifacts=(), keep_environments=())
    assert kept.artifacts == () and kept.environments == ()  # all young
    done = collect(
        workplace.data_dir, keep_artifacts={first.artifact.ref}, keep_environments={first.artifact.env_key}, grace_s=-1, unused_s=-1
    )
    assert (done.artifacts, done.environments) == ((second.artifact.ref,), (second.artifact.env_key,))
    assert [one.name for one in (workplace.data_dir / "envs").iterdir() if one.name not in (".locks", ".resolved")] == [
        first.artifact.env_key
    ]
    again = build(workplace, "3", "tinydep==2.0")  # the lock was kept, the environment comes back
    assert again.artifact.env_key == second.artifact.env_key
    assert (workplace.data_dir / "envs" / again.artifact.env_key / "bin/python").exists()
