from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.domain.errors import SpaceConfigError
from control_plane.domain.spaces import RepoType, Sdk
from control_plane.spaces.space_card import CardReport, parse, validate
from control_plane.spaces.starter import initial_files


def card(*lines: str) -> bytes:
    return ("---\n" + "\n".join(lines) + "\n---\n# Hello\n").encode()


def report(*lines: str) -> CardReport:
    return validate(card("sdk: gradio", *lines), RepoType.SPACE)


def test_every_key_is_honoured() -> None:
    config = parse(
        card(
            "title: 'My: demo'",
            "emoji: 🐨",
            "colorFrom: red",
            "colorTo: gray",
            "sdk: docker",
            "python_version: 3.10",
            "app_file: src/app.py",
            "app_port: 8080",
            "base_path: /docs",
            "suggested_hardware: t4-small",
            "fullWidth: false",
            "header: mini",
            "short_description: short",
            "models: [gpt2, a/b]",
            "datasets:",
            "- c/d",
            "tags:",
            "  - x",
            "thumbnail: https://x.org/a.png",
            "pinned: true",
            "license: mit",
            "hf_oauth: true",
            "hf_oauth_scopes: [email]",
            "hf_oauth_expiration_minutes: 60",
            "hf_oauth_authorized_org: acme",
            "disable_embedding: true",
            "startup_duration_timeout: 1h",
            "custom_headers:",
            "  cross-origin-embedder-policy: require-corp",
            "preload_from_hub:",
            "- a/b",
            "- a/b config.json,x.bin",
            "- a/b config.json 0123abc",
        )
    )
    assert (config.title, config.emoji, config.color_from, config.color_to, config.sdk) == ("My: demo", "🐨", "red", "gray", Sdk.DOCKER)
    assert (config.python_version, config.app_file, config.app_port, config.base_path) == ("3.10", "src/app.py", 8080, "/docs")
    assert (config.suggested_hardware, config.full_width, config.header, config.short_description) == ("t4-small", False, "mini", "short")
    assert (config.models, config.datasets, config.tags, config.pinned, config.license) == (("gpt2", "a/b"), ("c/d",), ("x",), True, "mit")
    assert config.hf_oauth and config.hf_oauth_scopes == ("email",) and config.hf_oauth_authorized_org == ("acme",)
    assert config.hf_oauth_expiration_minutes == 60 and config.disable_embedding and config.startup_timeout_s == 3600
    assert config.custom_headers == {"cross-origin-embedder-policy": "require-corp"} and len(config.preload_from_hub) == 3


def test_defaults_depend_on_the_sdk() -> None:
    assert parse(card("sdk: static")).app_file == "index.html"
    config = parse(card("sdk: gradio", "sdk_version: 5.10"))
    assert (config.app_file, config.app_port, config.sdk_version, config.startup_timeout_s) == ("app.py", 7860, "5.10", 1800)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("colorFrom: orange", "colorFrom"),
        ("emoji: abc", "emoji"),
        ("app_port: 0", "app_port"),
        ("app_port: 65536", "app_port"),
        ("app_port: '22;x'", "app_port"),
        ("app_port: true", "app_port"),
        ("app_port: 1e3", "app_port"),
        ("app_port: [1]", "app_port"),
        ("app_port: ١٢", "app_port"),
        ("sdk_version: '5.0 --index-url x'", "sdk_version"),
        ("sdk_version: -r/etc/passwd", "sdk_version"),
        ("sdk_version: latest", "sdk_version"),
        ("python_version: 2.7", "python_version"),
        ("python_version: 3", "python_version"),
        ("app_file: ../x.py", "app_file"),
        ("app_file: /etc/passwd", "app_file"),
        ("app_file: a/../b", "app_file"),
        ("app_file: -c", "app_file"),
        ('app_file: "a\\nb"', "app_file"),
        ("base_path: //evil.org", "base_path"),
        ("base_path: /../x", "base_path"),
        ("base_path: x", "base_path"),
        ('base_path: "/x\\r\\nSet-Cookie: a"', "base_path"),
        ("suggested_hardware: t5", "suggested_hardware"),
        ("fullWidth: 1", "fullWidth"),
        ("header: big", "header"),
        (f"short_description: {'x' * 61}", "short_description"),
        ("models: gpt2", "models"),
        ("models: [../x]", "models"),
        ("tags: {a: 1}", "tags"),
        ("tags: [[a]]", "tags"),
        ("thumbnail: javascript:alert(1)", "thumbnail"),
        ("pinned: maybe", "pinned"),
        ("hf_oauth: yes", "hf_oauth"),
        ("hf_oauth_scopes: [root]", "hf_oauth_scopes"),
        ("hf_oauth_expiration_minutes: 43201", "hf_oauth_expiration_minutes"),
        ("startup_duration_timeout: soon", "startup_duration_timeout"),
        ("startup_duration_timeout: 25h", "startup_duration_timeout"),
        ("custom_headers: {set-cookie: a}", "custom_headers"),
        ("custom_headers: {Cross-Origin-Opener-Policy: same-origin}", "custom_headers"),
        ('custom_headers: {cross-origin-opener-policy: "same-origin\\r\\nX: y"}', "custom_headers"),
        ("custom_headers: [a]", "custom_headers"),
        ("preload_from_hub: ['a/b ../x']", "preload_from_hub"),
        ("preload_from_hub: ['a b c d']", "preload_from_hub"),
        ("title: {a: b}", "title"),
        ("suggested_storage: huge", "suggested_storage"),
    ],
)
def test_a_mistake_names_key_and_line(line: str, key: str) -> None:
    found = report("title: x", line)
    assert [(issue.key, issue.line) for issue in found.errors] == [(key, 4)]
    with pytest.raises(SpaceConfigError) as caught:
        parse(card("sdk: gradio", "title: x", line))
    assert caught.value.key == key and caught.value.line == 4


def test_an_unknown_sdk_lists_the_allowed_ones() -> None:
    found = validate(card("title: x", "sdk: gradoi"), RepoType.SPACE)
    assert found.errors[0].allowed == ("gradio", "streamlit", "docker", "static") and found.errors[0].line == 3
    assert "did you mean 'gradio'" in found.errors[0].message
    assert validate(card("title: x"), RepoType.SPACE).errors[0].key == "sdk"
    assert validate(b"# no block\n", RepoType.SPACE).errors[0].key == "sdk"
    assert not validate(b"# no block\n", RepoType.MODEL).errors
    with pytest.raises(SpaceConfigError, match="missing"):
        parse(None)


@pytest.mark.parametrize(
    ("readme", "words"),
    [
        (card("sdk: gradio", "a: &x [1]", "b: *x"), "anchors"),
        (card("sdk: !!python/object/apply:os.system [id]"), "tags"),
        (card("sdk: gradio", "sdk: docker"), "twice"),
        (card("<<: {a: 1}", "sdk: gradio"), "merge"),
        (card("- a", "- b"), "key: value"),
        (card("just words"), "key: value"),
        (card("sdk: gradio", "x: " + "[" * 10000), "nested"),
        (card("sdk: gradio", "x: " + "{a: " * 10000), "nested"),
        (card("sdk: gradio", *(f"k{i}: [" + "1," * 50 + "]" for i in range(200))), "more than"),
        (card("sdk: gradio", "a: b: c"), "not valid YAML"),
        (card("sdk: gradio", "a: 'x"), "not valid YAML"),
        (card("sdk: gra\0dio"), "control character"),
        (card("? [a]", ": b"), "plain word"),
        (b"---\nsdk: gradio\n", "closing"),
        (b"---\n" + b"a: b\n" * 20000 + b"---\n", "larger than 64 KiB"),
        (b"---\nsdk: gradio\n---\n" + b"x" * (5 << 20), "larger than 1 MiB"),
        (b"---\nsdk: \xff\n---\n", "UTF-8"),
    ],
)
def test_hostile_yaml_is_answered_in_words(readme: bytes, words: str) -> None:
    found = validate(readme, RepoType.SPACE)
    assert words in found.errors[0].message and found.errors[0].line is not None


def test_keys_of_other_sdks_get_a_warning() -> None:
    found = report("app_port: 8000", "app_build_command: npm run build", "colourFrom: red", "color_from: red", "suggested_storage: small")
    assert found.config is not None and found.config.app_port == 7860 and found.config.app_build_command is None
    assert {issue.key for issue in found.warnings} >= {"app_port", "app_build_command", "colourFrom", "suggested_storage"}


def test_bom_and_windows_line_ends_are_fine() -> None:
    assert parse(b"\xef\xbb\xbf---\r\nsdk: gradio\r\ntitle: x\r\n---\r\nbody").title == "x"


@pytest.mark.parametrize("sdk", list(Sdk))
def test_the_starter_files_are_valid(sdk: Sdk) -> None:
    files = initial_files(sdk, 'A "quoted": title', sdk_version="5.49.1", short_description="x: y")
    found = validate(files["README.md"], RepoType.SPACE)
    assert not found.errors and not found.warnings
    assert found.config is not None and found.config.title == 'A "quoted": title'
    assert b"*.safetensors filter=lfs" in files[".gitattributes"]
    assert ("index.html" in files) == (sdk is Sdk.STATIC)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_give_a_report(data: bytes) -> None:
    for readme in (data, b"---\n" + data + b"\n---\n", b"---\nsdk: gradio\n" + data + b"\n---\n"):
        found = validate(readme, RepoType.SPACE)
        assert found.errors or found.config is not None
