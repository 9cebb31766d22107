from __future__ import annotations

import pytest

from tests.fakes.state import KINDS, STATE


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--database", choices=KINDS, default=KINDS[0], help="where tested platforms keep their state; postgresql brings Redis")


def pytest_configure(config: pytest.Config) -> None:
    STATE.kind = config.getoption("--database")


def pytest_unconfigure() -> None:
    STATE.close()
