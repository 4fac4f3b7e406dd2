"""`pavdm batch` in this process: what is made of a list, what is loaded for it, and what comes of failures."""

import csv
import json

import numpy as np
import pytest
from extending import frames_of

import pavdm.networks
from pavdm.batch.member import Member
from pavdm.cli import main

FAST = ("--size", "48x64", "--steps", "6", "--seconds", "0.5", "--quiet")


def batch(listed, out, models, *options):
    return main(["batch", str(listed), "--out", str(out), "--models", str(models), *FAST, *map(str, options)])


def results(out):
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def loaded(monkeypatch):
    """What was loaded, by name, in order."""
    names = []
    for name in ("load_vae", "load_stdit3"):
        load = getattr(pavdm.networks, name)
        monkeypatch.setattr(pavdm.networks, name, lambda *a, _n=name, _l=load, **k: names.append(_n) or _l(*a, **k))
    encoder = pavdm.networks.TextEncoder.load
    monkeypatch.setattr(pavdm.networks.TextEncoder, "load", lambda *a: names.append("text encoder") or encoder(*a))
    return names


def test_a_list_is_made_with_one_load_and_its_failures_end_nothing_else(bikes, models, tmp_path, loaded, capsys):
    (tmp_path / "clips").mkdir()
    broken = tmp_path / "clips/broken.mp4"
    broken.write_text("no video\n" * 100)
    listed, out = tmp_path / "list.txt", tmp_path / "out"
    listed.write_text(f"a lake||some/where/broken.mp4\na street||{bikes}\nsnow from text alone\nrain\n")
    options = ("--clips", tmp_path / "clips", "--end", 1, "--num-sample", 2, "--end-index", 3, "--sample-name", "v")
    assert batch(listed, out, models, *options) == 1
    assert loaded == ["text encoder", "load_vae", "load_stdit3"]

    rows = {row["name"]: row for row in results(out)}
    assert list(rows) == ["v_0000-0", "v_0000-1", "v_0001-0", "v_0001-1", "v_0002-0", "v_0002-1"]
    assert [row["status"] for row in rows.values()] == ["failed"] * 2 + ["done"] * 4
    assert [row["seed"] for row in rows.values()] == ["42", "43"] * 3
    assert "not a video" in rows["v_0000-0"]["error"]
    assert len(frames_of(out / "v_0001-0.mp4")) == 24 + 12 and len(frames_of(out / "v_0002-1.mp4")) == 12
    assert not np.array_equal(frames_of(out / "v_0002-0.mp4"), frames_of(out / "v_0002-1.mp4"))
    assert "4 of 6 done, 2 failed" in capsys.readouterr().out
    log = (out / "logs/v_0000-0.log").read_text()
    assert "Traceback" in log and "not a video" in log
    assert "loading the STDiT3" in (out / "logs/v_0001-0.log").read_text()

    # The same as one by one, and again: what is finished stays, what failed is tried once more.
    single = [
        "generate",
        "--prompt",
        "snow from text alone",
        "--out",
        str(tmp_path / "single.mp4"),
        "--models",
        str(models),
    ]
    assert main([*single, *FAST, "--seed", "43"]) == 0
    assert np.array_equal(frames_of(tmp_path / "single.mp4"), frames_of(out / "v_0002-1.mp4"))
    made = {path: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
    loaded.clear()
    broken.write_bytes(bikes.read_bytes())
    assert batch(listed, out, models, *options) == 2  # another clip of that name: not what was begun
    assert "another batch" in capsys.readouterr().err and loaded == []
    broken.write_text("no video\n" * 100)
    assert batch(listed, out, models, *options) == 1
    assert loaded == ["text encoder", "load_vae", "load_stdit3"]
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.mp4")} == made
    loaded.clear()
    rows = results(out)
    assert batch(listed, out, models, *options, "--start-index", 1) == 0
    assert loaded == []
    assert results(out) == rows  # with what this part of the list leaves out


def test_lines_of_a_csv_have_settings_of_their_own(bikes, models, tmp_path):
    listed, out = tmp_path / "list.csv", tmp_path / "out"
    listed.write_text(
        "prompt,clip,end,total-seconds,seed,fps,method,condition-length\n"
        f"a,{bikes},1.5,2,3,12,,\n"
        "b,,,,4,,replacement,10\n"
    )
    assert batch(listed, out, models) == 0
    assert [(row["seed"], row["frames"], row["fps"]) for row in results(out)] == [
        ("3", "24", "12.0"),
        ("4", "12", "24.0"),
    ]
    made_from = json.loads((out / "work/sample_0001/item.json").read_text())
    assert made_from["method"] == "replacement" and made_from["loop condition latents"] == "10"


@pytest.mark.parametrize(
    ("name", "text", "reasons"),
    [
        ("list.txt", "good\na||absent.mp4\nb||\n", ["line 3: no video file"]),
        ("list.txt", "good\na||absent.mp4\n", ["line 2: no such clip: absent.mp4"]),
        ("list.txt", "a||cat_s0_16f_320x176.mp4\n", ["line 1: ", "16 frames", "pavdm cut"]),
        ("list.csv", "prompt,seed,method\na,x,\nb,1,neither\nc,1,\n", ["line 2: ", "seed", "line 3: ", "neither"]),
        (
            "list.csv",
            "prompt,seconds,pad\na,0,\nb,1,perhaps\nc,1,yes\n",
            ["line 2: ", "line 3: ", "line 4: pad belong"],
        ),
        ("list.csv", "prompt,mask-strategy\na,0\n", ["line 2: ", "--method replacement"]),
    ],
)
def test_bad_lines_are_named_before_anything_is_loaded(models, tmp_path, loaded, capsys, name, text, reasons):
    (tmp_path / "cat_s0_16f_320x176.mp4").write_text("")
    (tmp_path / name).write_text(text)
    assert batch(tmp_path / name, tmp_path / "out", models) == 2
    errors = capsys.readouterr().err
    assert all(reason in errors for reason in reasons)
    assert loaded == [] and not (tmp_path / "out").exists()


def test_other_settings_do_not_mix_with_what_is_there(models, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("a lake\n")
    out = tmp_path / "out"
    assert batch(tmp_path / "list.txt", out, models) == 0
    assert batch(tmp_path / "list.txt", out, models, "--guidance", 3) == 2
    assert "guidance scale: 7.0 then, 3.0 now" in capsys.readouterr().err
    (out / "sample_0001.mp4").write_text("mine")
    (tmp_path / "list.txt").write_text("a lake\na sea\n")
    assert batch(tmp_path / "list.txt", out, models) == 2
    assert (out / "sample_0001.mp4").read_text() == "mine"


def test_networks_that_cannot_be_loaded_are_no_fault_of_a_video(models, tmp_path, capsys):
    broken = tmp_path / "model.safetensors"
    data = (models / "stdit" / "model.safetensors").read_bytes()
    broken.write_bytes(data[:-1000] + b"")
    (tmp_path / "list.txt").write_text("a lake\n")
    assert batch(tmp_path / "list.txt", tmp_path / "out", models, "--stdit", broken) == 2
    assert str(broken) in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("failed.json"))


def test_what_others_see_of_a_run(models, tmp_path, monkeypatch):
    """The reports of a process to the others, as the display of rank 0 reads them."""
    reports = []
    monkeypatch.setattr(Member, "report", lambda self, task, **what: reports.append((task, what)))
    (tmp_path / "list.txt").write_text("a lake\n")
    assert batch(tmp_path / "list.txt", tmp_path / "out", models) == 0
    calls = [what["call"] for _, what in reports if what.get("doing") == "sampling"]
    assert calls == list(range(1, len(calls) + 1)) and calls[-1] == reports[-2][1]["calls"]
    assert {task for task, _ in reports} == {"rank 0"} and reports[-1] == ("rank 0", {})
