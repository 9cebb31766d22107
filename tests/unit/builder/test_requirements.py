from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import BuildFailed
from builder.requirements import Declaration, read_declaration, read_packages
from control_plane.domain.reasons import Reason


def declare(files: dict[str, str], sdk: str = "static", version: str | None = None) -> Declaration:
    return read_declaration(files.get, sdk=sdk, sdk_version=version)


def test_plain_requirements_are_closed_and_keep_their_order() -> None:
    text = "# comment\nnumpy>=1.2  # why\n\nPillow[xmp]==11.* ; python_version>='3.8'\nscipy \\\n  >=1\n"
    declaration = declare({"requirements.txt": text})
    assert declaration.requirements == ("numpy>=1.2", 'Pillow[xmp]==11.*; python_version >= "3.8"', "scipy>=1")
    assert not declaration.is_open


def test_pre_requirements_come_first() -> None:
    assert declare({"requirements.txt": "b", "pre-requirements.txt": "a"}).requirements == ("a", "b")


def test_included_files_and_constraints_are_read_from_the_tree() -> None:
    files = {"requirements.txt": "-r more/a.txt\n-c pins.txt\n", "more/a.txt": "-r b.txt\na", "more/b.txt": "b", "pins.txt": "a<2"}
    declaration = declare(files)
    assert declaration.requirements == ("b", "a") and declaration.constraints == ("a<2",)


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://example.com/simple", "--extra-index-url=https://example.com", "-i https://example.com", "-e .", "-e git+https://x/y",
        "git+https://example.com/x.git", "./local", "x @ https://example.com/x-1-py3-none-any.whl", "file:///etc/passwd", "/opt/x.whl",
        "https://example.com/x.tar.gz", "--find-links /opt", "--no-binary :all:", "vendor/x-1.0-py3-none-any.whl", "-f.",
    ],
)  # fmt: skip
def test_lines_that_may_run_code_or_reach_elsewhere_open_the_declaration(line: str) -> None:
    declaration = declare({"requirements.txt": f"ok\n{line}\n"})
    assert declaration.is_open and declaration.open_because.startswith("requirements.txt line 2: ")


@pytest.mark.parametrize(
    "line",
    [
        "two words",
        "===",
        "--config-settings x",
        "-r ../outside.txt",
        "-r /etc/passwd",
        "-r https://x/y",
        "-r absent.txt",
        "x; nonsense",
        "-",
    ],
)
def test_lines_that_are_no_requirement_are_named(line: str) -> None:
    with pytest.raises(BuildFailed, match=r"requirements\.txt line 1") as caught:
        declare({"requirements.txt": line})
    assert caught.value.reason is Reason.REQUIREMENTS_UNRESOLVED


def test_files_that_include_each_other_end() -> None:
    with pytest.raises(BuildFailed):
        declare({"requirements.txt": "-r requirements.txt"})


@pytest.mark.parametrize(
    ("requirements", "version", "expected"),
    [
        ("", None, ("gradio",)),
        ("", "6.1.0", ("gradio==6.1.0",)),
        ("gradio==5.0", None, ("gradio==5.0",)),
        ("Gradio[oauth]>=6", "6.1.0", ("Gradio[oauth]>=6", "gradio==6.1.0")),
        ("", "6.*", ("gradio==6.*",)),
    ],
)
def test_the_sdk_is_added_and_the_declared_version_counts(requirements: str, version: str | None, expected: tuple[str, ...]) -> None:
    assert declare({"requirements.txt": requirements}, "gradio", version).requirements == expected


@pytest.mark.parametrize(("requirements", "version"), [("gradio==5.0", "6.1.0"), ("", "six"), ("gradio<6", "6.1.0")])
def test_an_sdk_version_that_cannot_be_is_a_configuration_error(requirements: str, version: str) -> None:
    with pytest.raises(BuildFailed) as caught:
        declare({"requirements.txt": requirements}, "gradio", version)
    assert caught.value.reason is Reason.CONFIG_ERROR


def test_a_gradio_space_brings_sign_in_and_the_spaces_package_along() -> None:
    assert declare({"requirements.txt": "numpy"}, "gradio", None).companions == ("gradio[oauth]", "spaces")
    assert declare({"requirements.txt": "numpy"}, "streamlit", None).companions == ()
    assert Declaration(("a",)).key() != Declaration(("a",), companions=("b",)).key()


def test_keys_do_not_depend_on_order_but_on_every_fact() -> None:
    one, two = Declaration(("a", "b")), Declaration(("b", "a"))
    assert one.key("3.11") == two.key("3.11") != one.key("3.12")
    assert one.key() != Declaration(("a", "b"), open_because="x").key() != Declaration(("a", "b"), prerelease=True).key()


def test_package_names() -> None:
    assert read_packages("ffmpeg  # video\nlibsm6 g++\n\nffmpeg\n") == ("ffmpeg", "libsm6", "g++")
    for bad in ("x;y", "$(id)", "-o=APT::x", "../x", "A", "x=1"):
        with pytest.raises(BuildFailed):
            read_packages(bad)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(BuildFailed):  # and nothing else is raised
        declare({"requirements.txt": text})
