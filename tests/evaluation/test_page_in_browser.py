"""The report in a real browser: wide and narrow, light and dark (skipped without Chromium, see helpers/browser.py).

PAVDM_SCREENSHOTS=FOLDER keeps a picture of each.
"""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium

from pavdm.evaluation import measure, write_report

WIDTHS = (360, 1400)
SCHEMES = ("light", "dark")

# Elements that reach out of the page, unless a box around them scrolls.
_REACHING_OUT = """
return [...document.body.querySelectorAll('*')].filter(e => {
  if (e.closest('.scroll') || e.closest('svg') || !e.getClientRects().length) return false;
  const box = e.getBoundingClientRect();
  return box.right > innerWidth + 1 || box.left < -1;
}).map(e => e.outerHTML.slice(0, 120));
"""
_CONTRASTS = """
const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255).map(
  x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4); return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
  if (!/, 0\\)$|transparent/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
return ['h1', 'h2', 'p.soft', 'td', 'figcaption', 'dd', 'li'].map(s => document.querySelector(s)).map(e => {
  const a = light(getComputedStyle(e).color), b = light(behind(e));
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); });
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(moving: Any, noisy: Any, tmp_path: Path) -> Path:
    """A report with everything that a page can have, and words that are long."""
    long = "a-video-with-a-name-that-has-no-place-to-break_" * 3
    clean, torn = moving(80), np.concatenate([moving(40), noisy(moving(40, seed=3), 20.0)])
    methods = {
        method: [measure(frames, name=f"{long}{n}", clip_frames=17, pictures=True) for n, frames in enumerate(videos)]
        for method, videos in (("progressive", [clean, torn]), ("x" * 60, [torn, clean]))
    }
    return write_report(methods, tmp_path / "r", failed={f"/a/path/{long}.mp4": "cannot be read " + "y" * 200})


def test_the_page_fits_and_can_be_read_at_any_width_in_both_colour_schemes(browser: Any, page: Path) -> None:
    for width in WIDTHS:
        for scheme in SCHEMES:
            screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            browser.get(page.as_uri())
            browser.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
            keep(browser, f"report-{width}-{scheme}")
            at = f"{width} {scheme}"
            assert browser.execute_script("return innerWidth") == width, at
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, at
            assert browser.execute_script(_REACHING_OUT) == [], at
            assert min(browser.execute_script(_CONTRASTS)) > 4.5, at  # WCAG AA
            background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
            level = np.mean([float(part) for part in background.strip("rgba()").split(",")[:3]])
            assert (level > 200) if scheme == "light" else (level < 60), at
            shown = browser.execute_script(
                "return [...document.querySelectorAll('svg.band, .plot svg, img')].map(e => "
                "e.getBoundingClientRect()).filter(b => b.width < 8 || b.height < 8).length"
            )
            assert shown == 0, at
            broken = "return [...document.images].filter(i => !i.naturalWidth).length"
            assert browser.execute_script(broken) == 0, at
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def keep(browser: Any, name: str) -> None:
    if folder := os.environ.get("PAVDM_SCREENSHOTS"):
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (Path(folder) / f"{name}.png").write_bytes(b64decode(shot["data"]))
