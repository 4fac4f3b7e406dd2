"""`pavdm batch --server` on a real ComfyUI."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pavdm.cli import main
from pavdm.video_reader import probe

pytestmark = pytest.mark.host

STEPS, WINDOW = 6, 3
CALLS_PER_CHUNK = STEPS // WINDOW
FRAMES, PIECE = 72, 17
CALLS = STEPS + (-(-FRAMES // PIECE) - 1) * CALLS_PER_CHUNK  # of one video


def batch(server: Any, folder: Path, *options: str) -> tuple[int, list[dict[str, str]]]:
    clip = server.base / "input" / "clip.mp4"
    (folder / "list.txt").write_text(f"a man on the phone||{clip}\na street||{clip}\n")
    size = ["--size", "48x64", "--steps", str(STEPS), "--window-chunks", str(WINDOW), "--seconds", str(FRAMES / 24)]
    arguments = ["batch", str(folder / "list.txt"), "--out", str(folder / "out"), *size, "--quiet", *options]
    status = main([*arguments, "--server", server.url])
    results = folder / "out" / "results.csv"
    return status, list(csv.DictReader(results.open(newline=""))) if results.exists() else []


def test_a_list_is_made_and_a_cancelled_video_goes_on_from_what_the_server_kept(
    server: Any, workflow: Any, patched: Any, tmp_path: Path
) -> None:
    name = uuid4().hex
    cancelled = {"class_type": "Probe_Model", "inputs": {"name": name, "interrupt_at": CALLS - 3}}
    (tmp_path / "small.json").write_text(json.dumps(patched(workflow("extend_a_clip"), cancelled)))
    status, rows = batch(server, tmp_path, "--workflow", str(tmp_path / "small.json"))
    assert status == 0, rows
    assert [(row["status"], row["by"], row["take"]) for row in rows] == [
        ("done", server.url, "2"), ("done", server.url, "1"),
    ]  # fmt: skip
    for row in rows:
        video = probe(row["file"])
        assert (video.width, video.height) == (64, 48)
        assert video.num_frames == int(row["frames"]) > int(row["new_frames"]) == FRAMES
        assert len(list((server.base / "output/pavdm/batch").glob(f"{row['name']}-*.safetensors"))) == 1
    assert 0 < len(server.noted(name)) - 2 * CALLS <= CALLS_PER_CHUNK  # a video from its beginning would be more


def test_a_server_without_the_model_files_is_told_apart_before_anything_is_asked_of_it(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, rows = batch(server, tmp_path)
    assert (status, rows) == (2, [])
    said = capsys.readouterr().err
    assert f"{server.url} lacks " in said and "'OpenSora-STDiT-v3.safetensors' as PAVDM_LoadModel.model_name" in said
    assert "clip.mp4" not in said  # it is uploaded
