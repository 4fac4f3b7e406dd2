"""A Chromium for tests; skips where it, chromedriver or the package selenium is missing (pip install '.[browser]')."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_SWITCHES = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1700,1000 --lang=en-US"
)


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A selenium driver that keeps what the page's console says. profile: an empty folder for its files."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install '.[browser]'")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _program("chromium", "chromium-browser", "google-chrome")
    service = Service(_program("chromedriver"))
    for switch in (*_SWITCHES.split(), f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def _program(*names: str) -> str:
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no {names[0]} on this machine: the page is not tried")
    return found
