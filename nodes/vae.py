"""Load Open-Sora VAE: the video VAE v1.2 behind the host's VAE, so that the stock encode and decode nodes work.

The VAE codes 17 frames as 5 latents, each piece on its own. Time is cut inside the network; the host cuts space only:
its temporal tiles would not fall on the pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.ops
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from pavdm.clip import PIECE_FRAMES
from pavdm.errors import InputError
from pavdm.models.checkpoint import read_vae
from pavdm.models.files import read_config
from pavdm.models.latent_preview import LatentPreview, colour_fields, fit_preview
from pavdm.models.vae import Noise, VideoVAE, latent_frames, pixel_frames
from pavdm.sampling.progressive import posterior_noise

from .host import call_if_there, check_interrupted, is_dynamic, make_patcher, model_file, schema, without_line

NO_FILE = "none"
PREVIEW_SIZE = (128, 128)
# Bytes of activations per pixel and byte of a number: at its widest the spatial VAE holds a few layers of 256 channels
# at full resolution for one batch of 4 frames.
BYTES_PER_PIXEL = 4 * 256 * 4


def to_unit_range(image: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], in place and returned: hosts since 0.18 expect the one, those before the other."""
    return image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)


class HostVideoVAE(VideoVAE):
    """The video VAE; while `noise` is set, `encode` draws from the posteriors with it instead of taking their modes.
    The Cancel button works between its parts; on_images hears how many frames a part of `encode` had.
    """

    noise: Noise | None = None
    on_images: Callable[[int], None] | None = None

    def encode(self, pixels: Tensor, noise: Noise | None = None) -> Tensor:
        return super().encode(pixels, noise or self.noise)

    def _encode_images(self, images: Tensor) -> Tensor:
        check_interrupted()
        moments = super()._encode_images(images)
        if self.on_images is not None:
            self.on_images(len(images))
        return moments

    def _decode_piece(self, piece: Tensor, num_frames: int) -> Tensor:
        check_interrupted()
        return super()._decode_piece(piece, num_frames)


class OpenSoraVAE(comfy.sd.VAE):
    """The host's VAE with an Open-Sora VAE v1.2 in it. Raises InputError for a file that is no complete one."""

    def __init__(self, path: str, spatial_path: str | None = None, disable_dynamic: bool = False) -> None:
        with without_line("No VAE weights detected"):  # they are read below
            super().__init__(sd={})  # sets every attribute that this host version knows
        self.path = Path(path)
        self.device = mm.vae_device()
        self.working_dtypes = [torch.bfloat16, torch.float32]
        self.vae_dtype = mm.vae_dtype(self.device, self.working_dtypes)
        config, state = read_vae(path, dtype=self.vae_dtype, spatial_path=spatial_path)

        def to_frames(latents: int) -> int:
            return pixel_frames(latents, config)

        def to_latents(frames: int) -> int:
            return latent_frames(frames, config)

        factor = config.spatial.factor
        self.latent_channels, self.latent_dim, self.output_channels = len(config.scale), 3, 3
        self.upscale_ratio = (to_frames, factor, factor)
        self.downscale_ratio = (to_latents, factor, factor)
        self.upscale_index_formula = self.downscale_index_formula = (config.temporal.factor, factor, factor)
        self.process_output = to_unit_range
        self.memory_used_decode = lambda shape, dtype: (
            BYTES_PER_PIXEL * shape[-2] * shape[-1] * factor**2 * mm.dtype_size(dtype)
        )
        self.memory_used_encode = lambda shape, dtype: BYTES_PER_PIXEL * shape[-2] * shape[-1] * mm.dtype_size(dtype)
        self.output_device = mm.intermediate_device()

        network = HostVideoVAE(config, operations=comfy.ops.disable_weight_init, dtype=self.vae_dtype)
        self.first_stage_model = network.requires_grad_(False).eval()
        call_if_there(getattr(mm, "archive_model_dtypes", None), network)
        self.patcher = make_patcher(network, self.device, mm.vae_offload_device(), disable_dynamic)
        assign = {"assign": True} if is_dynamic(self.patcher) else {}
        network.load_state_dict(state, **assign)
        self.model_size()
        self.patcher.cached_patcher_init = (load_patcher, (path, spatial_path))

    def encode_with_bar(self, images: Tensor, seed: int | None = None) -> Tensor:
        """`encode` with a bar of its own. seed: draw from the posteriors, as the pavdm command does; None: modes."""
        network = self.first_stage_model
        network.on_images = comfy.utils.ProgressBar(len(images)).update
        network.noise = None if seed is None else posterior_noise(f"{seed}")
        try:
            return self.encode(images)
        finally:
            network.on_images = network.noise = None

    def latent_preview(self) -> LatentPreview:
        """How its latents look: what the config.json beside its file says, else fitted by encoding made-up frames."""
        said = LatentPreview.from_config(read_config(self.path.parent), self.latent_channels)
        if said is not None:
            return said
        frames = colour_fields(PIECE_FRAMES, PREVIEW_SIZE)  # in [-1, 1]
        return fit_preview(self.encode(frames[0].movedim(0, -1).add(1).div(2)), frames)

    def decode_tiled_3d(
        self,
        samples: Tensor,
        tile_t: int = 999,
        tile_x: int = 32,
        tile_y: int = 32,
        overlap: tuple[int, int, int] = (1, 8, 8),
    ) -> Tensor:
        tile = {"tile_t": samples.shape[2], "tile_x": tile_x, "tile_y": tile_y}
        return super().decode_tiled_3d(samples, **tile, overlap=overlap)

    def encode_tiled_3d(
        self,
        samples: Tensor,
        tile_t: int = 9999,
        tile_x: int = 512,
        tile_y: int = 512,
        overlap: tuple[int, int, int] = (1, 64, 64),
    ) -> Tensor:
        tile = {"tile_t": samples.shape[2], "tile_x": tile_x, "tile_y": tile_y}
        return super().encode_tiled_3d(samples, **tile, overlap=overlap)


def load_patcher(path: str, spatial_path: str | None, disable_dynamic: bool = False) -> Any:
    """The patcher of a freshly loaded VAE, for the host's own clones."""
    return OpenSoraVAE(path, spatial_path, disable_dynamic).patcher


def require_open_sora(vae: Any) -> None:
    """Raise InputError for a VAE that codes time in another way."""
    if not isinstance(vae, OpenSoraVAE):
        raise InputError(
            f"expected the VAE of Load Open-Sora VAE, got {type(vae).__name__} of another loader: other VAEs do not "
            "code 17 frames as 5 latents"
        )


class LoadVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = folder_paths.get_filename_list("vae")
        return schema(
            node_id="PAVDM_LoadVAE",
            display_name="Load Open-Sora VAE",
            description="Loads the video VAE of Open-Sora v1.2 as a VAE: 17 frames are 5 latents, 8 x 8 pixels are one "
            "latent position. The stock VAE Encode, VAE Decode and their tiled forms work with it.",
            search_aliases=["opensora vae", "open-sora"],
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=files,
                    tooltip="File in models/vae: OpenSora-VAE-v1.2, or its temporal half alone.",
                ),
                io.Combo.Input(
                    "spatial_vae_name",
                    options=[NO_FILE, *files],
                    default=NO_FILE,
                    tooltip="Image VAE in diffusers layout (SDXL style). Needed where the first file is the temporal "
                    "half alone; otherwise it replaces the spatial half. Usually none.",
                ),
            ],
            outputs=[io.Vae.Output(display_name="vae", tooltip="For Encode Clip, Decode to Video, and stock nodes.")],
        )

    @classmethod
    def execute(cls, vae_name: str, spatial_vae_name: str = NO_FILE) -> io.NodeOutput:
        spatial = None if spatial_vae_name == NO_FILE else model_file("vae", spatial_vae_name)
        return io.NodeOutput(OpenSoraVAE(model_file("vae", vae_name), spatial))
