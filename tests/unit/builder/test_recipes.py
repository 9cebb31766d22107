from __future__ import annotations

import pytest

from builder.errors import BuildFailed
from builder.recipes import select
from control_plane.domain.builds import ArtifactKind
from tests.functional.builder.conftest import build_request


class Tree(dict[str, str]):
    def text(self, name: str, limit: int = 1 << 20) -> str | None:
        return self.get(name)

    def has(self, name: str) -> bool:
        return name in self


def test_gradio_runs_its_app_file_on_the_port_it_was_given() -> None:
    plan = select("gradio").plan(build_request(app_file="src/main.py", app_port=9000), Tree({"src/main.py": ""}))
    assert plan.launch.argv == ("python", "src/main.py")
    assert plan.launch.port == 9000
    assert plan.launch.env["GRADIO_SERVER_PORT"] == "9000"
    assert plan.needs_environment and plan.kind is ArtifactKind.BUNDLE


def test_streamlit_is_told_how_it_is_reached() -> None:
    plan = select("streamlit").plan(build_request(sdk="streamlit"), Tree({"app.py": ""}))
    assert plan.launch.port == 8501
    assert plan.launch.argv[:5] == ("python", "-m", "streamlit", "run", "app.py")
    assert {"--server.port=8501", "--server.headless=true", "--browser.gatherUsageStats=false"} <= set(plan.launch.argv)


@pytest.mark.parametrize(
    ("app_file", "files", "output"),
    [("index.html", {}, ""), ("dist/index.html", {}, "dist"), ("web/out/x.html", {"package.json": ""}, "web/out")],
)
def test_a_site_that_is_built_need_not_have_its_page_yet(app_file: str, files: dict[str, str], output: str) -> None:
    request = build_request(sdk="static", app_file=app_file, app_build_command="npm run build")
    plan = select("static").plan(request, Tree(files))
    assert (plan.kind, plan.build_command, plan.output) == (ArtifactKind.SITE, "npm run build", output)


@pytest.mark.parametrize("sdk", ["gradio", "streamlit", "static", "docker", "shiny"])
def test_an_empty_repository_fails_with_words(sdk: str) -> None:
    with pytest.raises(BuildFailed):
        select(sdk).plan(build_request(sdk=sdk), Tree())
