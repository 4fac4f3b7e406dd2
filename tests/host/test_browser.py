"""The pack in ComfyUI's own page: a shipped workflow from the template browser, Run, and the video is there.

Needs chromium with chromedriver, and the package selenium, which scripts/test.py --host installs; skipped where one is
missing.
PAVDM_SCREENSHOT=FILE.png keeps a picture of the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browser import chromium
from host_graphs import one_node_between, page_file

from pavdm.comfyui.convert import to_api

pytestmark = pytest.mark.host

SECONDS = 300
ERRORS = ("SEVERE",)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def until(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except Exception as error:  # the page is being built: elements come and go
            last = error
        else:
            last = None
        time.sleep(0.25)
    raise AssertionError(f"not seen after {seconds:g} s: {what} ({last})")


def click(browser: Any, xpath: str) -> None:
    def try_it() -> bool:
        elements = [element for element in browser.find_elements("xpath", xpath) if element.is_displayed()]
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", elements[-1])
        elements[-1].click()
        return True

    until(try_it, xpath, 30)


def open_page(browser: Any, server: Any) -> None:
    browser.get(server.url)
    until(lambda: browser.execute_script("return !!(window.app && app.vueAppReady && app.graph)"), "the page")
    time.sleep(2)  # a first visit opens the template browser by itself; later ones the graph of before
    models_missed(browser)
    browser.get_log("browser")  # what the page complains of before it was asked for anything of ours


def models_missed(browser: Any) -> bool:
    """Whether the page says which models are missing, as older ones do in a dialog, which is closed."""
    named = "//*[@role='dialog'][contains(., 'Missing Models')]"
    dialogs = browser.find_elements("xpath", named)
    for dialog in dialogs:
        dialog.find_element("css selector", "[aria-label=Close]").click()
    until(lambda: not browser.find_elements("xpath", named), "the dialog of missing models closed", 30)
    return bool(dialogs)


def open_template(browser: Any, server: Any, name: str) -> None:
    """A fresh page with the workflow `name` of this pack, through the template browser."""
    open_page(browser, server)
    if not browser.find_elements("css selector", "[role=dialog]"):
        browser.execute_script("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    click(browser, "//*[@role='dialog']//*[normalize-space(.)='pavdm' and not(*)]")
    click(browser, f"//*[@role='dialog']//*[normalize-space(.)='{name}' and not(*)]")
    until(lambda: browser.execute_script("return app.graph.nodes.length") > 5, f"the nodes of {name}", 60)
    time.sleep(2)
    missed = models_missed(browser)
    assert not (missed and name.startswith("demo_"))
    until(lambda: not browser.find_elements("css selector", "[role=dialog]"), "no dialog over the graph", 30)


def complaints(browser: Any) -> list[str]:
    """Errors on the page's console, but for what its own calls meet: to its maker's registry (--disable-api-nodes), and
    to the places of missing models for their sizes (no network)."""
    said = [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ERRORS]
    own = ("https://api.comfy.org/", "Error fetching file size")
    return [message for message in said if not any(words in message for words in own)]


NODES = """
return app.graph.nodes.map(node => ({
  type: node.type, missing: !LiteGraph.registered_node_types[node.type],
  box: [node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0], node.pos[1] + node.size[1]],
}))
"""


def overlapping(boxes: list[list[float]]) -> list[Any]:
    return [
        (a, b)
        for index, a in enumerate(boxes)
        for b in boxes[:index]
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]


def test_a_workflow_of_the_template_browser_runs_and_shows_its_video(
    browser: Any,
    server: Any,
    schemas: Any,
) -> None:
    open_template(browser, server, "demo_extend_a_clip")
    nodes = browser.execute_script(NODES)
    assert not [node for node in nodes if node["missing"]]
    assert not overlapping([node["box"] for node in nodes])
    browser.execute_script(
        "app.graph.nodes.find(n => n.type == 'PAVDM_EncodeClip').widgets.find(w => w.name == 'new_seconds').value ="
        "arguments[0]",
        3 * 17 / 24,
    )
    click(browser, "//button[normalize-space(.)='Run']")
    until(
        lambda: browser.execute_script(
            "return app.graph.nodes.some(n => n.type == 'SaveVideo' && (n.imgs || n.videoContainer || n.widgets.some("
            "w => w.name == 'video-preview' || w.element && w.element.querySelector('video'))))"
        ),
        "the video on the Save Video node",
    )
    video = until(
        lambda: browser.execute_script(
            "const v = [...document.querySelectorAll('video')].find(v => v.readyState > 1);"
            "return v && [v.videoWidth, v.videoHeight, v.duration]"
        ),
        "a video that plays",
        60,
    )
    assert video[:2] == [96, 64] and video[2] == pytest.approx(3 + 3 * 17 / 24, abs=0.1)
    assert not complaints(browser)
    if path := os.environ.get("PAVDM_SCREENSHOT"):
        browser.execute_script("app.ui.settings.setSettingValue('LiteGraph.Canvas.MinFontSizeForLOD', 0)")
        browser.execute_script("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        time.sleep(5)
        browser.save_screenshot(path)


def would_queue(browser: Any) -> dict[str, Any]:
    """The inputs of every node, by its id, as Run would send them."""
    queued = browser.execute_async_script("app.graphToPrompt().then(p => arguments[0](p.output))")
    for node in queued.values():
        if node["class_type"] == "LoadVideo":
            node["inputs"].pop("video-preview", None)  # the page's own, which no server knows
    return inputs_of(queued)


def inputs_of(graph: Any) -> dict[str, Any]:
    return {number: node["inputs"] for number, node in graph.items()}


@pytest.mark.parametrize(
    "name",
    [
        prefix + name
        for prefix in ("", "demo_")
        for name in ("text_to_long_video", "prompt_travel", "resume_from_a_saved_state", "beside_the_baseline")
    ],
)
def test_every_workflow_opens_whole_and_the_page_would_queue_what_the_converter_says(
    browser: Any,
    server: Any,
    schemas: Any,
    name: str,
) -> None:
    open_template(browser, server, name)
    nodes = browser.execute_script(NODES)
    assert not [node for node in nodes if node["missing"]]
    assert not overlapping([node["box"] for node in nodes])
    assert would_queue(browser) == inputs_of(to_api(page_file(f"workflows/{name}.json"), schemas))
    assert not [text for text in complaints(browser) if ".safetensors" not in text]


@pytest.mark.parametrize("values", [{}, {"new_seconds": 1.5, "text": "a boat"}])
def test_the_blueprint_opens_whole_and_the_page_would_queue_what_the_converter_says(
    browser: Any, server: Any, schemas: Any, values: dict[str, Any]
) -> None:
    open_page(browser, server)
    version = browser.execute_script("return window.__COMFYUI_FRONTEND_VERSION__")
    if values and tuple(map(int, version.split(".")[:2])) <= (1, 32):
        pytest.skip(f"the page {version} keeps a subgraph's values inside it")
    flow = one_node_between(page_file("subgraphs/Extend a Clip (PA-VDM).json"), values)
    browser.execute_async_script("app.loadGraphData(arguments[0]).then(arguments[1])", flow)
    until(lambda: browser.execute_script("return app.graph.nodes.length") == 3, "the three nodes", 60)
    queued = would_queue(browser)
    assert queued == inputs_of(to_api(flow, schemas))
    (length,) = [node["new_seconds"] for node in queued.values() if "new_seconds" in node]
    assert length == values.get("new_seconds", 20.0)
