from __future__ import annotations

import pytest

from builder.dockerfile_rules import check_dockerfile, parse
from builder.errors import BuildFailed
from builder.generated_failures import LastLines, in_owners_words
from builder.kit_dockerfile import CA, PIP, UV, Mirrors, for_buildkit, plain_line
from control_plane.domain.reasons import Reason

SITE = Mirrors(index_url="http://10.0.0.9:3141/simple", apt_mirror="http://10.0.0.9/debian", suite="bookworm", ca_bundle="PEM")


def rewritten(text: str, *mounts: str) -> str:
    return for_buildkit(text, tenant="ann", space_id="abc", mounts=mounts)


def test_mirrors_become_files_that_tools_read() -> None:
    files = SITE.files()
    assert "index-url = http://10.0.0.9:3141/simple\ntrusted-host = 10.0.0.9\n" in files[PIP]
    assert 'url = "http://10.0.0.9:3141/simple"' in files[UV]
    assert files["vitrine-apt"].startswith("deb http://10.0.0.9/debian bookworm main\n")
    assert "sourceparts" in files["vitrine-apt-conf"] and "CaInfo" in files["vitrine-apt-conf"]
    assert Mirrors().files() == {}
    assert "vitrine-apt" not in Mirrors(apt_mirror="http://m/debian").files()  # nobody knows the release


def test_every_run_gets_the_mounts_and_nothing_else_changes() -> None:
    text = "# syntax=docker/dockerfile:1\nFROM a AS b\nRUN one \\\n    two\nCOPY . .\nFROM c\n  run three\nRUN <<EOF\nRUN four\nEOF\n"
    found = rewritten(text, PIP)
    mount = "--mount=type=secret,id=vitrine-pip,target=/etc/pip.conf,mode=0444 "
    assert found == (f"#\nFROM a AS b\nRUN {mount}one \\\n    two\nCOPY . .\nFROM c\n  run {mount}three\nRUN {mount}<<EOF\nRUN four\nEOF\n")
    assert [one.word for one in parse(found)] == ["FROM", "RUN", "COPY", "FROM", "RUN", "RUN"]


def test_tools_keep_a_cache_only_where_the_author_mounts_one() -> None:
    files = SITE.files()
    assert "no-cache-dir = true" in files[PIP] and files[UV].startswith("no-cache = true\n[[index]]"), "it would hold the index's address"
    assert "no-cache" not in files["vitrine-pip-keeping"] + files["vitrine-uv-keeping"]
    first, second = rewritten("FROM a\nRUN x\nRUN --mount=type=cache,target=/c x\n", *sorted(files)).splitlines()[-2:]
    for name, target in ((PIP, "/etc/pip.conf"), (UV, "/etc/uv/uv.toml")):
        assert f"id={name},target={target}," in first and f"id={name}-keeping,target={target}," in second
        assert first.count(target) == second.count(target) == 1
    assert first.count("id=vitrine-ca,") == second.count("id=vitrine-ca,") == 1


def test_certificates_are_named_in_each_stage() -> None:
    found = rewritten("FROM \\\n  a\nRUN x\nFROM b\n", CA).splitlines()
    assert found[2].startswith("ARG SSL_CERT_FILE=/run/secrets/vitrine-ca ") and found[5] == found[2]


@pytest.mark.parametrize(
    ("mount", "made"),
    [
        ("type=secret,id=TOKEN,required=true", "type=secret,required=true,target=/run/secrets/TOKEN,id=abc.TOKEN"),
        ("type=secret,target=/t/KEY", "type=secret,target=/t/KEY,id=abc.KEY"),
        ("type=secret,id=T,env=TOKEN", "type=secret,env=TOKEN,id=abc.T"),
        ("type=cache,target=/root/.cache", "type=cache,target=/root/.cache,id=ann//root/.cache"),
        ("type=cache,id=pip,target=/c,sharing=locked", "type=cache,target=/c,sharing=locked,id=ann/pip"),
        ("type=bind,source=x,target=/x", "type=bind,source=x,target=/x"),
    ],
)
def test_what_authors_mount_is_their_own(mount: str, made: str) -> None:
    assert rewritten(f"FROM a\nRUN --network=none \\\n  --mount={mount} id\n") == f"FROM a\nRUN --network=none \\\n  --mount={made} id\n"


def test_the_log_shows_the_author_s_words() -> None:
    line = "#4 [2/2] RUN --mount=type=secret,id=vitrine-pip,target=/etc/pip.conf,mode=0444 --mount=type=secret,id=abc.T cat x"
    assert plain_line(line, "abc") == "#4 [2/2] RUN --mount=type=secret,id=T cat x"
    assert plain_line(f"#4 sha256:{'0' * 64}", "abc") is None


def test_images_may_be_named_by_arguments_and_stages() -> None:
    facts = check_dockerfile(
        "ARG TAG=3.11 BASE=vitrine/python\nFROM ${BASE}:${TAG} AS one\nFROM python:${NONE:-3.12}-slim\nCOPY --from=one /a /a\n"
        "COPY --from=0 /b /b\nCOPY --from=ghcr.io/astral-sh/uv:latest /uv /uv\n",
        {"TAG": "3.13"},
        "127.0.0.1:5000/spaces",
    )
    assert facts.images == {"vitrine/python:3.13", "python:3.12-slim", "ghcr.io/astral-sh/uv:latest"}


@pytest.mark.parametrize(
    ("lines", "reason", "words"),
    [
        (["× No solution found when resolving dependencies:", "╰─▶ Because nope was not found"], Reason.REQUIREMENTS_UNRESOLVED, "nope"),
        (["E: Unable to locate package libnope"], Reason.REQUIREMENTS_FAILED, "packages.txt: Debian has no package libnope."),
        (["× Failed to build `thing==1`", "error: boom"], Reason.REQUIREMENTS_FAILED, "boom"),
        (["error: Failed to fetch: http://x/a.whl", "cause: HTTP status client error (404 Not Found)"], Reason.REQUIREMENTS_FAILED, "404"),
        (["Killed"], Reason.DOCKERFILE_FAILED, "as it was"),
    ],
)
def test_failures_of_generated_files_name_the_owner_s_files(lines: list[str], reason: Reason, words: str) -> None:
    class Unheard:
        def line(self, text: str) -> None:
            return

    log = LastLines(Unheard())
    for line in ("error: of an earlier step", "Step 5/9 : RUN x", " ---> Running in 0123456789ab", *lines):
        log.line(line)
    found = in_owners_words(BuildFailed(Reason.DOCKERFILE_FAILED, "as it was"), log.step)
    assert found.reason is reason and words in found.message
    kept = BuildFailed(Reason.BUILD_MEMORY, "memory")
    assert in_owners_words(kept, log.step) is kept
