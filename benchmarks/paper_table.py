"""PA-VDM against the replacement loop and against its own ablations, at equal network evaluations: one table.

    python benchmarks/paper_table.py --out DIR --results docs/results.md

makes the videos of 40 clips of the procedural world that no training has seen, with every method and the small model
that ships, 60 s each, measures them and writes the table: 2 to 4 hours for two processes on 2 cores. Other networks get
clips in the published list's format, each long enough to fill the window (`pavdm cut --frames 102` for 6 noisy chunks):

    torchrun --nproc-per-node 8 benchmarks/paper_table.py --models DIR --list prompts.txt --clips DIR --label NAME ...

Stopped (Ctrl-C, SIGTERM) or killed, the same command goes on: finished videos and measurements are kept, and begun ones
go on from their last chunk. Any number of processes may share the folder (`pavdm.batch`); each prints the table at the
end, and it is the same. `--pairs 4 --seconds 10` makes a part of it, and the table says so; more pairs of the same
length can follow later.

The videos are DIR/METHOD/pair_0000.mp4 and so on, so what needs networks from elsewhere can be measured of the same
pairs afterwards:

    pavdm eval --vbench --group ours='DIR/PA-VDM/*.mp4' --group loop='DIR/replacement-loop/*.mp4' --out REPORT

Methods and costs: `paper_methods`.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import chain, islice
from pathlib import Path

import torch
from paper_methods import OURS, arms, evaluations, frames_needed
from paper_report import PAIRS, SECONDS, Measured, section, table, write_section
from paper_world import CLIP_FRAMES, colours_right, world_frames, write_pieces, write_world

from pavdm import small_model
from pavdm.batch.claims import Work
from pavdm.batch.items import Item, described, read_items
from pavdm.batch.local import LocalMaker, check_texts, made_by
from pavdm.batch.member import Launch, Member, read_json, write_json
from pavdm.batch.show import Display
from pavdm.batch.work import Job, NobodyLeft, work_through
from pavdm.buckets import parse_size
from pavdm.chunks import Monitor
from pavdm.clip import PIECE_FRAMES, ClipSource
from pavdm.engine import Outcome, texts_of
from pavdm.errors import OUT_OF_MEMORY, InputError, is_out_of_memory
from pavdm.evaluation import measure
from pavdm.files import temporary_beside
from pavdm.networks import Networks
from pavdm.options import add_clip_options, add_making_options, models_from, precision_from
from pavdm.sampling.progressive import Interrupted
from pavdm.settings import Settings
from pavdm.stopping import asked_to_stop
from pavdm.video_reader import read_frames

TRUTH = "the world itself"
WORLD_SIZE = "64x96"
OWN_LABEL = "The small trained model"


@dataclass(frozen=True)
class Bench:
    """The folder of a table, and which videos belong to it."""

    folder: Path
    jobs: dict[str, list[Job]]  # by method, in the order of the pairs
    of_world: bool
    origin: dict[str, str]  # this code and machine, written down with what they measure

    @property
    def all_jobs(self) -> list[Job]:
        return list(chain.from_iterable(zip(*self.jobs.values(), strict=True)))  # pair by pair

    @property
    def complete(self) -> list[int]:
        """The pairs, counted from 0, that every method has finished."""
        pairs = enumerate(zip(*self.jobs.values(), strict=True))
        return [number for number, jobs in pairs if all(job.work.finished() is not None for job in jobs)]

    def measure_video(self, job: Job, path: Path) -> Measured:
        """Measure a video and keep the measurements beside its record, in the place of those of an earlier making."""
        summary = _with_moving(measure(path).summary)
        if self.of_world:
            summary["colours_right"] = colours_right(read_frames(path), job.item.line - 1, job.item.settings)
        return self._kept(_measures_file(job), Measured(summary, self.origin))

    def of_video(self, job: Job) -> Measured:
        """The measurements of a finished video, taken now if there are none."""
        kept = read_json(_measures_file(job))
        return self.measure_video(job, job.work.video) if kept is None else Measured(kept["summary"], kept["origin"])

    def of_truth(self, job: Job) -> Measured:
        """The same of the scene itself, which does not depend on any network."""
        settings, number = job.item.settings, job.item.line - 1
        clip = job.made_from["clip"]  # another world's scene has another one
        path = self.folder / "measures" / f"world_{number:04d}_{settings.seconds:g}s.json"
        if (kept := read_json(path)) is not None and kept["origin"]["clip"] == clip:
            return Measured(kept["summary"], kept["origin"])
        path.parent.mkdir(parents=True, exist_ok=True)
        video = temporary_beside(path).with_suffix(".mp4")
        try:  # in the same codec as the methods' videos, which costs sharpness and noise
            write_pieces(video, world_frames(number, settings), settings)
            summary = _with_moving(measure(video, chunk_frames=PIECE_FRAMES, clip_frames=CLIP_FRAMES).summary)
            summary["colours_right"] = colours_right(read_frames(video), number, settings)
        finally:
            video.unlink(missing_ok=True)
        return self._kept(path, Measured(summary, {**self.origin, "clip": clip}))

    def rows(self) -> dict[str, list[Measured]]:
        """What was measured of every pair that is complete, by method, and of the world itself."""
        complete = self.complete
        rows = {name: [self.of_video(jobs[number]) for number in complete] for name, jobs in self.jobs.items()}
        if self.of_world:
            rows[TRUTH] = [self.of_truth(self.jobs[OURS][number]) for number in complete]
        return rows

    @staticmethod
    def _kept(path: Path, measured: Measured) -> Measured:
        write_json(path, {"summary": measured.summary, "origin": measured.origin})
        return measured


def _measures_file(job: Job) -> Path:
    return job.work.folder / "measures.json"


def _with_moving(summary: dict[str, float | None]) -> dict[str, float | None]:
    static = summary["static_share"]
    return {**summary, "moving": None if static is None else 1 - static}


class MeasuringMaker(LocalMaker):
    """Measures each video in the process that made it."""

    def __init__(self, networks: Networks, texts: Sequence[str], task: str, bench: Bench) -> None:
        super().__init__(networks, texts, task)
        self._bench = bench
        self._jobs = {job.work.folder: job for job in bench.all_jobs}

    def make(self, settings: Settings, monitor: Monitor) -> Outcome:
        outcome = super().make(settings, monitor)
        monitor.stage("measuring")
        self._bench.measure_video(self._jobs[settings.out.parent], outcome.path)
        return outcome


def _origin(device: torch.device) -> dict[str, str]:
    """This code and this machine."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_processor()}, {os.cpu_count()} cores"
    today = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    return {"date": today, "commit": _commit(), "machine": machine, "torch": torch.__version__}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _commit() -> str:
    root = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def _command() -> list[str]:
    """What was typed, without the places of this machine."""
    places = ("--models", "--out", "--list", "--clips", "--results", "--stdit", "--vae", "--text-encoder")
    shown: list[str] = []
    for word in sys.argv[1:]:
        option, given, _ = word.partition("=")
        if shown and shown[-1] in places:
            word = "..."
        elif given and option in places:
            word = f"{option}=..."
        shown.append(word)
    return shown


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder for the videos")
    parser.add_argument(
        "--pairs", type=int, default=PAIRS, metavar="K", help=f"pairs of prompt and clip (default {PAIRS})"
    )
    parser.add_argument("--list", type=Path, help="prompt||clip in every line, instead of the procedural world")
    parser.add_argument("--clips", type=Path, metavar="DIR", help="where the clips of --list are")
    parser.add_argument("--results", type=Path, metavar="FILE", help="the Markdown file that gets the table, too")
    parser.add_argument("--label", metavar="NAME", help=f"heading of the table (default: {OWN_LABEL})")
    add_making_options(parser, length_required=False)
    add_clip_options(parser)
    parser.set_defaults(start_index=0, num_sample=1, sample_name="pair", models=None)
    given = parser.parse_args(arguments)
    others = any((given.models, given.stdit, given.vae, given.text_encoder, given.spatial_vae))
    if given.models is None:
        parser.set_defaults(**small_model.defaults())
    options = parser.parse_args(arguments)
    if others and not (given.list or given.size):
        raise InputError("networks of one's own need clips: give --list, or --size HxW for the procedural world")
    if others and given.results and not given.label:
        raise InputError("the table of networks of one's own needs a heading of its own: give --label NAME")
    options.label = options.label or OWN_LABEL
    bucket = [name for name in ("resolution", "aspect") if getattr(given, name) != parser.get_default(name)]
    if given.list is None and bucket:
        raise InputError(f"--{bucket[0]} is for --list; the procedural world has --size HxW (default {WORLD_SIZE})")
    if options.seconds is None and options.total_seconds is None:
        options.seconds = SECONDS
    if options.total_seconds is not None:
        raise InputError("the table compares equal lengths of new video: give --seconds")
    if options.pairs < 1:
        raise InputError(f"--pairs must be at least 1: got {options.pairs}")
    options.end_index = options.pairs
    return options


def _bench(options: argparse.Namespace, networks: Networks) -> Bench:
    of_world = options.list is None
    if of_world:
        options.size = options.size or WORLD_SIZE
        options.list = write_world(options.out, options.pairs, parse_size(options.size), options.fps)
    of_networks = made_by(networks)
    jobs: dict[str, list[Job]] = {}
    for item in read_items(options, check_texts):
        pair = item.line - 1
        of_pair = replace(item.settings, seed=item.settings.seed + pair)
        methods = arms(of_pair)
        _check_clip(of_pair, frames_needed(methods.values()))
        for name, settings in methods.items():
            folder = name.replace(",", "").replace(" ", "-")
            work = Work(options.out / folder, f"pair_{pair:04d}")
            own = Item(f"{folder}/{work.name}", item.line, 0, settings)
            jobs.setdefault(name, []).append(Job(own, work, {**described(settings), **of_networks}))
    bench = Bench(options.out, jobs, of_world, _origin(networks.precision.device))
    for job in bench.all_jobs:
        job.work.check(job.made_from)
    return bench


def _check_clip(settings: Settings, needed: int) -> None:
    """Raise InputError for a clip that does not fill the window of every method."""
    if settings.clip is None:
        raise InputError("the methods go on from clips: give every line of the list one, as TEXT||CLIP")
    source = ClipSource(settings.clip, settings.fps, settings.size, settings.clip_start, settings.clip_end)
    found = sum(1 for _ in islice(source.frames(), needed))
    if found < needed and not settings.pad:
        raise InputError(
            f"{settings.clip.name} has {found} frames at {settings.fps:g} fps, and the methods fill their window from "
            f"{needed}: `pavdm cut --frames {needed}` cuts such clips, a shorter window (--window-chunks) needs fewer"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 all videos are made, 1 some failed, 2 bad input, 130 interrupted."""
    try:
        options = _options(arguments)
        options.out.mkdir(parents=True, exist_ok=True)
        launch = Launch.from_environment()
        options.device = launch.device(options.device)
        networks = Networks(models_from(options), precision_from(options))
        bench = _bench(options, networks)
        try:
            with asked_to_stop() as should_stop:
                _work(bench, networks, launch, should_stop, hidden=options.quiet)
        except Interrupted:
            print(f"interrupted; {_what_is_there(bench)}the same command goes on from here", file=sys.stderr)
            return 130
        return _tell(bench, networks, options) if launch.rank == 0 else 0
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except NobodyLeft as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"error: {OUT_OF_MEMORY} ({str(error).splitlines()[0]})", file=sys.stderr)
        return 2


def _work(bench: Bench, networks: Networks, launch: Launch, should_stop: Callable[[], bool], hidden: bool) -> None:
    texts = list(chain.from_iterable(texts_of(job.item.settings) for job in bench.all_jobs))
    maker = MeasuringMaker(networks, texts, f"rank {launch.rank}", bench)
    with ExitStack() as stack:
        member = stack.enter_context(Member(bench.folder / "work" / "members", launch, {"rank": launch.rank}))
        stack.enter_context(Display(bench.all_jobs, member, hidden=hidden or launch.rank > 0))
        work_through(bench.all_jobs, maker, member, should_stop)


def _what_is_there(bench: Bench) -> str:
    """How a table of the pairs so far is made, if the first ones are complete."""
    first = next(n for n, number in enumerate([*bench.complete, -1]) if n != number)
    return f"--pairs {first} makes a table of what is complete, " if first else ""


def _tell(bench: Bench, networks: Networks, options: argparse.Namespace) -> int:
    """Print the table, and write it where it belongs; the exit status."""
    failed = [job for job in bench.all_jobs if job.work.finished() is None]
    for job in failed:
        print(f"not made: {job.item.name}, see {job.work.log}", file=sys.stderr)
    if not bench.complete:
        print("error: no pair is finished with every method, so there is no table", file=sys.stderr)
        return 1
    rows, settings = bench.rows(), {name: jobs[0].item.settings for name, jobs in bench.jobs.items()}
    costs = {name: evaluations(own, frames_needed(settings.values())) for name, own in settings.items()}
    steps = {name: own.schedule.steps for name, own in settings.items()}
    ours = settings[OURS]
    command = f"python {' '.join(['benchmarks/paper_table.py', *_command()])}"
    lines = table(rows, steps, costs, ours.seconds or 0)
    text = section(options.label, lines, rows, networks, ours, command)
    print(text)
    if options.results is not None:
        write_section(options.results, options.label, text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
