"""What pavdm-tiny can do, on scenes that training never saw: python benchmarks/small_model.py --out DIR.

Takes some half an hour on 2 cores and prints a Markdown table, with the figures of docs/pavdm-tiny.md: what its VAE
keeps, how a clip goes on for 20 seconds, whether the colour in a prompt is the colour in the picture, whether a prompt
that changes half-way shows, and how long ten seconds take. The baseline and the ablations are paper_table.py's.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from pavdm import small_model
from pavdm.chunks import Monitor
from pavdm.engine import make_video, texts_of
from pavdm.errors import InputError
from pavdm.evaluation import measure
from pavdm.evaluation.drift import end_length
from pavdm.evaluation.reconstruction import reconstruction_psnr
from pavdm.networks import Networks
from pavdm.settings import Precision, Settings
from pavdm.training.world import HELD_OUT, Scene, draw, make_scene
from pavdm.training.world_measure import COLOURS, MIN_SHARE, colour_areas, colours_right
from pavdm.video_reader import read_frames
from pavdm.video_writer import VideoWriter

CLIP_FRAMES = 68
TEXT_SECONDS, SWITCH_SECONDS, LONG_SECONDS = 3.0, 8.0, 20.0
LAST_SECONDS = 1.0  # what the end of a video shows
MOTION_KEPT = 0.6  # at least, of what a video began with


def held_out_scenes(count: int, single: bool) -> list[Scene]:
    """The first held-out scenes with one shape, or with two or three."""
    seeds = iter(range(HELD_OUT, HELD_OUT + 10**6))
    height, width = small_model.SIZE
    scenes = (make_scene(seed, width / height) for seed in seeds)
    return list(islice((scene for scene in scenes if (len(scene.bodies) == 1) == single), count))


def recoloured(scene: Scene) -> tuple[str, str, str]:
    """The scene's caption with another colour word, that of no shape; the colour that it names, and the scene's own."""
    own = scene.bodies[0].colour
    taken = {body.colour for body in scene.bodies}
    turned = (COLOURS[(COLOURS.index(own) + step) % len(COLOURS)] for step in range(len(COLOURS) // 2, len(COLOURS)))
    other = next(colour for colour in turned if colour not in taken)
    return scene.caption.replace(f" {own} ", f" {other} ", 1), other, own


def write_clip(path: Path, scene: Scene, num_frames: int) -> None:
    with VideoWriter(path, small_model.SIZE, small_model.FPS, crf=8, overwrite=True) as writer:
        writer.write(draw(scene, num_frames, small_model.SIZE, small_model.FPS))


def colours_at_the_end(path: Path) -> list[str]:
    """The colours of the palette that are to be seen in the last second, that which covers most first."""
    areas = colour_areas(np.stack(list(read_frames(path))[-round(LAST_SECONDS * small_model.FPS) :])).mean(axis=0)
    return [COLOURS[index] for index in areas.argsort()[::-1] if areas[index] >= MIN_SHARE]


def vae_quality(networks: Networks, count: int) -> tuple[float, float]:
    """(mean, least) PSNR in dB of `count` held-out clips."""
    height, width = small_model.SIZE
    scenes = (make_scene(HELD_OUT + number, width / height) for number in range(count))
    found = [
        reconstruction_psnr(networks.vae, draw(scene, CLIP_FRAMES, small_model.SIZE, small_model.FPS))
        for scene in scenes
    ]
    return float(np.mean(found)), min(found)


@dataclass(frozen=True)
class TextJob:
    """A video from text alone, the colour that its prompt asks for, and that of the scene which it replaced."""

    settings: Settings
    colour: str
    replaced: str | None = None


def colours_seen(jobs: list[TextJob], networks: Networks, say: Callable[[str], None]) -> list[list[str]]:
    """The colours at the end of every video."""
    found = []
    for number, job in enumerate(jobs, 1):
        if not job.settings.out.exists():
            make_video(job.settings, networks, Monitor())
        found.append(colours_at_the_end(job.settings.out))
        told = f"{job.colour} asked for{f' in place of {job.replaced}' if job.replaced else ''}"
        say(f"[{number}/{len(jobs)}] {job.settings.out.name}: {told}, {', '.join(found[-1]) or 'none'} seen")
    return found


def share_led(jobs: list[TextJob], seen: list[list[str]]) -> str:
    """Share of the videos in which the colour asked for covers more than any other."""
    return f"{np.mean([colours[:1] == [job.colour] for job, colours in zip(jobs, seen, strict=True)]):.0%}"


def share_among(jobs: list[TextJob], seen: list[list[str]]) -> str:
    """Share of the videos that show the colour asked for at all, and of those that show the replaced one."""
    pairs = list(zip(jobs, seen, strict=True))
    shown = np.mean([job.colour in colours for job, colours in pairs])
    left = np.mean([job.replaced in colours for job, colours in pairs])
    return f"{shown:.0%} ({left:.0%})"


def going_on(folder: Path, count: int, networks: Networks, say: Callable[[str], None]) -> list[tuple[str, str]]:
    """Rows of the table: colours, motion and seams of clips that go on for LONG_SECONDS, with any number of shapes.

    Colours are those of the last 15 % of the new video: a frame is right if it shows exactly the scene's. A video that
    begins without motion keeps none, and is left out of the median.
    """
    height, width = small_model.SIZE
    scenes = [make_scene(HELD_OUT + number, width / height) for number in range(count)]
    right, kept, seams = [], [], []
    for number, scene in enumerate(scenes):
        clip, out = folder / f"clip_{number:03d}.mp4", folder / f"long_{number:03d}.mp4"
        if not out.exists():
            write_clip(clip, scene, CLIP_FRAMES)
            settings = small_model.settings(scene.caption, out, clip=clip, seconds=LONG_SECONDS, seed=number)
            make_video(settings, networks, Monitor())
        last = end_length(round(LONG_SECONDS * small_model.FPS))
        right.append(colours_right(np.stack(list(read_frames(out))[-last:]), scene))
        found = measure(out).summary
        motion = "none to keep"
        if found["motion_kept"] is not None:
            kept.append(found["motion_kept"])
            motion = f"{kept[-1]:.0%}"
        seams.append(found["seam_ratio"])
        say(f"[{number + 1}/{count}] {out.name}: colours {right[-1]:.0%}, motion {motion}, seam {seams[-1]:.2f}")
    enough = sum(share >= MOTION_KEPT for share in kept)
    median = f"{np.median(kept):.0%}" if kept else "-"
    whole = sum(share == 1 for share in right)
    return [
        ("20 s made after a clip, frames of the last 3 s with exactly its colours", f"{np.mean(right):.0%}"),
        ("the same, videos in which all of them are right", f"{whole} of {count}"),
        ("the same by number of shapes", by_group(right, [len(scene.bodies) for scene in scenes])),
        ("the same by light", by_group(right, [scene.light for scene in scenes])),
        ("20 s made after a clip, motion of the last 5 s over the first 5, median", median),
        (f"the same, videos that keep at least {MOTION_KEPT:.0%}", f"{enough} of {count}"),
        ("20 s made after a clip, seam ratio, mean and worst video", f"{np.mean(seams):.2f} ({max(seams):.2f})"),
    ]


def by_group(shares: Sequence[float], groups: Sequence[int | str]) -> str:
    """The mean share of every group, and how many videos it has."""
    found = []
    for group in sorted(set(groups), key=str):
        own = [share for share, one in zip(shares, groups, strict=True) if one == group]
        found.append(f"{group}: {np.mean(own):.0%} ({len(own)})")
    return ", ".join(found)


def ten_seconds(folder: Path) -> float:
    """Wall-clock seconds of `pavdm extend` for ten new seconds after a clip of 64 frames, its start included."""
    clip, out = folder / "clip.mp4", folder / "ten_seconds.mp4"
    (scene,) = held_out_scenes(1, single=True)
    write_clip(clip, scene, 64)
    command = [sys.executable, "-m", "pavdm", "extend", str(clip), "--prompt", scene.caption, "--seconds", "10"]
    started = time.monotonic()
    subprocess.run(
        [*command, "--out", str(out), "--overwrite", "--quiet", *small_model.options()],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the videos; found ones are kept")
    parser.add_argument("--scenes", type=int, default=32, metavar="N", help="default 32")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    networks = Networks(small_model.files(), Precision(torch.device("cpu"), torch.float32))
    own, other, switched, several = [], [], [], []

    def video(prompt: str, kind: str, number: int, seconds: float) -> Settings:
        out = options.out / f"{kind}_{number:03d}.mp4"
        return small_model.settings(prompt, out, seconds=seconds, seed=number)

    for number, scene in enumerate(held_out_scenes(options.scenes, single=True)):
        caption, colour, before = recoloured(scene)
        own.append(TextJob(video(scene.caption, "own", number, TEXT_SECONDS), before))
        other.append(TextJob(video(caption, "other", number, TEXT_SECONDS), colour))
        both = f"|0s| {scene.caption} |{SWITCH_SECONDS / 2:g}s| {caption}"
        switched.append(TextJob(video(both, "switched", number, SWITCH_SECONDS), colour))
    for number, scene in enumerate(held_out_scenes(options.scenes, single=False)):
        caption, colour, before = recoloured(scene)
        several.append(TextJob(video(caption, "several", number, TEXT_SECONDS), colour, before))
    networks.encode(text for job in own + other + switched + several for text in texts_of(job.settings))

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        mean, least = vae_quality(networks, options.scenes)
        rows = [
            ("VAE, PSNR of held-out clips", f"{mean:.1f} dB (worst {least:.1f})"),
            *going_on(options.out, options.scenes, networks, say),
            (
                "text alone, one shape: the colour of the caption is seen",
                share_led(own, colours_seen(own, networks, say)),
            ),
            (
                "text alone, one shape: another colour word in it is seen",
                share_led(other, colours_seen(other, networks, say)),
            ),
            (
                "the same, switched half-way: the new colour is seen at the end",
                share_led(switched, colours_seen(switched, networks, say)),
            ),
            (
                "text alone, two or three shapes: another colour word is seen (the colour it replaced)",
                share_among(several, colours_seen(several, networks, say)),
            ),
            ("10 s made after a clip of 64 frames, start and loading included", f"{ten_seconds(options.out):.0f} s"),
        ]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"| {options.scenes} held-out scenes | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
