"""`pavdm eval`: the files it writes, and that the page is whole in itself and safe."""

import csv
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pavdm.cli import main
from pavdm.evaluation import measure, measurement, registry, write_report
from pavdm.evaluation.markdown import as_markdown
from pavdm.video_writer import VideoWriter

FILES = ["chunks.csv", "index.html", "measures.csv", "report.json"]
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects tags and checks that they are closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.sources, self.ids, self.links = [], [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        self.sources += [values[name] for name in ("src", "srcset", "data") if name in values]
        self.links += [values["href"]] if "href" in values else []
        self.ids += [values["id"]] if "id" in values else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def write(path, frames, record=None):
    metadata = {} if record is None else {"pavdm": json.dumps(record)}
    with VideoWriter(path, frames.shape[1:3], 24, metadata) as writer:
        writer.write(frames)
    return path


@pytest.fixture
def videos(tmp_path, moving):
    """Two methods, two videos each."""
    for method, speed in (("a", 1), ("b", 2)):
        (tmp_path / method).mkdir()
        for number in range(2):
            frames = moving(60, speed, seed=number)
            write(tmp_path / method / f"clip{number}.mp4", frames, {"chunk_frames": 17, "prompt": "<script>x</script>"})
    return tmp_path


def test_one_command_compares_two_methods(videos, capsys):
    groups = ["--group", f"one & <two>={videos}/a/*.mp4", "--group", f"b={videos}/b/*.mp4"]
    assert main(["eval", *groups, "--out", str(videos / "report")]) == 0
    assert sorted(path.name for path in (videos / "report").iterdir()) == FILES

    data = json.loads((videos / "report" / "report.json").read_text())
    assert [(v["method"], v["name"]) for v in data["videos"]] == [
        ("one & <two>", "clip0"), ("one & <two>", "clip1"), ("b", "clip0"), ("b", "clip1"),
    ]  # fmt: skip
    own = measure(videos / "b" / "clip1.mp4")
    assert data["videos"][3]["summary"] == own.summary
    assert data["comparison"]["paired"] is True
    faster = data["comparison"]["differences"]["motion.mean"]["b"]
    assert faster["low"] > 0
    assert data["definitions"].keys() == own.summary.keys()

    with (videos / "report" / "measures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["seam_ratio"]) for row in rows] == [v["summary"]["seam_ratio"] for v in data["videos"]]
    with (videos / "report" / "chunks.csv").open() as file:
        chunks = list(csv.DictReader(file))
    assert [int(row["start_frame"]) for row in chunks[:4]] == [0, 17, 34, 51]
    assert [row["seam_ratio"] for row in chunks[:1]] == [""]
    assert float(chunks[1]["seam_ratio"]) == data["videos"][0]["seams"][0]["ratio"]

    page = Page((videos / "report" / "index.html").read_text())
    assert "script" not in page.tags
    assert all(source.startswith("data:image/") for source in page.sources)
    assert len(page.sources) > 4
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    html = (videos / "report" / "index.html").read_text()
    assert not re.search(r"https?://|@import|url\((?!data:)", html)
    assert "&lt;script&gt;x&lt;/script&gt;" in html
    assert "not measured: Latent mean drift, Latent spread drift: give the latents" in capsys.readouterr().out


def test_the_page_shows_the_boundaries_the_worst_seams_and_what_is_missing(moving, tmp_path):
    frames = moving(68)
    frames[51:] = 255 - frames[51:]
    page = write_report({"v": [measure(frames, chunk_frames=17, fps=24, pictures=True)]}, tmp_path / "r").read_text()
    marks = re.findall(r'<path class="boundary" d="([^"]*)"', page)
    assert len(marks) > 5 and set(marks) == {"M250.0 0V100M500.0 0V100M750.0 0V100"}  # of 1000 for 68 frames
    worst = page[page.index("<h3>Worst seams</h3>") :]
    assert re.findall(r"<span>(frame \d+)</span>", worst)[:2] == ["frame 50", "frame 51"]
    missing = page[page.index("<h2>Not measured</h2>") :]
    elsewhere = [m.name for m in registry.SCALARS if m.needs in ("clip", "dino", "vbench", "fvd", "latents")]
    assert len(elsewhere) > 10 and all(name in missing for name in elsewhere)


def test_the_ends_in_the_curves_are_those_that_drift_compares(moving, tmp_path):
    for include, starts in ((False, {"M500.0", "M926.5"}), (True, {"M0.0", "M852.9"})):
        found = measure(moving(68), chunk_frames=17, clip_frames=34, include_clip=include, fps=24)
        page = write_report({"v": [found]}, tmp_path / str(include)).read_text()
        luma = page[page.index("<b>Luma") :]
        ends = luma[luma.index('class="ends"') :].partition("/>")[0]
        assert set(re.findall(r"M[\d.]+", ends)) == starts


def test_a_damaged_video_costs_only_its_own_numbers(videos, capsys):
    (videos / "a" / "clip1.mp4").write_bytes(b"no video " * 100)
    groups = ["--group", f"a={videos}/a/*.mp4", "--group", f"b={videos}/b/*.mp4"]
    assert main(["eval", *groups, "--out", str(videos / "report")]) == 1
    data = json.loads((videos / "report" / "report.json").read_text())
    assert [(v["method"], v["name"]) for v in data["videos"]] == [("a", "clip0"), ("b", "clip0"), ("b", "clip1")]
    (bad,) = data["failed"]
    assert bad == str(videos / "a" / "clip1.mp4")
    assert f"failed: {bad}: " in capsys.readouterr().out
    page = (videos / "report" / "index.html").read_text()
    Page(page)
    assert "<h2>Failed</h2>" in page and bad in page


def test_whatever_a_video_raises_costs_only_its_own_numbers(videos, monkeypatch, capsys):
    def read(path, *_):
        if path.stem == "clip0":
            raise ArithmeticError
        return real(path)

    real = measurement.read_frames
    monkeypatch.setattr(measurement, "read_frames", read)
    group = ["--group", f"a={videos}/a/*.mp4"]
    assert main(["eval", *group, "--out", str(videos / "report")]) == 1
    data = json.loads((videos / "report" / "report.json").read_text())
    assert [v["name"] for v in data["videos"]] == ["clip1"]
    assert data["failed"] == {str(videos / "a" / "clip0.mp4"): "ArithmeticError"}


def test_latents_and_records_that_are_not_finite_leave_a_report_of_the_rest(moving, tmp_path):
    video = write(tmp_path / "v.mp4", moving(40), {"guidance": float("nan"), "prompt": "a \ud800 b"})
    latents = torch.randn(1, 4, 20, 2, 3)
    latents[:, :, 15:] = torch.nan
    save_file({"latents": latents}, tmp_path / "l.safetensors")
    try:
        odd = video.rename(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
    except OSError:  # a file system that takes no such names
        odd = video
    assert main(["eval", str(odd), "--latents", str(tmp_path / "l.safetensors"), "--out", str(tmp_path / "r")]) == 0
    (found,) = json.loads((tmp_path / "r" / "report.json").read_text())["videos"]
    assert found["summary"]["latent_mean_drift"] is None and found["summary"]["luma.mean"] > 0
    assert found["record"]["guidance"] is None
    for file in ("index.html", "chunks.csv"):
        assert odd.stem.encode("utf-8", "backslashreplace").decode() in (tmp_path / "r" / file).read_text("utf-8")


def test_every_method_has_videos_on_the_page(moving, tmp_path):
    frames = moving(36)
    many = {m: [measure(frames, name=f"{m}{i}", pictures=i < 2) for i in range(3)] for m in ("a", "b")}
    page = write_report(many, tmp_path / "r", shown=4).read_text()
    assert re.findall(r'<section class="card c\d" id="video\d+"><h2><span class="swatch"></span>(\w+)</h2>', page) == [
        "a0", "b0", "a1", "b1",
    ]  # fmt: skip
    many["a"][0] = measure(frames, name="a0")  # without pictures: one that has them goes first
    page = write_report(many, tmp_path / "s", shown=4).read_text()
    assert re.findall(r'id="video\d+"><h2><span class="swatch"></span>(\w+)</h2>', page) == ["b0", "a1", "b1", "a0"]


def test_many_videos_of_two_methods_get_their_pictures_by_turns(moving, tmp_path):
    for method in "ab":
        (tmp_path / method).mkdir()
        for number in range(8):
            write(tmp_path / method / f"{number}.mp4", moving(20, seed=number))
    (tmp_path / "a" / "0.mp4").write_bytes(b"no video")
    groups = ["--group", f"a={tmp_path}/a/*.mp4", "--group", f"b={tmp_path}/b/*.mp4"]
    assert main(["eval", *groups, "--out", str(tmp_path / "r")]) == 1
    page = (tmp_path / "r" / "index.html").read_text()
    sections = re.findall(r'<section class="card (c\d)" id="video\d+">(.*?)</section>', page, re.DOTALL)
    assert [colour for colour, _ in sections].count("c0") == 6
    assert all('<ol class="sheet">' in section for _, section in sections)


def test_a_seam_without_any_step_and_a_method_without_new_frames_make_a_page_too(moving, still, tmp_path):
    twos = np.repeat(moving(16), 2, axis=0)  # frame 17 is frame 16 again
    short = measure(still(20), name="short", clip_frames=30)
    assert short.summary["scenes"] is None
    assert measure(twos).seams[0].ratio == 0
    Page(write_report({"v": [measure(twos, name="twos")], "w": [short]}, tmp_path / "r").read_text())


def test_if_no_video_can_be_read_there_is_no_report(tmp_path, capsys):
    (tmp_path / "v.mp4").write_bytes(b"no video")
    assert main(["eval", str(tmp_path / "v.mp4"), "--out", str(tmp_path / "r")]) == 2
    assert "no video could be measured" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_every_measure_has_its_words(moving, tmp_path):
    page = write_report({"v": [measure(moving(40))]}, tmp_path / "r").read_text()
    for measured in (*registry.SCALARS, *registry.SERIES, *registry.STATISTICS):
        assert all((measured.name, measured.unit, measured.definition, measured.source))
        assert measured.name in page


def test_the_table_in_docs_is_that_of_the_registry():
    docs = Path(__file__).resolve().parent.parent.parent / "docs" / "measures.md"
    assert docs.read_text(encoding="utf-8") == as_markdown(), "run python scripts/measures.py"


def test_a_freeze_and_a_single_frame_make_a_page_too(still, tmp_path):
    found = [measure(still(40), name="freeze", pictures=True), measure(still(1), name="frame", pictures=True)]
    Page(write_report({"v": found}, tmp_path / "r").read_text())
    assert "NaN" not in (tmp_path / "r" / "report.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "r"], "nothing to measure"),
        (["--out", "r", "--group", "x"], "NAME=GLOB"),
        (["--out", "r", "--group", "x=no/*.mp4"], "no file matches"),
        (["missing.mp4", "--out", "r"], "no such file"),
        (["v.mp4", "--out", "r", "--latents", "a", "--latents", "b"], "once for every VIDEO"),
        (["v.mp4", "--out", "v.mp4"], "is a file"),
        (["v.mp4", "--out", "no/where"], "does not exist"),
        (["v.mp4", "--out", "r", "--chunk-frames", "0"], "at least 2 frames"),
        (["v.mp4", "--out", "r", "--prompt", "a lake"], "give --clip DIR"),
        (["v.mp4", "--out", "r", "--device", "cuda"], "for networks, and there is none"),
        (["v.mp4", "--out", "r", "--chunk-frames", "1"], "at least 2 frames"),
        (["v.mp4", "--out", "r", "--clip-frames", "-1"], "0 or more"),
    ],
)
def test_what_cannot_be_reported_is_refused_and_nothing_is_written(
    moving, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "v.mp4", moving(4))
    assert main(["eval", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


def test_a_folder_that_takes_no_files_is_refused_before_measuring(moving, tmp_path, capsys, monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    video = write(tmp_path / "v.mp4", moving(4))
    assert main(["eval", str(video), "--out", str(tmp_path / "r")]) == 2
    told = capsys.readouterr()
    assert "cannot be written into" in told.err and "No space left" in told.err and told.out == ""


def test_a_report_is_replaced_only_if_asked(moving, tmp_path, capsys):
    video = write(tmp_path / "v.mp4", np.ascontiguousarray(moving(20)))
    arguments = ["eval", str(video), "--out", str(tmp_path / "r")]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
