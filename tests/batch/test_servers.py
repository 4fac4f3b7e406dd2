"""`pavdm batch --server` over processes that speak ComfyUI's protocol (a real one: tests/host)."""

import csv
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pavdm.cli import main

pytest.importorskip("aiohttp")

FAKE = Path(__file__).parent / "fake_comfyui.py"


@pytest.fixture
def servers(tmp_path, make_clip):
    """A function that starts a server; its process, address, and the file where it notes what it was asked for."""
    video = make_clip(
        "served.mp4", [np.zeros((32, 48, 3), np.uint8)] * 12, fps=24, codec="libx264", pixel_format="yuv420p"
    )
    processes = []

    def start(*how):
        notes = tmp_path / f"notes{len(processes)}"
        process = subprocess.Popen([sys.executable, FAKE, video, notes, *how], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process, f"http://127.0.0.1:{process.stdout.readline().strip()}", notes

    yield start
    for process in processes:
        process.kill()
        process.wait()


def batch(tmp_path, text, urls, *options):
    (tmp_path / "list.csv").write_text(text)
    arguments = ["batch", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out"), "--seconds", "0.5", "--quiet"]
    status = main([*arguments, *map(str, options), "--server", *urls])
    with (tmp_path / "out/results.csv").open(newline="") as file:
        return status, list(csv.DictReader(file))


def test_a_list_is_handed_out_with_its_settings_and_failures_stay_with_their_video(servers, bikes, tmp_path):
    _, url, notes = servers()
    text = f"prompt,clip,seed,guidance\na lake,,7,\na street,{bikes},,3.5\nto fail,,,\n"
    status, rows = batch(tmp_path, text, [url], "--size", "64x96", "--steps", 6, "--num-sample", 2)
    assert status == 1
    assert [row["status"] for row in rows] == ["done"] * 4 + ["failed"] * 2
    assert {row["by"] for row in rows} == {url}
    assert "out of patience" in rows[-1]["error"]
    assert all(
        (tmp_path / f"out/{row['name']}.mp4").read_bytes() == (tmp_path / "served.mp4").read_bytes() for row in rows[:4]
    )
    asked = [
        {n["class_type"]: n["inputs"] for n in json.loads(line).values()} for line in notes.read_text().splitlines()
    ]
    assert [graph["RandomNoise"]["noise_seed"] for graph in asked] == [7, 8, 42, 43, 42, 43]
    assert asked[0]["PAVDM_EncodePrompt"]["text"] == "a lake"
    assert asked[0]["PAVDM_EmptyVideo"]["new_seconds"] == 0.5
    sized = asked[2]["PAVDM_EncodeClip"]
    assert (sized["resolution"], sized["width"], sized["height"]) == ("custom", 96, 64)
    assert asked[2]["LoadVideo"]["file"] == "pavdm/bikes.mp4"
    assert asked[2]["CFGGuider"]["cfg"] == 3.5 and asked[0]["CFGGuider"]["cfg"] == 7.0
    assert asked[0]["PAVDM_ProgressiveSampler"]["steps"] == 6


def test_what_a_dying_server_had_is_made_by_another(servers, tmp_path):
    dying, first, notes = servers("hanging")
    _, second, _ = servers()

    def kill_when_asked():
        while not notes.exists():
            time.sleep(0.01)
        dying.kill()

    threading.Thread(target=kill_when_asked, daemon=True).start()
    status, rows = batch(tmp_path, "prompt\na lake\na street\n", [first, second])
    assert status == 0
    assert [(row["status"], row["by"]) for row in rows] == [("done", second)] * 2
    assert sorted(row["take"] for row in rows) == ["1", "2"]


def test_servers_that_cannot_be_reached_or_asked_are_named(servers, tmp_path, capsys):
    _, url, _ = servers()
    for line, option, message in (
        ("a lake", ["--method", "replacement"], "line 2: a workflow on a server cannot be asked for --method"),
        ("a lake", [], "no ComfyUI answers at http://127.0.0.1:9"),
    ):
        (tmp_path / "list.csv").write_text(f"prompt\n{line}\n")
        arguments = ["batch", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out"), "--seconds", "1", *option]
        assert main([*arguments, "--server", url if option else "http://127.0.0.1:9"]) == 2
        assert message in capsys.readouterr().err
