"""Where the files of a run go, and that a place which cannot hold them is refused before the run."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from pavdm.comfyui import command
from pavdm.comfyui.client import OutputFile, ServerError
from pavdm.comfyui.destination import check_content, check_place, is_one_file, places
from pavdm.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
SCHEMAS = {"Other": {"output_node": True}, "Look": {"output_node": True}}


def saving(*kinds: str, **inputs: Any) -> Any:
    every = {"filename_prefix": "x", **inputs}
    return {str(number): {"class_type": kind, "inputs": every} for number, kind in enumerate(kinds, 1)}


def files(*names: str) -> list[OutputFile]:
    return [OutputFile("7", name, "pavdm", "output") for name in names]


def test_a_dot_in_a_name_makes_no_file_of_a_folder(tmp_path: Path) -> None:
    assert is_one_file(Path("long.mp4")) and is_one_file(Path("long.MP4"))
    assert not is_one_file(Path("runs/v1.2")) and not is_one_file(Path("runs"))
    (tmp_path / "odd.mp4").mkdir()
    assert not is_one_file(tmp_path / "odd.mp4")


@pytest.mark.parametrize(
    ("graph", "target", "message"),
    [
        (saving("SaveVideo", "SaveVideo"), "x.mp4", "saves 2: .*node 1.*node 2.*give a folder"),
        (saving("SaveVideo"), "x.webm", r"saves \.mp4"),
        (saving("SaveVideo", format="webm"), "x.mp4", r"saves \.webm"),
        (saving("SaveLatent"), "x.mp4", r"saves \.latent"),
        ({"1": {"class_type": "Look", "inputs": {}}}, "x.mp4", "saves nothing"),
    ],
)
def test_one_file_is_refused_where_something_else_is_saved(graph: Any, target: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_content(graph, Path(target), SCHEMAS)
    check_content(graph, Path("a-folder"), SCHEMAS)


def test_one_file_is_accepted_where_one_is_saved_and_where_nobody_knows() -> None:
    check_content(saving("SaveVideo", format="auto"), Path("x.mp4"), SCHEMAS)
    check_content(saving("SaveVideo", "Other"), Path("x.mp4"), SCHEMAS)
    check_content(saving("Other"), Path("x.gif"), SCHEMAS)


def test_a_place_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "made.mp4").write_text("mine")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        check_place(tmp_path / "file" / "deep" / "x.mp4", False)
    with pytest.raises(InputError, match="is a file, expected a folder"):
        check_place(tmp_path / "file", False)
    with pytest.raises(InputError, match="exists"):
        check_place(tmp_path / "made.mp4", False)
    check_place(tmp_path / "made.mp4", True)
    check_place(tmp_path / "new" / "deep", False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "made.mp4"]
    if os.geteuid():  # root may write anywhere
        tmp_path.chmod(0o500)
        with pytest.raises(InputError, match="nothing may be written"):
            check_place(tmp_path / "x.mp4", False)


def test_a_server_cannot_place_its_files_elsewhere_and_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"mine")
    found = places(files("../../a.mp4", "..\\b.mp4", "a.mp4"), tmp_path)
    assert found == [tmp_path / name for name in ("a-1.mp4", "b.mp4", "a-2.mp4")]


def test_what_does_not_fit_into_one_file_goes_into_a_folder_of_its_name(tmp_path: Path) -> None:
    assert places(files("a.mp4"), tmp_path / "x.mp4") == [tmp_path / "x.mp4"]
    assert places(files("a.mp4", "b.mp4"), tmp_path / "x.mp4") == [tmp_path / "x" / name for name in ("a.mp4", "b.mp4")]
    (tmp_path / "x").write_text("mine")
    assert places(files("a.webm"), tmp_path / "x.mp4") == [tmp_path / "x-files" / "a.webm"]


def test_a_place_is_refused_before_the_workflow_is_read_into_a_server(tmp_path: Path) -> None:
    (tmp_path / "made.mp4").write_text("mine")
    options = argparse.Namespace(
        workflow=ROOT / "workflows" / "extend_a_clip.json",
        out=tmp_path / "made.mp4",
        overwrite=False,
        server="http://127.0.0.1:9",  # where nothing listens
    )
    with pytest.raises(InputError, match="exists"):
        command.run(options)


def test_a_lost_download_says_where_the_files_still_are(tmp_path: Path) -> None:
    class Gone:
        async def download(self, file: OutputFile, path: Path) -> None:
            raise ServerError("no answer")

    with pytest.raises(ServerError, match=r"no answer\n.*output/pavdm/a\.mp4 of the ComfyUI at here has"):
        asyncio.run(command._download(Gone(), files("a.mp4"), tmp_path, "the ComfyUI at here"))  # type: ignore[arg-type]
