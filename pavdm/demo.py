"""`pavdm demo`: the small model that ships goes on from a clip that is drawn here. Needs no file and no download."""

from __future__ import annotations

import argparse
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pavdm.errors import InputError

if TYPE_CHECKING:
    from pavdm.chunks import Monitor
    from pavdm.evaluation.measurement import Measurements
    from pavdm.evaluation.page import Fact
    from pavdm.settings import Precision
    from pavdm.training.world import Scene

CLIP_FRAMES = 64
CLIP, VIDEO, SHEET, REPORT = "clip.mp4", "video.mp4", "contact_sheet.png", "report"
SHEET_COLUMNS, SHEET_ROWS, SHEET_WIDTH = 6, 4, 192


@dataclass(frozen=True)
class Demo:
    """What was made. page: the report."""

    clip: Path
    video: Path
    sheet: Path
    page: Path
    caption: str
    facts: tuple[Fact, ...]

    def lines(self) -> list[str]:
        """For a person: what it showed, the figures, where everything is, and how to go on."""
        from pavdm import small_model

        width = max(len(fact.name) for fact in self.facts)
        more = ["pavdm", "extend", str(self.clip), "--prompt", self.caption, "--seconds", "60", "--out", "long.mp4"]
        return [
            self.caption,
            *(f"  {fact.name:{width}}  {fact.value:>7}  {fact.meaning}" for fact in self.facts),
            f"clip           {self.clip}",
            f"video          {self.video}",
            f"contact sheet  {self.sheet}",
            f"report         {self.page}",
            f"a minute of it: {shlex.join([*more, *small_model.options()])}",
        ]


def add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "demo",
        help="see it work: extends a clip with the small model that ships, and measures what came out",
        description="Draw a clip of moving shapes, go on from it with the small trained model that comes with pavdm, "
        "and measure the result. Writes the clip, the video, a contact sheet and a report. Nothing is downloaded.",
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="where to (default ./demo)")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="of new video (default 20)")
    parser.add_argument(
        "--seed", type=int, default=12, metavar="N", help="which clip, of those that training never saw (default 12)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier demo wrote there")
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, mps, cpu (default: the best there is)")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the result and errors")
    parser.set_defaults(command="demo", dtype="fp32", text_dtype="fp32", tile=None)


def run_demo(
    folder: Path, seconds: float, seed: int, precision: Precision, monitor: Monitor, overwrite: bool = False
) -> Demo:
    """Draw, extend, measure. seconds: of new video. seed: 0 and up, of the held-out scenes.

    Raises InputError for what cannot be made or written, before anything is; Interrupted as `make_video`.
    """
    from pavdm import small_model
    from pavdm.engine import make_video
    from pavdm.evaluation import measure, write_report
    from pavdm.evaluation.reconstruction import reconstruction_psnr
    from pavdm.networks import Networks
    from pavdm.training.world import HELD_OUT, draw, make_scene
    from pavdm.video_writer import VideoWriter

    if seed < 0:
        raise InputError(f"--seed chooses a clip, from 0 on: got {seed}")
    check_out(folder, overwrite)
    height, width = small_model.SIZE
    scene = make_scene(HELD_OUT + seed, width / height)
    clip, video, sheet = folder / CLIP, folder / VIDEO, folder / SHEET
    settings = small_model.settings(scene.caption, video, clip=clip, seconds=seconds, overwrite=overwrite)

    folder.mkdir(parents=True, exist_ok=True)
    frames = draw(scene, CLIP_FRAMES, small_model.SIZE, small_model.FPS)
    with VideoWriter(clip, small_model.SIZE, small_model.FPS, crf=8, overwrite=overwrite) as writer:
        writer.write(frames)
    started = time.monotonic()
    networks = Networks(small_model.files(), precision)
    outcome = make_video(settings, networks, monitor)
    taken = time.monotonic() - started

    monitor.stage("measuring")
    found = measure(video, pictures=True)
    facts = facts_of(found, video, scene, outcome.new_frames, reconstruction_psnr(networks.vae, frames), taken)
    page = write_report({"PA-VDM": [found]}, folder / REPORT, facts=facts, overwrite=overwrite)
    write_sheet(found, sheet)
    return Demo(clip, video, sheet, page, scene.caption, facts)


def check_out(folder: Path, overwrite: bool) -> None:
    """Raise InputError if the demo cannot write there."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give another folder with --out")
    there = [name for name in (CLIP, VIDEO, SHEET, REPORT) if (folder / name).exists()]
    if there and not overwrite:
        raise InputError(f"{folder} holds {', '.join(there)} already: give another --out, or --overwrite")


def facts_of(
    found: Measurements, video: Path, scene: Scene, new_frames: int, psnr: float, taken: float
) -> tuple[Fact, ...]:
    """The figures that pavdm-tiny is judged by (docs/pavdm-tiny.md), of this one video. taken: seconds to make it."""
    from itertools import islice

    import numpy as np

    from pavdm.evaluation.drift import end_length
    from pavdm.evaluation.page import Fact
    from pavdm.training.world_measure import colours_right
    from pavdm.video_reader import read_frames

    last = max(1, end_length(new_frames))  # what is left of colours and count at the end
    end = np.stack(list(islice(read_frames(video), found.num_frames - last, None)))
    facts = [
        Fact(
            "colours and count right",
            f"{colours_right(end, scene):.0%}",
            f"of the last {last / found.fps:.3g} s show exactly the clip's colours, none lost and none new; a shape "
            "hidden behind another counts as lost",
        )
    ]
    if (kept := found.summary["motion_kept"]) is not None:
        long = new_frames >= 10 * found.fps
        which = "the last 5 new seconds over the first 5" if long else "the second half of what is new over the first"
        facts.append(Fact("motion kept", f"{kept:.0%}", f"optical flow of {which}"))
    if (seam := found.summary["seam_ratio"]) is not None:
        facts.append(Fact("seam ratio", f"{seam:.2f}", "change across a chunk's boundary over that inside; 1: no seam"))
    facts.append(Fact("VAE", f"{psnr:.1f} dB", "PSNR of the clip, encoded and decoded"))
    facts.append(Fact("time", f"{taken:.0f} s", "to load the networks and to make the video"))
    return tuple(facts)


def write_sheet(found: Measurements, path: Path) -> None:
    """Frames from the first to the last as one PNG, row by row, each with its time in seconds."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from pavdm.files import replacing

    wanted = min(SHEET_COLUMNS * SHEET_ROWS, len(found.sheet))
    chosen = [found.sheet[round(index)] for index in np.linspace(0, len(found.sheet) - 1, wanted)]
    height = round(SHEET_WIDTH * found.size[0] / found.size[1])
    rows = -(-wanted // SHEET_COLUMNS)
    picture = Image.new("RGB", (SHEET_COLUMNS * SHEET_WIDTH, rows * height))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for index, (number, frame) in enumerate(chosen):
        row, column = divmod(index, SHEET_COLUMNS)
        place = column * SHEET_WIDTH, row * height
        picture.paste(Image.fromarray(frame).resize((SHEET_WIDTH, height), Image.Resampling.BICUBIC), place)
        text = f"{number / found.fps:.1f} s{', clip' if number < found.layout.clip_frames else ''}"
        pen.text((place[0] + 5, place[1] + 4), text, fill="white", font=font, stroke_width=1, stroke_fill="black")
    with replacing(path) as temporary:
        picture.save(temporary, "PNG")
