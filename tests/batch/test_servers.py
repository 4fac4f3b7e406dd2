"""`pavdm batch --server` over processes that speak ComfyUI's protocol (a real one: tests/host/test_batch.py)."""

import csv
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pavdm.batch.servers import Workflows
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
    kept = [graph["PAVDM_ProgressiveSampler"]["autosave"] for graph in asked]
    assert kept == [f"pavdm/batch/{row['name']}" for row in rows]  # so that a server goes on with what it has begun


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


@pytest.mark.parametrize("how", ["bare", "without-model"])
def test_a_server_that_lacks_something_leaves_the_videos_to_the_others(servers, tmp_path, how, caplog):
    _, bad, notes = servers(how)
    _, good, _ = servers()
    status, rows = batch(tmp_path, "prompt\na lake\na street\n", [bad, good])
    assert status == 0
    assert [(row["status"], row["by"]) for row in rows] == [("done", good)] * 2
    assert not notes.exists()
    lack = (
        "the node PAVDM_LoadVAE" if how == "bare" else "'OpenSora-STDiT-v3.safetensors' as PAVDM_LoadModel.model_name"
    )
    assert lack in caplog.text


def test_a_choice_that_only_one_server_has_not_is_not_the_videos_fault(servers, tmp_path, monkeypatch):
    _, bad, _ = servers("without-model")
    _, good, _ = servers()
    monkeypatch.setattr(Workflows, "used", lambda workflows, jobs: [])  # noticed only once the server refuses
    status, rows = batch(tmp_path, "prompt\na lake\na street\n", [bad, good])
    assert status == 0
    assert [(row["status"], row["by"]) for row in rows] == [("done", good)] * 2


def test_a_refusal_of_a_server_that_lacks_nothing_belongs_to_the_video(servers, tmp_path):
    _, url, _ = servers("picky")
    status, rows = batch(tmp_path, "prompt\na lake\n", [url])
    assert status == 1 and "Value not in list: of picky" in rows[0]["error"]


def test_a_run_that_somebody_cancels_on_the_server_is_made_again(servers, tmp_path):
    _, url, _ = servers("cancelled")
    status, rows = batch(tmp_path, "prompt\na lake\n", [url])
    assert status == 0 and rows[0]["take"] == "2"


def test_options_of_networks_here_are_refused_with_servers(servers, tmp_path, capsys):
    (tmp_path / "list.csv").write_text("prompt\na lake\n")
    arguments = ["batch", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out"), "--seconds", "1"]
    for option, value in (("--device", "cpu"), ("--tile", "32"), ("--models", "here"), ("--vae", "here")):
        assert main([*arguments, option, value, "--server", "http://127.0.0.1:9"]) == 2
        assert f"{option} has no meaning with --server" in capsys.readouterr().err
    assert main([*arguments, "--lost-after", "9", "--server", "http://127.0.0.1:9"]) == 2
    assert "--lost-after has no meaning without --context-parallel" in capsys.readouterr().err


def test_servers_that_cannot_be_reached_or_asked_are_named(servers, tmp_path, capsys):
    _, url, _ = servers()
    for line, option, message in (
        ("a lake", ["--method", "replacement"], "line 2: a workflow on a server cannot be asked for --method"),
        ("a lake", [], "no answer from http://127.0.0.1:9"),
    ):
        (tmp_path / "list.csv").write_text(f"prompt\n{line}\n")
        arguments = ["batch", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out"), "--seconds", "1", *option]
        assert main([*arguments, "--server", url if option else "http://127.0.0.1:9"]) == 2
        assert message in capsys.readouterr().err
