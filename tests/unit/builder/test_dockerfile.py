from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.catalog import load_catalog
from builder.dockerfile_rules import check_dockerfile
from builder.engines.docker_engine import DockerConfig, buildkit_argv
from builder.engines.engine import ImageBuild
from builder.errors import BuildFailed
from builder.images import ImageConfig, blueprint
from builder.source import SourceTree
from control_plane.domain.reasons import Reason
from tests.functional.builder.conftest import build_request

GOLDEN = Path(__file__).parents[2] / "golden/dockerfiles"
APP = {"app.py": ""}

CASES = {
    "gradio": ({}, APP),
    "gradio-packages": ({"sdk_version": "6.0.0"}, {**APP, "requirements.txt": "numpy\nPillow>=11\n", "packages.txt": "libsm6\nffmpeg\n"}),
    "gradio-source": ({}, {**APP, "requirements.txt": "git+https://example.com/x.git\n"}),
    "streamlit-python": ({"sdk": "streamlit", "python_version": "3.13"}, APP),
    "gradio-models": ({"preload_from_hub": ("acme/small config.json",)}, APP),
    "gradio-gpu": ({"hardware_family": "gpu"}, {**APP, "requirements.txt": "torch\n"}),
}


def tree(root: Path, files: dict[str, str]) -> SourceTree:
    for name, text in files.items():
        (root / name).write_text(text)
    return SourceTree(root, len(files), 0)


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, tmp_path: Path) -> None:
    """`UPDATE_GOLDEN=1 pytest …` writes the files again; the diff is what is reviewed."""
    changes, files = CASES[name]
    plan = blueprint(build_request(**changes), tree(tmp_path, files), load_catalog(), ImageConfig())
    text = f"{plan.text}\n# ---- requirements.txt\n{plan.requirements}"
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_code_changes_nothing_but_the_last_layer(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.mkdir()
    two.mkdir()
    catalog, config = load_catalog(), ImageConfig()
    first = blueprint(build_request(), tree(one, {"app.py": "a"}), catalog, config)
    second = blueprint(build_request(), tree(two, {"app.py": "b", "more.py": ""}), catalog, config)
    assert first == second
    assert first.text.rstrip().splitlines()[-1].startswith("COPY")


def test_an_index_of_the_platform_is_an_argument_of_the_first_stage_only(tmp_path: Path) -> None:
    plan = blueprint(build_request(), tree(tmp_path, APP), load_catalog(), ImageConfig(pypi_index_url="https://mirror.example/simple"))
    assert plan.args == {"UV_DEFAULT_INDEX": "https://mirror.example/simple"}
    assert "mirror.example" not in plan.text
    assert "UV_DEFAULT_INDEX" not in plan.text.split("\nFROM ")[-1]


@pytest.mark.parametrize("files", [APP, {"Dockerfile": "FROM x\n"}])
def test_where_only_buildkit_can_run_steps_it_runs_them_all(files: dict[str, str], tmp_path: Path) -> None:
    """An engine in an unprivileged pod: its steps use the pod's network, which the classic builder has no rights over."""
    request = build_request(**({"sdk": "docker"} if "Dockerfile" in files else {}))
    source, catalog = tree(tmp_path, files), load_catalog()
    for only in (True, False):
        plan = blueprint(request, source, catalog, ImageConfig(only_buildkit=only), has_buildkit=True)
        assert plan.with_buildkit is only


def test_a_python_without_a_base_image_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"3\.7.*3\.11") as caught:
        blueprint(build_request(python_version="3.7"), tree(tmp_path, APP), load_catalog(), ImageConfig())
    assert caught.value.reason is Reason.PYTHON_MISSING


@pytest.mark.parametrize(
    "text",
    [
        "#syntax = evil/frontend\nFROM x",
        "# escape=`\nFROM x",
        "FROM x\nRUN --security=insecure id",
        "FROM x\nRUN --network=host id",
        "FROM x\nrun --mount=type=cache,target=/c --network=host id",
        "FROM x\nRUN --device=/dev/kvm id",
        "FROM x\nRUN --mount=type=ssh git clone x",
        "FROM x\nWORKDIR /proc/self/fd/8",
        "FROM x\nONBUILD RUN id",
        "FROM x\nADD http://169.254.169.254/latest/meta-data /x",
        "FROM x\nADD http://2852039166/ /x",
        "FROM x\nADD --chown=1 http://[::1]/x /x",
        "FROM x\nADD \\\n  http://metadata.google.internal/ /x",
        "FROM x\nRUN --mount=type=ssh,from=y id",
        "FROM x\nADD https://example.com/x /x",
        "ARG U=http://169.254.169.254/\nFROM x\nADD $U /x",
        'FROM x\nADD ["http://169.254.169.254/", "/x"]',
        "FROM x\nADD git@example.com:a/b.git /x",
        "FROM 127.0.0.1:5000/spaces/other:1",
        "FROM registry.test:5000/spaces/other@sha256:00",
        "FROM 10.0.0.5/x",
        "FROM localhost/x",
        "FROM vitrine/0123456789ab:1",
        "FROM 98863a52b820",
        "FROM sha256:98863a52b820",
        "ARG BASE=registry.test:5000/spaces/other\nFROM ${BASE}:1",
        "FROM ${NOWHERE%x}",
        "FROM x\nCOPY --from=registry.test:5000/spaces/other:1 / /",
        "FROM x\nRUN --mount=type=bind,from=registry.test:5000/spaces/other,target=/o id",
        "FROM x\n" + "RUN true\n" * 10_000,
    ],
)
def test_what_a_dockerfile_may_not_ask_for(text: str) -> None:
    with pytest.raises(BuildFailed, match=r"Dockerfile line \d+: ") as caught:
        check_dockerfile(text, {}, "registry.test:5000/spaces")
    assert caught.value.reason is Reason.SOURCE_REJECTED


@pytest.mark.parametrize("text", ["", "# nothing\n", "RUN x", "FROM x\n{}"])
def test_what_is_no_dockerfile(text: str) -> None:
    with pytest.raises(BuildFailed) as caught:
        check_dockerfile(text)
    assert caught.value.reason is Reason.DOCKERFILE_FAILED


def test_facts_of_an_ordinary_dockerfile() -> None:
    text = """
FROM python:3.11 AS a
ARG MODEL_REPO=x OTHER
# a comment
RUN --mount=type=secret,id=HF_TOKEN,mode=0444,required=true \\
    # in between
    cat /run/secrets/HF_TOKEN
RUN <<EOF
FLOAT these are not instructions
EOF
ADD x.tar.gz /x
EXPOSE 7860
"""
    facts = check_dockerfile(text)
    assert facts.args == {"MODEL_REPO", "OTHER"}
    assert facts.secret_ids == {"HF_TOKEN"}
    assert facts.needs_buildkit
    assert not check_dockerfile("FROM x AS a\nFROM x\nCOPY --from=a --chown=1000 . .\nRUN echo <file").needs_buildkit


def test_build_arguments_are_those_the_dockerfile_declares(tmp_path: Path) -> None:
    request = build_request(sdk="docker", variables={"A": "1", "B": "2"}, secret_names=("S",), app_port=8080)
    plan = blueprint(request, tree(tmp_path, {"Dockerfile": "FROM x\nARG A\n"}), load_catalog(), ImageConfig())
    assert (plan.args, plan.launch.port, plan.secrets) == ({"A": "1"}, 8080, {})


def test_secrets_reach_buildkit_as_files(tmp_path: Path) -> None:
    build = ImageBuild(tmp_path, "Dockerfile", "r/s:b", "builds", args={"A": "1"}, secrets={"TOKEN": tmp_path / "0"}, labels={"l": "v"})
    assert buildkit_argv(DockerConfig(buildkit_cli=("docker",)), build) == (
        "docker", "build", "--file", f"{tmp_path}/Dockerfile", "--tag", "r/s:b", "--network", "builds",
        "--build-arg", "A=1", "--label", "l=v", "--secret", f"id=TOKEN,src={tmp_path}/0", str(tmp_path),
    )  # fmt: skip
