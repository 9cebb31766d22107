"""The room's README and the table of coded errors say the same."""

from __future__ import annotations

import re
from pathlib import Path

from control_plane.proxy.errors import Code

README = Path(__file__).parents[3] / "control_plane/proxy/README.md"


def test_every_code_is_documented_with_its_status() -> None:
    documented = {name: int(status) for name, status in re.findall(r"^\| `([A-Z_]+)` \| (\d{3}) \|$", README.read_text(), re.MULTILINE)}
    assert documented == {code.name: code.value.status for code in Code}
    assert len(documented) >= 20


def test_every_code_says_what_happened_and_most_what_to_do() -> None:
    for code in Code:
        assert code.value.title and code.value.words.endswith("."), code.name
        assert 400 <= code.value.status < 600
        assert code.value.status not in (429, 503) or code.value.retry_after_s, f"{code.name} does not say when to come again"
        if code.value.status in (502, 504):
            assert code.value.fix or code in (Code.APP_CUT_SHORT,), f"{code.name} leaves the owner alone"
