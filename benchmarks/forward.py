"""Time and memory of one STDiT3 forward pass: this library, its bare matrix products, and the published network.

Each subject runs in a process of its own, one after the other, on the same machine, with the same weights and inputs.
A pass is one guided step: a prompt and the null text as a batch of two. It includes the projection of the texts.
The fastest pass and the highest peak count. Processor time is the sum over threads; on a shared machine it is the
steadier figure, and several rounds are better than one.

  python benchmarks/forward.py --published ~/pa_vdm            CPU, fp32, two threads, depth 2: the project's target
  python benchmarks/forward.py --device cuda --dtype bfloat16 --depth 28 --repeat 10
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SUBJECTS = ("ours", "bare", "published")
PIXELS_PER_LATENT = 8
LINEAR_LAYERS = 6  # of a block, those that work on the window's tokens
FPS = 24.0


def main() -> None:
    args = parse_arguments()
    if args.subject:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        print(json.dumps(measure(args)))
        return

    subjects = [name for name in SUBJECTS if name != "published" or args.published]
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for name in subjects * args.rounds:
            command = [sys.executable, __file__, *sys.argv[1:], "--subject", name, "--output", f"{directory}/out.pt"]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            result = json.loads(run.stdout.splitlines()[-1])
            best = results.setdefault(name, result)
            if best is not result:
                best["seconds"] += result["seconds"]
                best["busy_seconds"] += result["busy_seconds"]
                best["peak_gib"] = max(best["peak_gib"], result["peak_gib"])

    print(f"{platform.processor() or platform.machine()}, {results['ours']['machine']}")
    latents = " x ".join(map(str, args.latents))
    print(f"hidden {args.hidden}, depth {args.depth}, latents {latents}, {args.text_tokens} text tokens, {args.dtype}")
    for name, result in results.items():
        print(
            f"{name:10}{min(result['seconds']) * 1e3:10.1f} ms  {result['tflop'] / min(result['seconds']):8.3f} TFLOP/s"
            f"  peak {result['peak_gib']:6.3f} GiB  processor time {min(result['busy_seconds']):7.2f} s"
            f"  passes, ms: {' '.join(f'{s * 1e3:.1f}' for s in result['seconds'])}"
        )
    for name in subjects[1:]:
        ours, other = results["ours"], results[name]
        print(
            f"ours / {name}: time {min(ours['seconds']) / min(other['seconds']):.3f},"
            f" peak memory {ours['peak_gib'] / other['peak_gib']:.3f},"
            f" processor time {min(ours['busy_seconds']) / min(other['busy_seconds']):.3f}"
        )
    if "published" in results:
        print(f"outputs differ by {results['published']['difference']:.2e} (relative L2)")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--published", metavar="DIR", help="checkout of github.com/desaixie/pa_vdm to run beside ours (CPU)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--hidden", type=int, default=1152, help="hidden size (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=2, help="pairs of blocks; XL/2 has 28 (default: %(default)s)")
    parser.add_argument("--latents", type=int, nargs=5, default=(2, 4, 35, 30, 53), metavar=tuple("BCTHW"))
    parser.add_argument("--text-tokens", type=int, default=120, help="tokens of each text (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=1, help="passes of a process (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=1, help="processes of each subject, in turn (default: %(default)s)"
    )
    parser.add_argument("--subject", choices=SUBJECTS, help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run one subject in this process: seconds of each pass, peak memory, arithmetic."""
    import torch

    torch.set_num_threads(args.threads)
    cuda = args.device.startswith("cuda")
    build = {"ours": build_ours, "bare": build_bare, "published": build_published}[args.subject]
    step = build(args)
    seconds, busy_seconds = [], []
    with torch.no_grad():
        if cuda:
            for _ in range(3):
                step()
        for _ in range(args.repeat):
            if cuda:
                torch.cuda.synchronize()
            start, busy = time.perf_counter(), time.process_time()
            out = step()
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
            busy_seconds.append(time.process_time() - busy)
    done = products(args)[: LINEAR_LAYERS if args.subject == "bare" else None]
    device_name = torch.cuda.get_device_name() if cuda else f"{args.threads} CPU threads"
    result = {
        "seconds": seconds,
        "busy_seconds": busy_seconds,
        "peak_gib": (torch.cuda.max_memory_allocated() if cuda else peak_resident_bytes()) / 2**30,
        "tflop": sum(2 * m * k * n * count for m, k, n, count in done) / 1e12,
        "machine": f"torch {torch.__version__}, {device_name}",
    }
    if args.subject == "ours":
        torch.save(out, args.output)
    if args.subject == "published":
        ours = torch.load(args.output)
        result["difference"] = float((out - ours).norm() / ours.norm())
    return result


def peak_resident_bytes() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def products(args: argparse.Namespace) -> list[tuple[int, int, int, int]]:
    """(m, k, n, count) of one pass's matrix products: the blocks' linear layers, then both products of attention."""
    batch, _, length, height, width = args.latents
    c, s = args.hidden, -(-height // 2) * -(-width // 2)
    tokens, blocks = batch * length * s, 2 * args.depth
    linear = [(tokens, c, n * c, blocks) for n in (3, 1, 1, 1, 4)] + [(tokens, 4 * c, c, blocks)]
    attention = [(s, c, s, 2 * batch * length * args.depth), (length, c, length, 2 * batch * s * args.depth)]
    return [*linear, *attention, (tokens, c, args.text_tokens, 2 * blocks)]


def build_bare(args: argparse.Namespace) -> Callable[[], torch.Tensor]:
    """The linear layers' products over the whole window, into memory that is there already; attention is left out."""
    import torch

    dtype = getattr(torch, args.dtype)
    shapes = products(args)[:LINEAR_LAYERS]
    tokens, c = shapes[0][0], args.hidden
    inputs = {k: torch.randn(tokens, k, device=args.device).to(dtype) for k in (c, 4 * c)}
    weights = {(k, n): torch.randn(n, k, device=args.device).to(dtype) for _, k, n, _ in shapes}
    out = torch.empty(tokens * 4 * c, device=args.device, dtype=dtype)

    def step() -> torch.Tensor:
        for _, k, n, count in shapes:
            for _ in range(count):
                torch.mm(inputs[k], weights[k, n].t(), out=out[: tokens * n].view(tokens, n))
        return out

    return step


def make_inputs(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, one timestep per frame as in a steady window, and texts (B, L, 4096); the same in every process."""
    import torch

    generator = torch.Generator().manual_seed(0)
    batch, _, length, _, _ = args.latents
    one = torch.randn(1, *args.latents[1:], generator=generator)
    chunks = torch.arange(length) // 5
    timesteps = 1000 * chunks / chunks.max().clamp(min=1)
    texts = torch.randn(batch, args.text_tokens, 4096, generator=generator)
    return one.repeat(batch, 1, 1, 1, 1), timesteps.repeat(batch, 1), texts


def fill(network: torch.nn.Module) -> None:
    """Weights that depend on their name only, so that two implementations get the same ones."""
    import torch

    for name, tensor in network.state_dict().items():
        if name == "rope.freqs":
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        values = torch.randn(tensor.shape, generator=generator)
        tensor.copy_(1 + 0.02 * values if name.endswith("_norm.weight") else 0.02 * values)


def build_ours(args: argparse.Namespace) -> Callable[[], torch.Tensor]:
    import torch

    from pavdm.models.attention import best_attention
    from pavdm.models.stdit3 import STDiT3, STDiT3Config

    dtype, device = getattr(torch, args.dtype), torch.device(args.device)
    config = STDiT3Config(hidden_size=args.hidden, depth=args.depth, num_heads=args.hidden // 72)
    network = STDiT3(config, attention=best_attention(device, dtype)[1], device="meta", dtype=dtype)
    network.to_empty(device=device)
    fill(network)
    latents, timesteps, texts = make_inputs(args)
    latents, texts = latents.to(device), texts.to(device)
    batch, _, length, height, width = latents.shape
    size = (height * PIXELS_PER_LATENT, width * PIXELS_PER_LATENT)
    positions = network.positions((height, width), size, device)
    index = torch.arange(batch)[:, None].expand(batch, length)
    return lambda: network(latents, timesteps, network.project_text(list(texts)), index, FPS, size, positions=positions)


def build_published(args: argparse.Namespace) -> Callable[[], torch.Tensor]:
    """The published network, with stand-ins for the packages it imports and does not need here."""
    import torch

    stand_in_for_missing_packages(Path(args.published))
    from opensora.models.stdit.stdit3 import STDiT3, STDiT3Config  # type: ignore[import-not-found]

    dtype = getattr(torch, args.dtype)
    config = STDiT3Config(
        hidden_size=args.hidden,
        depth=args.depth,
        num_heads=args.hidden // 72,
        caption_channels=4096,
        qk_norm=True,
        pa_vdm=True,
    )
    network = STDiT3(config).to(args.device, dtype).eval()
    fill(network)
    latents, timesteps, texts = make_inputs(args)
    height, width = (PIXELS_PER_LATENT * length for length in args.latents[3:])
    keywords = {
        "mask": torch.ones(1, args.text_tokens, dtype=torch.long),
        "fps": torch.tensor([FPS], dtype=dtype),
        "height": torch.tensor([float(height)]),
        "width": torch.tensor([float(width)]),
    }
    return lambda: network(latents, timesteps, texts[:, None], **keywords)


def stand_in_for_missing_packages(checkout: Path) -> None:
    """Make `opensora.models.stdit.stdit3` importable where only torch, einops and transformers are installed.

    Its arithmetic stays: timm gives it a two-layer MLP, rotary_embedding_torch a rotation of channel pairs, xformers an
    attention per sample. Packages are entered without running their __init__, which would import all of Open-Sora.
    """
    import torch
    from torch import nn

    class Mlp(nn.Module):
        def __init__(
            self,
            in_features: int,
            hidden_features: int,
            out_features: int | None = None,
            act_layer: Any = nn.GELU,
            drop: float = 0,
        ) -> None:
            super().__init__()
            self.fc1 = nn.Linear(in_features, hidden_features)
            self.act = act_layer()
            self.fc2 = nn.Linear(hidden_features, out_features or in_features)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc2(self.act(self.fc1(x)))

    class RotaryEmbedding(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.freqs = nn.Parameter(10000 ** -(torch.arange(0, dim, 2).float() / dim), requires_grad=False)

        def rotate_queries_or_keys(self, x: torch.Tensor) -> torch.Tensor:
            angles = torch.outer(torch.arange(x.shape[-2], dtype=x.dtype), self.freqs).repeat_interleave(2, dim=-1)
            turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
            return x * angles.cos() + turned * angles.sin()

    class BlockDiagonalMask:
        @staticmethod
        def from_seqlens(queries: list[int], keys: list[int]) -> tuple[list[int], list[int]]:
            return queries, keys

    def memory_efficient_attention(q: Any, k: Any, v: Any, p: float, attn_bias: Any) -> torch.Tensor:
        samples = len(attn_bias[0])  # all of the same lengths here, so that one batched call does it without a copy
        q, k, v = (x.view(samples, -1, *x.shape[2:]).transpose(1, 2) for x in (q, k, v))
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    def module(name: str, path: Path | None = None, **content: Any) -> types.ModuleType:
        sys.modules[name] = made = types.ModuleType(name)
        made.__path__ = [str(path)] if path else []
        vars(made).update(content)
        return made

    for name in (
        "opensora",
        "opensora.models",
        "opensora.models.stdit",
        "opensora.models.layers",
        "opensora.acceleration",
    ):
        module(name, checkout / name.replace(".", "/"))
    registry = types.SimpleNamespace(register_module=lambda *_args, **_keywords: lambda made: made)
    module("opensora.registry", MODELS=registry)
    module("opensora.utils")
    module("opensora.utils.ckpt_utils", load_checkpoint=None)
    module("opensora.acceleration.checkpoint", auto_grad_checkpoint=lambda block, *inputs: block(*inputs))
    module("timm")
    module("timm.models")
    module("timm.models.layers", DropPath=nn.Identity)
    module("timm.models.vision_transformer", Mlp=Mlp)
    module("rotary_embedding_torch", RotaryEmbedding=RotaryEmbedding)
    fmha = types.SimpleNamespace(BlockDiagonalMask=BlockDiagonalMask)
    ops = module("xformers.ops", memory_efficient_attention=memory_efficient_attention, fmha=fmha)
    module("xformers", ops=ops)


if __name__ == "__main__":
    main()
