"""Compare this library with reference outputs: `python -m pavdm.conformance DIR`.

DIR holds safetensors and JSON files made by the published implementation (any configuration; the JSON files carry it).
Every case runs through the library's public code paths and prints one line, `name  relative-error  ok|FAIL`. The exit
status is 1 if any fails. fp32 cases must agree to a relative L2 error of 1e-4, timesteps and texts exactly; a bf16 run
must come closer to fp32 than the published bf16 run does.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pavdm import captions
from pavdm.models.stdit3 import STDiT3, STDiT3Config
from pavdm.models.vae import VAEConfig, VideoVAE
from pavdm.prompts import PromptSchedule
from pavdm.sampling import progressive, rectified_flow
from pavdm.sampling.guidance import GuidedVelocity
from pavdm.sampling.schedule import Schedule, timestep_shift
from pavdm.sampling.state import Texts
from pavdm.training.stdit.objective import TrainedVelocity
from pavdm.training.stdit.windows import TrainingWindows, WindowDraw, WindowPlan

TOLERANCE = 1e-4
FPS = 24.0
PROMPT = "the prompt"


@dataclass(frozen=True)
class Result:
    """Outcome of one case; `error` is a relative L2 error, None where nothing was compared."""

    name: str
    error: float | None
    verdict: str

    def __str__(self) -> str:
        error = "-" if self.error is None else f"{self.error:.2e}"
        return f"{self.name:<48} {error:>9}  {self.verdict}"


def relative_error(out: Tensor, reference: Tensor) -> float:
    """||out - reference|| / ||reference||, in fp64; infinite where the shapes differ."""
    if out.shape != reference.shape:
        return float("inf")
    difference = (out.double() - reference.double()).norm() / reference.double().norm().clamp_min(1e-30)
    return float(difference)


def run(directory: Path) -> Iterator[Result]:
    """Run every case that `directory` holds. A part whose files are absent yields nothing."""
    for name, part in _PARTS.items():
        if (directory / name).is_file():
            try:
                yield from part(directory)
            except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
                yield Result(name, None, f"FAIL ({type(error).__name__}: {error})")


def _model(directory: Path) -> Iterator[Result]:
    model = json.loads((directory / "model.json").read_text("utf-8"))
    network = _network(directory, model, torch.float32)
    yield from _forward(directory, model, network)
    yield from _forward_bf16(directory, model)
    yield from _progressive(directory, model, network)
    yield from _rectified_flow(directory, model, network)


def _judge(name: str, out: Tensor, reference: Tensor, exact: bool = True) -> Result:
    error = relative_error(out, reference)
    return Result(name, error, "ok" if exact and error <= TOLERANCE else "FAIL")


def _guarded(name: str, case: Callable[[], Result]) -> Result:
    """A case that cannot run has failed; the others still count."""
    try:
        return case()
    except Exception as error:
        return Result(name, None, f"FAIL ({type(error).__name__}: {error})")


def _network(directory: Path, model: dict[str, Any], dtype: torch.dtype) -> STDiT3:
    network = STDiT3(STDiT3Config.from_dict(model["stdit3_config"]))
    weights = load_file(directory / "stdit3_weights.safetensors")
    weights.pop("rope.freqs", None)  # recomputed
    network.load_state_dict(weights)
    return network.to(dtype).eval()


def _tokens(embedding: Tensor, mask: Tensor) -> Tensor:
    """Real tokens (L, C) of one padded embedding (1, L, C)."""
    return embedding[0, mask[0].bool()]


@torch.no_grad()
def _run_forward(network: STDiT3, data: dict[str, Tensor], prefix: str, size: tuple[int, int], fps: float) -> Tensor:
    x, y, mask = data[f"{prefix}x"], data[f"{prefix}y"], data[f"{prefix}mask"]
    contexts = network.project_text([_tokens(embedding, mask) for embedding in y])
    texts = torch.arange(len(contexts))[:, None].expand(x.shape[0], x.shape[2])
    timestep, frame_mask = data[f"{prefix}timestep"], data.get(f"{prefix}x_mask")
    return network(x, timestep, contexts, texts, fps=fps, size=size, frame_mask=frame_mask)


def _forward(directory: Path, model: dict[str, Any], network: STDiT3) -> Iterator[Result]:
    path = directory / "stdit3_forward.safetensors"
    if not path.is_file():
        return
    data = load_file(path)
    for case in model.get("forward", []):
        name, size = case["name"], (case["height"], case["width"])

        def run_case(name: str = name, size: tuple[int, int] = size, fps: float = case["fps"]) -> Result:
            out = _run_forward(network, data, f"{name}.", size, fps)
            return _judge(f"forward.{name}", out, data[f"{name}.out"])

        yield _guarded(f"forward.{name}", run_case)


def _forward_bf16(directory: Path, model: dict[str, Any]) -> Iterator[Result]:
    path = directory / "stdit3_forward_bf16.safetensors"
    if not path.is_file():
        return
    data = load_file(path)

    def run_case() -> Result:
        parameters = model.get("forward_bf16", {})
        size = (parameters.get("height", 240), parameters.get("width", 426))
        out = _run_forward(_network(directory, model, torch.bfloat16), data, "", size, parameters.get("fps", FPS))
        error = relative_error(out, data["out_fp32"])
        published = relative_error(data["out_bf16"], data["out_fp32"])
        verdict = "ok" if error < published else "FAIL"
        return Result("forward.bf16", error, f"{verdict} (published bf16 {published:.2e})")

    yield _guarded("forward.bf16", run_case)


def _velocity(network: STDiT3, case: dict[str, Any], y: Tensor, mask: Tensor) -> GuidedVelocity:
    return GuidedVelocity(
        network,
        {PROMPT: _tokens(y[0], mask)},
        guidance_scale=case["cfg"],
        size=(case["height"], case["width"]),
        fps=FPS,
    )


class _Recorder:
    """Passes calls on to a velocity and keeps the timesteps that it was asked for."""

    def __init__(self, velocity: GuidedVelocity) -> None:
        self.velocity = velocity
        self.timesteps: list[Tensor] = []

    def __call__(self, latents: Tensor, timesteps: Tensor, texts: Texts, frame_mask: Tensor | None = None) -> Tensor:
        self.timesteps.append(timesteps[0].clone())
        return self.velocity(latents, timesteps, texts, frame_mask)


def _progressive(directory: Path, model: dict[str, Any], network: STDiT3) -> Iterator[Result]:
    path = directory / "progressive_sampler.safetensors"
    if not path.is_file():
        return
    data = load_file(path)
    for case in model.get("progressive_sampler", []):
        name = f"progressive_sampler.{case['name']}"
        yield _guarded(name, lambda case=case, name=name: _progressive_case(name, case, data, network))  # type: ignore[misc]


def _progressive_case(name: str, case: dict[str, Any], data: dict[str, Tensor], network: STDiT3) -> Result:
    key, chunk, overlap = case["name"], case["chunk"], case["overlapped_conditioning"]
    grows = case["variable_length"]
    noisy_chunks = case["window"] // chunk - overlap
    shift = None
    if case["timestep_transform"]:
        shift = timestep_shift(case["height"], case["width"], int(case["num_frames"]) // 17 * 5)
    schedule = Schedule(noisy_chunks, chunk, case["steps"], overlap, grows, shift)

    # The published sampler conditions on the first latents of the clip; the last chunk of a clip that fills a window
    # without a clean chunk is noised to pure noise there, so nothing of it is left.
    clip = data[f"{key}.cond"]
    used = overlap if grows else noisy_chunks - 1 + overlap
    conditioning = clip[:, :, : used * chunk]
    draws = [data[k] for k in sorted(k for k in data if k.startswith(f"{key}.noise."))]
    warm = 0 if grows else noisy_chunks - 1

    def noise(number: int, shape: tuple[int, ...]) -> Tensor:
        if grows or number > 0:
            return draws[number]
        return draws[0][:, :, (warm + number) * chunk : (warm + number + 1) * chunk]

    new_chunks = case["total_latents"] // chunk - (overlap and grows)
    velocity = _Recorder(_velocity(network, case, data[f"{key}.y"], data[f"{key}.mask"]))
    state = progressive.start(
        schedule,
        conditioning if used else None,
        shape=(clip.shape[0], clip.shape[1], clip.shape[3], clip.shape[4]),
        seeds=(0,) * clip.shape[0],
        prompts=(PromptSchedule.parse(PROMPT),) * clip.shape[0],
        chunk_seconds=1.0,
        total=new_chunks,
        noise=noise,
    )
    finished = [clip[:, :, :chunk]] if overlap else []
    finished += [latents for _, latents in progressive.sample(state, velocity, num_chunks=new_chunks, noise=noise)]
    recorded = [data[k] for k in sorted(k for k in data if k.startswith(f"{key}.timesteps."))]
    exact = len(recorded) == len(velocity.timesteps) and all(map(torch.equal, recorded, velocity.timesteps))
    result = _judge(name, torch.cat(finished, dim=2), data[f"{key}.out"], exact)
    return result if exact else Result(name, result.error, "FAIL (timesteps differ)")


def _rectified_flow(directory: Path, model: dict[str, Any], network: STDiT3) -> Iterator[Result]:
    path = directory / "rectified_flow_sampler.safetensors"
    if not path.is_file():
        return
    data = load_file(path)
    for case in model.get("rectified_flow_sampler", []):
        name = f"rectified_flow_sampler.{case['name']}"

        def run_case(name: str = name, case: dict[str, Any] = case) -> Result:
            key = case["name"]
            z = data[f"{key}.z"]
            draws = [data[k] for k in sorted(k for k in data if k.startswith(f"{key}.noise."))]
            out = rectified_flow.sample(
                _velocity(network, case, data[f"{key}.y"], data[f"{key}.text_mask"]),
                z,
                ((PROMPT,) * z.shape[2],) * z.shape[0],
                steps=case["steps"],
                shift=timestep_shift(case["height"], case["width"], int(case["num_frames"]) // 17 * 5),
                frame_mask=data.get(f"{key}.frame_mask"),
                noise=lambda step, shape: draws[step],
            )
            return _judge(name, out, data[f"{key}.out"])

        yield _guarded(name, run_case)


def _vae(directory: Path) -> Iterator[Result]:
    description = json.loads((directory / "vae.json").read_text("utf-8"))
    data = load_file(directory / "vae.safetensors")
    vae = VideoVAE(VAEConfig.from_dict(description))
    vae.load_state_dict(load_file(directory / "vae_weights.safetensors"))
    vae.eval()
    for case in description["cases"]:
        name = case["name"]
        if name.startswith("encode"):
            yield _guarded(f"vae.{name}", lambda name=name: _vae_encode(name, data, vae, sampled=True))  # type: ignore[misc]
            yield _guarded(f"vae.{name}.mode", lambda name=name: _vae_encode(name, data, vae, sampled=False))  # type: ignore[misc]
        else:
            yield _guarded(f"vae.{name}", lambda name=name, n=case["frames"]: _vae_decode(name, n, data, vae))  # type: ignore[misc]


@torch.no_grad()
def _vae_encode(name: str, data: dict[str, Tensor], vae: VideoVAE, sampled: bool) -> Result:
    if not sampled:
        return _judge(f"vae.{name}.mode", vae.encode(data[f"{name}.pixels"]), data[f"{name}.latents_mode"])
    draws = iter([data[k] for k in sorted(k for k in data if k.startswith(f"{name}.noise."))])
    latents = vae.encode(data[f"{name}.pixels"], noise=lambda shape: next(draws))
    return _judge(f"vae.{name}", latents, data[f"{name}.latents"])


@torch.no_grad()
def _vae_decode(name: str, num_frames: int, data: dict[str, Tensor], vae: VideoVAE) -> Result:
    pieces = vae.decode_pieces([data[f"{name}.latents"]], num_frames)
    return _judge(f"vae.{name}", torch.cat(list(pieces), dim=2), data[f"{name}.pixels"])


def _text_cleaning(directory: Path) -> Iterator[Result]:
    cases = json.loads((directory / "text_cleaning.json").read_text("utf-8"))
    for i, case in enumerate(cases):
        prompt = case["prompt"]
        exact = (
            captions.preprocess(prompt, None) == case["cleaned"]
            and captions.preprocess(prompt, 6.5) == case["with_scores"]
            and captions.add_scores(prompt, 5.2, 3.0, "pan left") == case["with_all"]
        )
        yield Result(f"text_cleaning.{i:02d}", 0.0 if exact else 1.0, "ok" if exact else "FAIL")


def _training_loss(directory: Path) -> Iterator[Result]:
    """One batch of every published noise pattern through the window, the network (that of model.json) and the loss."""
    path = directory / "training_loss.safetensors"
    if not (path.is_file() and (directory / "model.json").is_file()):
        return
    data = load_file(path)
    network = _network(directory, json.loads((directory / "model.json").read_text("utf-8")), torch.float32)
    for case in json.loads((directory / "training_loss.json").read_text("utf-8")):
        name = f"training_loss.{case['name']}"
        yield _guarded(name, lambda case=case, name=name: _training_loss_case(name, case, data, network))  # type: ignore[misc]


@torch.no_grad()
def _training_loss_case(name: str, case: dict[str, Any], data: dict[str, Tensor], network: STDiT3) -> Result:
    key, pattern, chunk, clean = case["name"], case["noise_pattern"], case["chunk"], case["overlapped_conditioning"]
    x0, size = data[f"{key}.x_start"], (case["height"], case["width"])
    batch, noisy_chunks = x0.shape[0], case["latents"] // chunk - clean
    windows = TrainingWindows(
        Schedule(noisy_chunks, chunk, case["steps"], overlap=clean, variable_length=False),
        pattern,
        variance_scale=case["linear_variance_scale"],
        shift_scale=case["linear_shift_scale"],
    )
    draws = iter([data[f"{key}.draw.{i}"] for i in range(len(case["draws"]))])
    zeros = torch.zeros(batch)
    draw = WindowDraw(
        stage=torch.full((batch,), case["stage"] or 0),
        first=torch.zeros(batch, dtype=torch.long),
        variance=next(draws).expand(batch, -1) if "variance" in pattern else zeros[:, None],
        shift=next(draws).flatten().expand(batch) if "shift" in pattern else zeros,
        noise=next(draws),
    )
    # The published ratio counts the latents of the clip's frames, also where there is no clean chunk.
    shift = timestep_shift(*size, int(case["num_frames"]) // 17 * 5)
    noised = windows.noised(x0, WindowPlan(noisy_chunks, 0, clean), draw, shift)
    texts = [_tokens(embedding, data[f"{key}.text_mask"]) for embedding in data[f"{key}.y"]]
    loss = noised.loss(TrainedVelocity(network)(noised, texts, fps=FPS, size=size))
    if not torch.equal(noised.timesteps, data[f"{key}.timestep"]):
        return Result(name, relative_error(noised.timesteps, data[f"{key}.timestep"]), "FAIL (timesteps differ)")
    noise_added = _judge(name, noised.latents, data[f"{key}.x_t"])
    return _judge(name, loss, data[f"{key}.loss"]) if noise_added.verdict == "ok" else noise_added


_PARTS: dict[str, Callable[[Path], Iterator[Result]]] = {
    "model.json": _model,
    "vae.json": _vae,
    "text_cleaning.json": _text_cleaning,
    "training_loss.json": _training_loss,
}


def main(arguments: list[str] | None = None) -> int:
    """Print a line per case; 0 if all agree, 1 if any fails, 2 if the directory holds none."""
    parser = argparse.ArgumentParser(prog="python -m pavdm.conformance", description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path, help="reference outputs (safetensors and JSON files)")
    directory = parser.parse_args(arguments).directory
    logging.basicConfig(level=logging.ERROR)
    failed = count = 0
    for result in run(directory):
        print(result, flush=True)
        count += 1
        failed += result.verdict.startswith("FAIL")
    if not count:
        print(f"error: {directory} holds no reference outputs (model.json, vae.json, ...)", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
