"""Load PA-VDM Model: STDiT3 behind the host's MODEL.

The host's own detection takes an STDiT3 file for PixArt, so the configuration is built here. The steps are those of
`comfy.sd.load_diffusion_model_state_dict`; what is checked there by a log line is an error here, before anything is
built.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management as mm
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor, nn

from pavdm.errors import InputError
from pavdm.models.checkpoint import fingerprint, read_stdit3
from pavdm.models.files import read_config
from pavdm.models.latent_preview import LatentPreview
from pavdm.sampling.schedule import NUM_TIMESTEPS, Schedule

from .host import is_dynamic, is_out_of_memory, make_patcher, model_file, schema
from .network import CLOCK, DEFAULT_FPS, CONDTexts, HostSTDiT3, Text
from .vae import require_open_sora

logger = logging.getLogger(__name__)

TEXTS = "texts"  # the conditioning that every call has
SMALL_SLICES = 2**25  # bytes of temporaries in a layer once memory was short
WEIGHT_DTYPES = {
    "default": None,
    "bf16": torch.bfloat16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


class VideoLatent(comfy.latent_formats.LatentFormat):
    """Latents of a video VAE, which normalises them itself. preview: None shows none while sampling."""

    latent_dimensions = 3
    spacial_downscale_ratio = 8

    def __init__(self, channels: int = 4, preview: LatentPreview | None = None) -> None:
        self.latent_channels = channels
        if preview is not None:
            self.latent_rgb_factors = [list(row) for row in preview.factors]
            self.latent_rgb_factors_bias = list(preview.bias)


class PerFrameFlow(nn.Module):
    """Rectified flow, x = (1 - sigma) x0 + sigma noise, with sigma (B,) or (B, T); the network gives x0 - noise."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sigmas", torch.arange(1, NUM_TIMESTEPS + 1) / NUM_TIMESTEPS, persistent=False)

    @property
    def sigma_min(self) -> Tensor:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        return self.sigmas[-1]

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma * NUM_TIMESTEPS

    def sigma(self, timestep: Tensor) -> Tensor:
        return timestep / NUM_TIMESTEPS

    def percent_to_sigma(self, percent: float) -> float:
        return 1.0 - min(max(percent, 0.0), 1.0)

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        return model_input + over_frames(sigma) * model_output

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        return sigma * noise + (1.0 - sigma) * latent_image

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent


def over_frames(sigma: Tensor) -> Tensor:
    """(B,) or (B, T) -> (B, 1, 1 or T, 1, 1)."""
    return sigma.reshape(sigma.shape[0], 1, -1, 1, 1)


class PAVDM(comfy.model_base.BaseModel):
    """STDiT3 among the host's models. source: what file it is of and in which number formats."""

    source: tuple[str, ...] = ()

    def __init__(self, model_config: Any, device: Any = None) -> None:
        super().__init__(model_config, comfy.model_base.ModelType.FLOW, device=device, unet_model=HostSTDiT3)
        self.model_sampling = PerFrameFlow()

    def _apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: None = None,
        c_crossattn: None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """As the host's, with the clock's times. Out of memory, the items go one by one and in smaller slices."""
        options = transformer_options or {}
        try:
            return self._apply_at_once(x, t, options, **kwargs)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        logger.warning("out of memory: the %d items of this call go one by one, in smaller slices", len(x))
        mm.soft_empty_cache()
        network, clock = self.diffusion_model, options.get(CLOCK)
        network.slice_bytes = SMALL_SLICES
        try:
            done = []
            for i in range(len(x)):
                own = options if clock is None else {**options, CLOCK: clock.of_item(i)}
                conds = {name: value[i : i + 1] if name == TEXTS else value for name, value in kwargs.items()}
                done.append(self._apply_at_once(x[i : i + 1], t[i : i + 1], own, **conds))
            return torch.cat(done)
        finally:
            network.slice_bytes = None

    def _apply_at_once(self, x: Tensor, t: Tensor, options: dict[str, Any], **conds: Any) -> Tensor:
        if CLOCK in options:
            t = options[CLOCK].sigmas(x.shape[0])
        return super()._apply_model(x, t, transformer_options=options, **conds)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Texts and frames per second, from the conditioning of Encode Prompt or of any stock T5 text encode node."""
        embeddings: Tensor = kwargs["cross_attn"]
        mask = kwargs.get("attention_mask")
        if mask is not None:
            embeddings = embeddings[:, mask[0].bool()]
        role = kwargs.get("pavdm_role", "own")
        fps = float(kwargs.get("frame_rate", DEFAULT_FPS))
        texts = [Text(embedding, role) for embedding in embeddings]
        return {TEXTS: CONDTexts(texts), "fps": comfy.conds.CONDConstant(fps)}

    def memory_required(self, input_shape: Any, cond_shapes: Any = None) -> float:
        """Of one call. Before sampling the host asks with the whole video, of which the network sees a window: taken as
        the default one, as the sampler is not known yet (see `make_room`). Asked for a call, it has its conditionings.
        """
        shape, conds = list(input_shape), cond_shapes or {}
        if TEXTS not in conds:
            shape[2] = min(shape[2], Schedule().window_latents)
        return super().memory_required(shape, conds)


def make_room(patcher: Any, shape: Sequence[int]) -> None:
    """Let the host free memory for calls with windows of `shape` (B, C, T, h, w), where it reckoned with smaller ones.

    patcher: of a PAVDM, loaded. As the host does it, for two conditionings at a time.
    """
    if shape[2] > Schedule().window_latents:
        both = [2 * shape[0], *shape[1:]]
        mm.load_models_gpu([patcher], memory_required=patcher.model.memory_required(both, {TEXTS: []}))


class Config(comfy.supported_models_base.BASE):
    """What the host wants to know of a kind of model."""

    unet_config: dict[str, Any] = {}  # noqa: RUF012
    unet_extra_config: dict[str, Any] = {}  # noqa: RUF012
    latent_format = VideoLatent
    memory_usage_factor = 2.0
    supported_inference_dtypes = [torch.bfloat16, torch.float32]  # noqa: RUF012

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> PAVDM:
        return PAVDM(self, device=device)

    def clip_target(self, state_dict: Any = None) -> None:
        return None


def load_patcher(path: str, options: dict[str, Any], disable_dynamic: bool = False) -> Any:
    """The host's patcher around the STDiT3 in `path`.

    options: the host's model options (dtype, custom_operations), and "preview", a LatentPreview; without one, what the
    config.json beside the file says.

    Raises InputError for a file that is no complete STDiT3 checkpoint.
    """
    network_config, state = read_stdit3(path)
    preview = options.get("preview") or LatentPreview.from_config(
        read_config(Path(path).parent), network_config.in_channels
    )
    config = Config({"config": network_config})
    config.latent_format = VideoLatent(network_config.in_channels, preview)
    load_device = mm.get_torch_device()
    supported = config.supported_inference_dtypes
    dtype = options.get("dtype") or mm.unet_dtype(
        model_params=comfy.utils.calculate_parameters(state),
        supported_dtypes=supported,
        weight_dtype=comfy.utils.weight_dtype(state),
    )
    manual_cast = mm.unet_manual_cast(dtype, load_device, supported)
    config.set_inference_dtype(dtype, manual_cast)
    config.unet_config["compute_dtype"] = manual_cast or dtype
    config.custom_operations = options.get("custom_operations")
    offload_device = mm.unet_offload_device()
    model = config.get_model(state)
    patcher = make_patcher(model, load_device, offload_device, disable_dynamic)
    if is_dynamic(patcher):
        model.load_model_weights(state, "", assign=True)
    else:
        model.to(offload_device)
        model.load_model_weights(state, "")
    model.source = (fingerprint(path), str(dtype), str(manual_cast))
    patcher.cached_patcher_init = (load_patcher, (path, options))
    return patcher


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_LoadModel",
            display_name="Load PA-VDM Model",
            description="Loads an STDiT3 of Open-Sora v1.2, or one fine-tuned from it (PA-VDM), as a MODEL. The stock "
            "diffusion model loader takes these files for another network.",
            search_aliases=["stdit", "stdit3", "open-sora", "opensora"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=folder_paths.get_filename_list("diffusion_models"),
                    tooltip="File in models/diffusion_models: OpenSora-STDiT-v3, or a checkpoint fine-tuned from it.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip="Number format of the weights in memory. fp8 halves their memory against bf16 and costs "
                    "some accuracy; they are computed with in bf16 or fp32.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="For the preview while sampling only: how this VAE's latents look is fitted when the model "
                    "is loaded. Not needed where the model's config.json says it.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For a guider, a LoRA loader or Extend.")],
        )

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str, vae: Any = None) -> io.NodeOutput:
        dtype = WEIGHT_DTYPES[weight_dtype]
        options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        if vae is not None:
            require_open_sora(vae)
            options["preview"] = vae.latent_preview()
        patcher = load_patcher(model_file("diffusion_models", model_name), options)
        made, read = patcher.model.latent_format.latent_channels, None if vae is None else vae.latent_channels
        if read not in (None, made):
            raise InputError(
                f"the model makes latents of {made} channels, the VAE reads {read}: connect the VAE that belongs "
                "to the model"
            )
        return io.NodeOutput(patcher)
