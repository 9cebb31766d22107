"""What a process inside a cluster knows of itself."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from control_plane.bootstrap.services import prepare_data_dir
from control_plane.runtimes.kubernetes.assemble import own_account
from control_plane.settings import load_settings


def token(subject: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps({"sub": subject}).encode()).decode().rstrip("=")
    return f"head.{body}.signature"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (token("system:serviceaccount:vitrine-system:vitrine-scheduler"), "vitrine-system/vitrine-scheduler"),
        (token("system:node:node1"), ""),
        (token(7), ""),
        ("nonsense", ""),
        ("a.b.c", ""),
    ],
)
def test_the_account_is_read_out_of_the_token(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "token").write_text(content)
    assert own_account(tmp_path) == expected


def test_outside_of_a_cluster_there_is_none(tmp_path: Path) -> None:
    assert own_account(tmp_path) == ""


def test_a_run_directory_of_somebody_else_is_refused_unless_it_is_a_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_ours(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    settings = load_settings(environ={"VITRINE_DATA_DIR": str(tmp_path / "d")})
    monkeypatch.setattr("control_plane.bootstrap.services.os.chmod", not_ours)
    with pytest.raises(PermissionError):
        prepare_data_dir(settings)
    monkeypatch.setattr("control_plane.bootstrap.services._is_volume", lambda folder: folder == settings.run_dir)
    prepare_data_dir(settings)
    assert settings.run_dir.is_dir()
