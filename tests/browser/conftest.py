"""One JupyterLab and one browser for all of these tests; a window for each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests import `lab` by name

from lab import Lab, LabServer, open_browser, start_lab

from magistral_nb import paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Iterator[LabServer]:
    environment = {paths.HOME_VARIABLE: str(shared_home)}
    with start_lab(tmp_path_factory.mktemp("lab"), environment) as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with open_browser() as chromium:
        yield chromium


@pytest.fixture
def lab(lab_server: LabServer, browser: Browser) -> Iterator[Lab]:
    window = Lab(lab_server, browser)
    yield window
    window.close()
