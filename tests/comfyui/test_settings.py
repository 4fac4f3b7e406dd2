"""--set NODE.input=value reaches the input that is meant, as a value of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pavdm.comfyui.settings import Upload, apply, uploads
from pavdm.errors import InputError

SCHEMAS: dict[str, Any] = {
    "Load": {"input": {"required": {"file": ["COMBO", {"options": ["there.mp4"], "video_upload": True}]}}},
    "Make": {
        "input": {
            "required": {
                "video": ["VIDEO", {}],
                "steps": ["INT", {}],
                "scale": ["FLOAT", {}],
                "on": ["BOOLEAN", {}],
                "rate": ["COMBO", {"options": [24, 30]}],
            }
        }
    },
}


def graph() -> Any:
    return {
        "1": {"class_type": "Load", "inputs": {"file": "there.mp4"}, "_meta": {"title": "Load v1.2"}},
        "2": {"class_type": "Make", "inputs": {"video": ["1", 0], "steps": 1}, "_meta": {"title": "First"}},
        "3": {"class_type": "Make", "inputs": {"video": ["1", 0], "steps": 1}, "_meta": {"title": "Second"}},
    }


@pytest.mark.parametrize(
    ("setting", "number", "name", "value"),
    [
        ("2.steps=7", "2", "steps", 7),
        ("second.steps=7", "3", "steps", 7),
        ("First.scale=1e-1", "2", "scale", 0.1),
        ("2.on=no", "2", "on", False),
        ("2.rate=30", "2", "rate", 30),
        ("Load v1.2.file=a=b.mp4", "1", "file", "a=b.mp4"),
        ("load.file=x.mp4", "1", "file", "x.mp4"),
    ],
)
def test_a_node_is_found_by_number_title_and_class(setting: str, number: str, name: str, value: Any) -> None:
    before = graph()
    after, chosen = apply(before, [setting], SCHEMAS)
    assert after[number]["inputs"][name] == value and type(after[number]["inputs"][name]) is type(value)
    assert chosen == {(number, name)}
    assert before == graph()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps=7", "expected NODE.input=value"),
        ("9.steps=7", "no such node; it has Load v1.2"),
        ("Make.steps=7", "several nodes: First"),
        ("2.stops=7", "has no 'stops' to set; it has steps, scale, on, rate"),
        ("2.video=x", "has no 'video' to set"),
        ("2.steps=1.5", "expected a whole number"),
        ("2.on=perhaps", "expected true or false"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_said_plainly(setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        apply(graph(), [setting], SCHEMAS)


def test_a_file_of_this_machine_is_uploaded_where_it_was_set_or_the_server_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("there.mp4", "mine.mp4"):
        (tmp_path / name).write_bytes(b"x")
    assert list(uploads(graph(), set(), SCHEMAS)) == []  # the server's own
    chosen = {("1", "file")}
    assert list(uploads(graph(), chosen, SCHEMAS)) == [Upload("1", "file", Path("there.mp4"))]
    other, _ = apply(graph(), ["1.file=mine.mp4"], SCHEMAS)
    assert list(uploads(other, set(), SCHEMAS)) == [Upload("1", "file", Path("mine.mp4"))]
    missing, chosen = apply(graph(), ["1.file=nowhere.mp4"], SCHEMAS)
    assert list(uploads(missing, chosen, SCHEMAS)) == []
