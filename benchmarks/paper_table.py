"""PA-VDM against the replacement loop and against its own ablations, at equal network evaluations: one table.

    python benchmarks/paper_table.py --out DIR --results docs/results.md

makes the videos of 40 clips of the procedural world that no training has seen, with every method and the small model
that ships, 60 s each, measures them and writes the table: some 4 hours for two processes on 2 cores. Other networks get
clips in the published list's format:

    torchrun --nproc-per-node 8 benchmarks/paper_table.py --models DIR --list all_prompts.txt --clips DIR --out DIR ...

Stopped (Ctrl-C, SIGTERM) or killed, the same command goes on: finished videos and measurements are kept, and begun ones
go on from their last chunk. Any number of processes may share the folder (`pavdm.batch`); each prints the table at the
end, and it is the same. `--pairs 4 --seconds 10` makes a part of it, and the table says so; more pairs of the same
length can follow later.

Methods and costs: `paper_methods`.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path

import torch
from paper_methods import OURS, arms, evaluations
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
from pavdm.clip import PIECE_FRAMES
from pavdm.engine import Outcome, texts_of
from pavdm.errors import OUT_OF_MEMORY, InputError, is_out_of_memory
from pavdm.evaluation import measure
from pavdm.evaluation.comparison import Estimate, mean_interval
from pavdm.files import replacing, temporary_beside
from pavdm.networks import Networks
from pavdm.options import add_clip_options, add_making_options, models_from, precision_from
from pavdm.sampling.progressive import Interrupted
from pavdm.settings import Settings
from pavdm.stopping import asked_to_stop
from pavdm.video_reader import read_frames

TRUTH = "the world itself"
PAIRS, SECONDS = 40, 60.0  # of the whole table
FEWEST_PAIRS = 8  # a bootstrap of fewer says nothing

# (key of the summary, heading, digits); `registry.find` has the definitions.
COLUMNS = (
    ("scenes", "Scenes v", 2),
    ("moving", "Dynamic ^", 2),
    ("motion_kept", "Motion kept ~1", 2),
    ("warp_error.mean", "Warp error v", 2),
    ("seam_ratio", "Seam ratio ~1", 2),
    ("luma.drift", "Luma drift v", 1),
    ("saturation.drift", "Saturation drift v", 3),
    ("sharpness.weighted_error", "Sharpness error v", 1),
    ("repetition", "Repetition v", 3),
    ("colours_right", "Colours right ^", 2),
)
# Columns of the paper's table 1 that need networks or data from elsewhere.
NOT_HERE = "subject and background consistency, motion smoothness, aesthetic and imaging quality (VBench), FVD"


@dataclass(frozen=True)
class Bench:
    """The folder of a table, and which videos belong to it."""

    folder: Path
    jobs: dict[str, list[Job]]  # by method, in the order of the pairs
    of_world: bool

    @property
    def all_jobs(self) -> list[Job]:
        return list(chain.from_iterable(zip(*self.jobs.values(), strict=True)))  # pair by pair

    @property
    def complete(self) -> list[int]:
        """The pairs, counted from 0, that every method has finished."""
        pairs = enumerate(zip(*self.jobs.values(), strict=True))
        return [number for number, jobs in pairs if all(job.work.finished() is not None for job in jobs)]

    def measure_video(self, job: Job, path: Path) -> dict[str, float | None]:
        """Measure a video and keep the measurements beside its record, in the place of those of an earlier making."""
        summary = _with_moving(measure(path).summary)
        if self.of_world:
            summary["colours_right"] = colours_right(read_frames(path), job.item.line - 1, job.item.settings)
        write_json(_measures_file(job), summary)
        return summary

    def of_video(self, job: Job) -> dict[str, float | None]:
        """The measurements of a finished video, taken now if there are none."""
        kept = read_json(_measures_file(job))
        return self.measure_video(job, job.work.video) if kept is None else kept

    def of_truth(self, job: Job) -> dict[str, float | None]:
        """The same of the scene itself, which does not depend on any network."""
        settings, number = job.item.settings, job.item.line - 1
        height, width = settings.size
        name = f"world_{number:04d}_{height}x{width}_{settings.seconds:g}s_{settings.fps:g}fps"
        path = self.folder / "measures" / f"{name}.json"
        if (kept := read_json(path)) is not None:
            return kept
        path.parent.mkdir(parents=True, exist_ok=True)
        video = temporary_beside(path).with_suffix(".mp4")
        try:  # in the same codec as the methods' videos, which costs sharpness and noise
            write_pieces(video, world_frames(number, settings), settings)
            summary = _with_moving(measure(video, chunk_frames=PIECE_FRAMES, clip_frames=CLIP_FRAMES).summary)
            summary["colours_right"] = colours_right(read_frames(video), number, settings)
        finally:
            video.unlink(missing_ok=True)
        write_json(path, summary)
        return summary


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


def table(bench: Bench, costs: dict[str, tuple[int, int]]) -> list[str]:
    """The Markdown table of all pairs that every method has finished. Raises InputError if there are none."""
    complete = bench.complete
    if not complete:
        raise InputError("no pair is finished with every method: run the same command again")
    rows = {name: [bench.of_video(jobs[number]) for number in complete] for name, jobs in bench.jobs.items()}
    if bench.of_world:
        rows[TRUTH] = [bench.of_truth(bench.jobs[OURS][number]) for number in complete]
    columns = [column for column in COLUMNS if any(row.get(column[0]) is not None for row in chain(*rows.values()))]
    lines = [
        f"{_extent(len(complete), bench)}; means with 95 % bootstrap intervals. * (from {FEWEST_PAIRS} pairs on) "
        f"differs from {OURS} on the same pairs: the interval of the paired difference leaves out 0. Of a table "
        "of such comparisons one in twenty would do so by chance.",
        "",
        "| | Steps | Calls | Latents | " + " | ".join(heading for _, heading, _ in columns) + " |",
        "|---|---|---|---|" + "---|" * len(columns),
    ]
    for name, own in rows.items():
        spent = ["", "", ""]
        if name in costs:
            steps = bench.jobs[name][0].item.settings.schedule.steps
            spent = [str(steps), *(f"{number:,}" for number in costs[name])]
        cells = [_cell(own, rows[OURS], key, digits) for key, _, digits in columns]
        lines.append(f"| {name} | " + " | ".join([*spent, *cells]) + " |")
    return lines


def _extent(complete: int, bench: Bench) -> str:
    """How many pairs of how many seconds, and of what that is a part."""
    seconds = bench.jobs[OURS][0].item.settings.seconds or 0
    text = f"{complete} pair{'s' if complete > 1 else ''} of {seconds:g} s"
    if complete < PAIRS or seconds < SECONDS:
        text += f" (a part: the whole table is {PAIRS} pairs of {SECONDS:g} s)"
    return text


def _cell(
    own: Sequence[dict[str, float | None]], ours: Sequence[dict[str, float | None]], key: str, digits: int
) -> str:
    found = mean_interval([value for row in own if (value := row.get(key)) is not None])
    if not found.count:
        return "-"
    pairs = [(a.get(key), b.get(key)) for a, b in zip(own, ours, strict=True)]
    difference = mean_interval([a - b for a, b in pairs if a is not None and b is not None])
    sure = difference.count >= FEWEST_PAIRS and difference.leaves_out_zero
    return _text(found, digits) + ("*" if sure else "")


def _text(estimate: Estimate, digits: int) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.{digits}f}"
    return f"{estimate.mean:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def report(lines: Sequence[str], networks: Networks, settings: Settings, label: str) -> str:
    """The section of docs/results.md: how it was made, and the table."""
    config, count = networks.stdit.config, sum(p.numel() for p in networks.stdit.parameters())
    device = networks.precision.device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    height, width = settings.size
    return "\n".join(
        [
            f"## {label}",
            "",
            f"{datetime.now(timezone.utc):%Y-%m-%d}, commit {_commit()}, {machine}, torch {torch.__version__}, "
            f"{networks.precision.dtype}. `python {' '.join(['benchmarks/paper_table.py', *_command()])}`",
            "",
            f"STDiT3 of {count / 1e6:.1f} M parameters (hidden size {config.hidden_size}, depth {config.depth}; "
            f"fingerprint {networks.fingerprints['model']}), {height}x{width} at {settings.fps:g} fps, "
            f"{settings.seconds:g} s of new video, guidance {settings.guidance_scale:g}, seed {settings.seed}. "
            "Calls and latents: what one video takes of the network (each for both halves of the guidance pair).",
            "",
            *lines,
            "",
            "Definitions: `pavdm/evaluation/registry.py`. Dynamic is the share of chunks that are not static; the "
            "loop's chunks have 34 frames, the others' 17. Colours right is the share of the last 15 % of frames "
            "whose shapes have just the scene's colours; the world itself shows what can be had. "
            "Columns of the paper's Table 1 that need networks from elsewhere and are not here: "
            f"{NOT_HERE}.",
        ]
    )


def write_section(path: Path, label: str, text: str) -> None:
    """Put a section of this name into a Markdown file, in the place of an earlier one."""
    begin, end = f"<!-- paper_table: {label} -->", "<!-- end of paper_table -->"
    whole = path.read_text(encoding="utf-8") if path.exists() else "# Results\n"
    section = f"{begin}\n{text}\n{end}"
    before, found, after = whole.partition(begin)
    if found:
        whole = before + section + after.partition(end)[2]
    else:
        whole = f"{whole.rstrip()}\n\n{section}\n"
    with replacing(path) as temporary:
        temporary.write_text(whole, encoding="utf-8")


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
    parser.add_argument("--label", default="The small trained model", help="heading of the table")
    add_making_options(parser, length_required=False)
    add_clip_options(parser)
    parser.set_defaults(start_index=0, num_sample=1, sample_name="pair", models=None)
    if parser.parse_args(arguments).models is None:
        parser.set_defaults(**small_model.defaults())
    options = parser.parse_args(arguments)
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
        options.size = options.size or "64x96"
        options.list = write_world(options.out, options.pairs, parse_size(options.size), options.fps)
    items = read_items(options, check_texts)
    of_networks = made_by(networks)
    jobs: dict[str, list[Job]] = {}
    for item in items:
        for name, settings in arms(item.settings).items():
            own = Item(f"{name.replace(',', '').replace(' ', '-')}_{item.line - 1:04d}", item.line, 0, settings)
            made_from = {**described(settings), **of_networks}
            jobs.setdefault(name, []).append(Job(own, Work(options.out, own.name), made_from))
    bench = Bench(options.out, jobs, of_world)
    for job in bench.all_jobs:
        job.work.check(job.made_from)
    return bench


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 all videos are made, 1 some failed, 2 bad input, 130 interrupted."""
    try:
        options = _options(arguments)
        options.out.mkdir(parents=True, exist_ok=True)
        networks = Networks(models_from(options), precision_from(options))
        bench = _bench(options, networks)
        launch = Launch.from_environment()
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
    costs = {name: evaluations(jobs[0].item.settings, CLIP_FRAMES) for name, jobs in bench.jobs.items()}
    text = report(table(bench, costs), networks, bench.jobs[OURS][0].item.settings, options.label)
    print(text)
    if options.results is not None:
        write_section(options.results, options.label, text)
    failed = [job for job in bench.all_jobs if job.work.finished() is None]
    for job in failed:
        print(f"not made: {job.item.name}, see {job.work.log}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
