"""What can be typed after `pavdm`, and what it means for the library. Heavy imports wait until they are needed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pavdm import __version__
from pavdm.batch.options import add_batch, add_cut
from pavdm.comfyui import command as workflow_command
from pavdm.data_commands import add_preprocess, add_world
from pavdm.demo import add_demo
from pavdm.errors import InputError
from pavdm.evaluation.command import add_options as add_evaluation_options
from pavdm.training.options import add_train_command

if TYPE_CHECKING:
    from pavdm.models.files import ModelFiles
    from pavdm.sampling.schedule import Schedule
    from pavdm.settings import Precision, Settings

MODELS_VARIABLE = "PAVDM_MODELS"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pavdm",
        description="Minute-long video from a model trained on seconds: progressive autoregressive video diffusion "
        "(arXiv 2410.08151) on Open-Sora v1.2.",
    )
    parser.add_argument("--version", action="version", version=f"pavdm {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    add_demo(commands)
    extend = commands.add_parser(
        "extend",
        help="continue a clip",
        description="Continue a clip. The output begins with the clip's own frames. Defaults are the paper's.",
        epilog="Example: pavdm extend clip.mp4 --prompt 'waves crash against the cliffs' --seconds 60 --out long.mp4 "
        "--models models --state run1",
    )
    extend.add_argument("clip", type=Path, metavar="CLIP", help="any video that FFmpeg reads, at least 17 frames of it")
    _add_video_options(extend)
    add_clip_options(extend)
    extend.set_defaults(command="video")

    generate = commands.add_parser(
        "generate",
        help="make a video from text alone",
        description="Make a video from text alone: the window grows from pure noise.",
    )
    _add_video_options(generate)
    generate.set_defaults(command="video", clip=None)

    schedule = commands.add_parser(
        "schedule",
        help="print the noise schedule and plot it",
        description="Print the table of noise levels, one line per model call, and write a plot of it.",
    )
    _add_schedule_options(schedule)
    _add_size_options(schedule)
    schedule.add_argument("--chunks", type=int, default=12, metavar="N", help="chunks to make (default 12)")
    schedule.add_argument("--plot", type=Path, default=Path("schedule.png"), metavar="PNG", help="default schedule.png")
    schedule.set_defaults(command="schedule")

    info = commands.add_parser("info", help="say what a checkpoint, state or video file holds")
    info.add_argument("file", type=Path, metavar="FILE", help="a file, or a folder with a network")
    info.set_defaults(command="info")

    new_model = commands.add_parser(
        "new-model",
        help="make a full set of randomly initialised networks, for trying things out",
        description="Write a STDiT3, a VAE and a text encoder with random weights. They make no pictures, but run "
        "through every stage as trained ones do.",
    )
    new_model.add_argument("directory", type=Path, metavar="DIR", help="a folder to make")
    new_model.add_argument(
        "--size", choices=("tiny", "small", "xl"), default="tiny", help="xl has the published sizes (default tiny)"
    )
    new_model.add_argument("--seed", type=int, default=0)
    new_model.set_defaults(command="new_model")

    add_batch(commands, _add_batch_options, add_clip_options)
    add_cut(commands)

    evaluate = commands.add_parser(
        "eval",
        help="measure seams, drift and motion of videos, and write a report",
        description="Measure how well chunks join and what happens to light, colour, sharpness and motion over a "
        "video. Writes index.html, report.json, measures.csv and chunks.csv.",
        epilog="Example: pavdm eval --group pavdm='pa/*.mp4' --group loop='loop/*.mp4' --out report",
    )
    add_evaluation_options(evaluate)
    evaluate.set_defaults(command="eval")
    add_preprocess(commands, _add_model_options)
    add_world(commands)
    add_train_command(commands)

    doctor = commands.add_parser("doctor", help="say what is installed and which model files are found or missing")
    _add_model_options(doctor)
    doctor.set_defaults(command="doctor")

    workflow = commands.add_parser(
        "workflow",
        help="run a ComfyUI workflow without its page",
        description="Run a ComfyUI workflow without its page: upload what it reads, queue it, show its progress, "
        "download what it saves.",
        epilog="Example: pavdm workflow workflows/extend_a_clip.json --set 'Load Video.file=clip.mp4' --out long.mp4",
    )
    workflow_command.add_arguments(workflow)
    workflow.set_defaults(command="workflow")
    return parser


def add_clip_options(parser: argparse.ArgumentParser) -> None:
    """How the clip is read that a video goes on from."""
    clip = parser.add_argument_group("clip")
    clip.add_argument("--start", type=float, default=0.0, metavar="S", help="use the clip from here, in seconds")
    clip.add_argument("--end", type=float, metavar="S", help="and up to here (negative counts from the end)")
    clip.add_argument("--pad", action="store_true", help="repeat the first frame in front of a clip that is too short")
    clip.add_argument(
        "--condition",
        choices=("last", "first"),
        default="last",
        help="go on from the clip's end and keep its frames in front (last, default), or the published way: from its "
        "first 17 frames, decoded by the VAE, with nothing before them (first)",
    )
    clip.add_argument(
        "--posterior",
        choices=("sample", "mode"),
        default="sample",
        help="draw the clip's latents from the VAE's posterior (sample, published) or take the most likely ones (mode)",
    )


def _add_video_options(parser: argparse.ArgumentParser) -> None:
    """What and where to make it, and how (`add_making_options`)."""
    parser.add_argument(
        "--prompt",
        required=True,
        help="what the video shows. '|0| first |3| then' changes the text at new chunk 3, '|0s| first |12s| then' "
        "after 12 seconds of new video",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the video to write (.mp4)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    run = add_making_options(parser, length_required=True)
    run.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="save after every chunk (replacement: every loop); the same command goes on from there after a crash or "
        "Ctrl-C",
    )
    run.add_argument(
        "--override-state", action="store_true", help="go on from a state that was made with other settings"
    )
    _add_context_options(run)


def add_making_options(parser: argparse.ArgumentParser, length_required: bool) -> argparse._ArgumentGroup:
    """How to make a video, or many; the group of options about the run itself, for adding to it."""
    length = parser.add_mutually_exclusive_group(required=length_required)
    length.add_argument("--seconds", type=float, help="length of the new video")
    length.add_argument("--total-seconds", type=float, help="length of the whole output, clip included")
    parser.add_argument("--seed", type=int, default=42, help="default 42")
    _add_model_options(parser)

    video = parser.add_argument_group("video")
    _add_size_options(video)
    video.add_argument("--fps", type=float, default=24.0, help="frames per second (default 24)")

    sampling = parser.add_argument_group("sampling")
    sampling.add_argument(
        "--method",
        choices=("progressive", "replacement"),
        default="progressive",
        help="PA-VDM (progressive, default) or Open-Sora's naive loop, to compare with (replacement)",
    )
    sampling.add_argument("--guidance", type=float, default=7.0, help="classifier-free guidance scale (default 7)")
    _add_schedule_options(sampling)
    sampling.add_argument(
        "--prompt-switch",
        choices=("chunk", "window"),
        default="chunk",
        help="a new text holds for chunks that enter from then on (chunk, default) or for the whole window at once",
    )
    scores = parser.add_argument_group("scores, appended to the prompt as the model was trained")
    scores.add_argument("--aesthetic", type=_optional_number, default=6.5, help="1 to 10, or none (default 6.5)")
    scores.add_argument("--motion", type=_optional_number, help="0 is still (default none)")
    scores.add_argument("--camera", help="such as 'pan left' (default none)")

    loop = parser.add_argument_group("replacement loop only")
    loop.add_argument(
        "--reencode", action="store_true", help="decode and encode again what each loop takes over, as published"
    )
    loop.add_argument(
        "--condition-length", type=int, default=5, metavar="N", help="latents kept from loop to loop (default 5)"
    )
    loop.add_argument(
        "--edit-ratio",
        type=float,
        default=0.0,
        metavar="X",
        help="0 keeps them as they are (default), 1 makes them new",
    )
    loop.add_argument(
        "--mask-strategy",
        default="",
        metavar="RULES",
        help="Open-Sora's 'loop,reference,reference start,target start,length,edit ratio;...' in latents: where the "
        "clip (reference 0) goes. The output is then what the loops made, without the clip in front",
    )
    loop.add_argument(
        "--align",
        type=_optional_whole,
        default=5,
        metavar="N",
        help="round the starts in a mask strategy to multiples of N latents, or none (default 5)",
    )

    run = parser.add_argument_group("run")
    run.add_argument("--device", default="auto", help="cuda, cuda:1, mps, cpu (default: the best there is)")
    run.add_argument(
        "--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="default bf16 on CUDA, else fp32"
    )
    run.add_argument(
        "--text-dtype", choices=("fp32", "bf16"), default="fp32", help="of the text encoder (default fp32, published)"
    )
    run.add_argument(
        "--tile", type=int, metavar="N", help="let the VAE work in tiles of N x N latent pixels, to save memory"
    )
    run.add_argument("--quiet", action="store_true", help="no progress, only the result and errors")
    return run


def _add_context_options(run: argparse._ArgumentGroup) -> None:
    run.add_argument(
        "--context-parallel",
        type=int,
        default=1,
        metavar="N",
        help="one video over N processes, as a rule one for each GPU: torchrun --nproc-per-node N -m pavdm ...",
    )
    run.add_argument(
        "--lost-after",
        type=float,
        default=120.0,
        metavar="S",
        help="with --context-parallel: take a process that gives no sign of life for S seconds for lost (default 120)",
    )


def _add_batch_options(parser: argparse.ArgumentParser, length_required: bool) -> argparse._ArgumentGroup:
    run = add_making_options(parser, length_required)
    _add_context_options(run)
    return run


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    models = parser.add_argument_group("models")
    models.add_argument(
        "--models",
        type=Path,
        default=Path(os.environ.get(MODELS_VARIABLE, "models")),
        metavar="DIR",
        help=f"folder with the networks (default: ${MODELS_VARIABLE}, else ./models); `pavdm doctor` says "
        "what belongs in",
    )
    for part in ("stdit", "vae", "text-encoder", "spatial-vae"):
        models.add_argument(f"--{part}", type=Path, metavar="PATH", help=argparse.SUPPRESS)
    models.description = "--stdit, --vae, --text-encoder and --spatial-vae PATH point at single networks elsewhere"


def _add_size_options(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--resolution", default="240p", help="Open-Sora bucket, 144p to 1080p (default 240p)")
    parser.add_argument("--aspect", default="9:16", metavar="H:W", help="height to width; 9:16 is landscape (default)")
    parser.add_argument("--size", metavar="HxW", help="height x width in pixels, instead of a bucket")


def _add_schedule_options(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--steps", type=int, default=30, help="denoising steps of every frame (default 30)")
    parser.add_argument(
        "--window-chunks", type=int, default=6, metavar="N", help="noisy chunks in the window (default 6)"
    )
    parser.add_argument(
        "--chunk", type=int, default=5, metavar="N", help="latents that move together; 1 turns chunking off (default 5)"
    )
    parser.add_argument(
        "--no-overlap", action="store_true", help="ablation: no clean chunk in front of the window (keep_x0 off)"
    )
    parser.add_argument(
        "--no-variable-length",
        action="store_true",
        help="ablation: the window starts full of the re-noised clip (102 frames of it) and never shrinks",
    )
    parser.add_argument("--no-timestep-transform", action="store_true", help="evenly spaced timesteps")


def _optional_number(text: str) -> float | None:
    try:
        return None if text.lower() == "none" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, or none: got {text!r}") from None


def _optional_whole(text: str) -> int | None:
    number = _optional_number(text)
    if number is not None and not number.is_integer():
        raise argparse.ArgumentTypeError(f"expected a whole number, or none: got {text!r}")
    return None if number is None else int(number)


def refuse_unused(options: argparse.Namespace, names: Sequence[str], where: str) -> None:
    """Raise InputError if one of these options was set, which `where` would take and ignore."""
    defaults = parser().parse_args(["generate", "--prompt", "", "--seconds", "1", "--out", ""])
    for name in names:
        if getattr(options, name) != getattr(defaults, name):
            raise InputError(f"--{name.replace('_', '-')} has no meaning {where}: leave it out")


def size_from(options: argparse.Namespace) -> tuple[int, int]:
    from pavdm.buckets import bucket_size, parse_size

    return parse_size(options.size) if options.size else bucket_size(options.resolution, options.aspect)


def schedule_from(options: argparse.Namespace) -> Schedule:
    from pavdm.sampling.schedule import Schedule

    if getattr(options, "method", None) == "replacement":
        unused = ("window_chunks", "chunk", "no_overlap", "no_variable_length", "prompt_switch")
        refuse_unused(options, unused, "for --method replacement")
        return Schedule(window_chunks=1, steps=options.steps)
    return Schedule(
        window_chunks=options.window_chunks,
        chunk_latents=options.chunk,
        steps=options.steps,
        overlap=not options.no_overlap,
        variable_length=not options.no_variable_length,
    )


def models_from(options: argparse.Namespace) -> ModelFiles:
    from pavdm.models.files import find_models

    return find_models(options.models, options.stdit, options.vae, options.text_encoder, options.spatial_vae)


def settings_from(options: argparse.Namespace) -> Settings:
    from pavdm.prompts import PromptSchedule
    from pavdm.settings import LoopSettings, Settings

    of_the_clip = {}
    if options.clip is not None:
        of_the_clip = {
            "clip": options.clip,
            "clip_start": options.start,
            "clip_end": options.end,
            "pad": options.pad,
            "condition": options.condition,
            "posterior": options.posterior,
        }
    return Settings(
        prompt=PromptSchedule.parse(options.prompt),
        out=options.out,
        seconds=options.seconds,
        total_seconds=options.total_seconds,
        size=size_from(options),
        fps=options.fps,
        schedule=schedule_from(options),
        timestep_transform=not options.no_timestep_transform,
        method=options.method,
        guidance_scale=options.guidance,
        seed=options.seed,
        aesthetic=options.aesthetic,
        motion=options.motion,
        camera=options.camera,
        prompt_switch=options.prompt_switch,
        loop=LoopSettings(
            options.condition_length, options.edit_ratio, options.align, options.reencode, options.mask_strategy
        ),
        state_directory=options.state,
        override_state=options.override_state,
        overwrite=options.overwrite,
        **of_the_clip,
    )


def precision_from(options: argparse.Namespace) -> Precision:
    from pavdm.settings import Precision

    return Precision.named(options.device, options.dtype, options.text_dtype, options.tile)
