"""A batch on real processes, some of them killed: nothing finished is lost, and the others take over."""

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from extending import FAST, frames_of, saved_chunks

# torchrun gives every process one thread; results are compared with runs of one thread, too.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(listed, out, models, *options, launcher=("-m", "pavdm")):
    arguments = [sys.executable, *launcher, "batch", str(listed), "--out", str(out), "--models", str(models)]
    return [*arguments, *FAST, *map(str, options)]


def start(arguments):
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def wait_for(condition, *processes, seconds=300):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def owner(out, name):
    """The process that has made the newest claim: its number."""
    claims = sorted((out / "work" / name).glob("claim-*"))
    return int(claims[-1].read_text().split("-")[-2])


def results(out):
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def says(out, process):
    """What a process of a batch tells the others that it is doing."""
    return "".join(path.read_text() for path in (out / "work/members").glob(f"*-{process.pid}-*.json"))


@pytest.mark.skipif(sys.platform == "win32", reason="processes are stopped and killed the POSIX way")
def test_what_a_killed_process_leaves_is_taken_over_by_a_living_one_and_is_not_made_from_the_start(models, tmp_path):
    listed, out = tmp_path / "list.csv", tmp_path / "out"
    listed.write_text("prompt,seconds\na lake,20\na street,0.5\n")
    first = start(command(listed, out, models))
    wait_for(lambda: saved_chunks(out / "work/sample_0000/state") >= 2, first)
    first.send_signal(signal.SIGSTOP)  # so that it cannot end before it is killed
    assert not (out / "sample_0000.mp4").exists()
    chunk = out / "work/sample_0000/state/chunks/000000.safetensors"
    written = chunk.stat().st_mtime_ns

    second = start(command(listed, out, models))
    wait_for(lambda: "waiting for the others" in says(out, second), second)  # for the video that the first one has
    assert (out / "work/sample_0001/done.json").exists()
    assert len(list((out / "work/sample_0000").glob("claim-*"))) == 1
    first.kill()
    first.communicate()
    _, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    rows = results(out)
    assert [(row["status"], row["take"]) for row in rows.values()] == [("done", "2"), ("done", "1")]
    assert chunk.stat().st_mtime_ns == written
    assert "going on from" in (out / "logs/sample_0000.log").read_text()

    alone = tmp_path / "alone.mp4"
    single = [sys.executable, "-m", "pavdm", "generate", "--prompt", "a lake", "--seconds", "20", "--out", str(alone)]
    subprocess.run([*single, "--models", str(models), *FAST, "--quiet"], check=True, env=ENVIRONMENT)
    assert np.array_equal(frames_of(out / "sample_0000.mp4"), frames_of(alone))


@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed the POSIX way")
def test_ranks_of_torchrun_share_a_list_and_survive_the_death_of_one(models, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video\n" * 100)
    listed, out = tmp_path / "list.csv", tmp_path / "out"
    listed.write_text(f"prompt,clip,seconds\nno clip,{broken},1\na lake,,20\na street,,20\na sea,,0.5\n")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    process = start(command(listed, out, models, launcher=(*torchrun, "-m", "pavdm")))
    names = [f"sample_000{i}" for i in range(4)]
    wait_for(lambda: all(saved_chunks(out / "work" / name / "state") >= 1 for name in names[1:3]), process)
    two = {owner(out, name) for name in names[1:3]}
    assert len(two) == 2  # handed out, one to each
    os.kill(two.pop(), signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1  # of the video without a clip
    assert "3 of 4 done, 1 failed" in output
    rows = results(out)
    assert [rows[name]["status"] for name in names] == ["failed", "done", "done", "done"]
    assert rows["sample_0000"]["take"] == "1"  # not tried again by the ranks that were started anew
    assert sorted(rows[name]["take"] for name in names[1:3]) != ["1", "1"]
    assert "broken.mp4" in (out / "logs/sample_0000.log").read_text()

    made = {path: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
    assert len(made) == 3
    again = subprocess.run(command(listed, out, models), capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert again.returncode == 1 and "3 of 4 done, 1 failed" in again.stdout
    assert results(out)["sample_0000"]["take"] == "2"  # a new batch tries it again
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.mp4")} == made


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(models, tmp_path):
    listed, out = tmp_path / "list.txt", tmp_path / "out"
    listed.write_text("a lake\n")
    arguments = command(listed, out, models, "--seconds", 20)
    process = start(arguments)
    wait_for(lambda: saved_chunks(out / "work/sample_0000/state") >= 1, process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "1 still to make" in output and "goes on from here" in errors and "Traceback" not in errors
    assert (out / "work/sample_0000/released-0001").exists()
    assert len(frames_of(out / "work/sample_0000/take-0001.partial.mp4")) > 0
    again = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert again.returncode == 0
    assert "going on from" in (out / "logs/sample_0000.log").read_text()
    assert not list((out / "work/sample_0000").glob("take-*"))
