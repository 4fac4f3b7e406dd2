"""Nodes for the tests, in a pack of their own beside the one that is tested: what another pack, a full graphics card or
the Cancel button does to a model, made to happen at a certain point.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import comfy.model_base
import comfy.model_management as mm
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import folder_paths
import torch
from comfy.patcher_extension import WrappersMP
from safetensors.torch import save_file

import nodes


def note(name: str, line: object) -> None:
    """Add a line to probe/NAME.txt in the output folder, where the test reads it."""
    place = Path(folder_paths.get_output_directory()) / "probe" / f"{name}.txt"
    place.parent.mkdir(parents=True, exist_ok=True)  # the first test of a session may be the first to write
    with place.open("a") as file:
        file.write(f"{line}\n")


class Model:
    """A MODEL to which something happens; every call of the network is noted with the shape that it got.

    interrupt_at: the call in which Cancel is pressed. max_batch: more items at once are out of memory. kill_at: the call
    in which the whole server dies. attention: note each call of it. compile: torch.compile with a backend that changes
    nothing. resident_kilobytes: of the weights; the others stay where they are stored, and are cast when they are used.
    memory: note what the host is told that calls of each length need.
    """

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "probe"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        number = ("INT", {"default": 0, "min": 0, "max": 2**40})
        names = ("interrupt_at", "kill_at", "max_batch", "resident_kilobytes")
        return {
            "required": {"model": ("MODEL",), "name": ("STRING", {})},
            "optional": {
                **dict.fromkeys(names, number),
                "attention": ("BOOLEAN", {"default": False}),
                "compile": ("BOOLEAN", {"default": False}),
                "memory": ("BOOLEAN", {"default": False}),
            },
        }

    def patch(
        self,
        model: Any,
        name: str,
        interrupt_at: int = 0,
        kill_at: int = 0,
        max_batch: int = 0,
        resident_kilobytes: int = 0,
        attention: bool = False,
        compile: bool = False,
        memory: bool = False,
    ) -> Any:
        model = model.clone()
        calls = 0

        def call(executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            note(name, tuple(x.shape))
            if calls == interrupt_at:
                mm.interrupt_current_processing()
            if calls == kill_at:
                import os
                import signal

                os.kill(os.getpid(), signal.SIGKILL)
            if max_batch and x.shape[0] > max_batch:
                raise mm.OOM_EXCEPTION("simulated")
            return executor(x, *args, **kwargs)

        def attend(function: Any, q: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            note(f"{name}-attention", tuple(q.shape))
            return function(q, *args, **kwargs)

        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "probe", call)
        if attention:
            model.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = attend
        if resident_kilobytes:

            def load(executor: Any, patcher: Any, *args: Any, **kwargs: Any) -> Any:
                loaded = executor(patcher, *args, **kwargs)
                patcher.unpatch_model(patcher.offload_device, unpatch_weights=True)
                patcher.load(patcher.load_device, lowvram_model_memory=resident_kilobytes * 1024)
                note(f"{name}-resident", f"{patcher.loaded_size()} of {patcher.model_size()}")
                return loaded

            model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "probe", load)
        if memory:

            def batch(executor: Any, network: Any, *args: Any, **kwargs: Any) -> Any:
                asked = network.memory_required

                def required(shape: Any, cond_shapes: Any) -> float:
                    note(f"{name}-memory", f"{shape[0]} {shape[2]} {asked(shape, cond_shapes)}")
                    return asked(shape, cond_shapes)

                network.memory_required = required
                try:
                    return executor(network, *args, **kwargs)
                finally:
                    del network.memory_required

            model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "probe", batch)
        if compile:
            from comfy_api.torch_helpers import set_torch_compile_wrapper

            set_torch_compile_wrapper(model=model, backend="eager")
        return (model,)


class VAE:
    """A VAE that is out of memory for more than `max_positions` latent positions at once; every decoding is noted.

    interrupt_at: the decoding in which Cancel is pressed.
    """

    RETURN_TYPES = ("VAE",)
    FUNCTION = "patch"
    CATEGORY = "probe"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        required = {"vae": ("VAE",), "name": ("STRING", {}), "max_positions": ("INT", {"default": 1})}
        return {"required": required, "optional": {"interrupt_at": ("INT", {"default": 0})}}

    def patch(self, vae: Any, name: str, max_positions: int, interrupt_at: int = 0) -> Any:
        network = vae.first_stage_model
        calls = 0

        class Short:
            """The network as the VAE knows it."""

            def __getattr__(self, attribute: str) -> Any:
                return getattr(network, attribute)

            def decode(self, latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                note(name, tuple(latents.shape))
                if calls == interrupt_at:
                    mm.interrupt_current_processing()
                if latents.shape[-1] * latents.shape[-2] > max_positions:
                    raise mm.OOM_EXCEPTION("simulated")
                return network.decode(latents, *args, **kwargs)

        short = copy.copy(vae)  # the VAE itself is in the host's cache
        short.first_stage_model = Short()
        return (short,)


class LoadCLIP(nodes.CLIPLoader):
    """The stock Load CLIP on a small file: it does what it does for T5 v1.1 XXL, at the sizes that `config` gives."""

    CATEGORY = "probe"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        known = super().INPUT_TYPES()
        return {**known, "required": {**known["required"], "config": ("STRING", {})}}

    def load_clip(self, clip_name: str, type: str, config: str, device: str = "default") -> Any:
        load = comfy.sd.load_clip

        def smaller(*args: Any, model_options: dict[str, Any], **kwargs: Any) -> Any:
            return load(*args, model_options={**model_options, "t5xxl_model_config": json.loads(config)}, **kwargs)

        with mock.patch.object(comfy.sd, "load_clip", smaller):
            return super().load_clip(clip_name, type, device)


class Conditioning:
    """Writes the tensor of a CONDITIONING to probe/NAME.safetensors in the output folder, and notes what is beside it."""

    RETURN_TYPES = ()
    FUNCTION = "keep"
    CATEGORY = "probe"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning": ("CONDITIONING",), "name": ("STRING", {})}}

    def keep(self, conditioning: Any, name: str) -> Any:
        ((tensor, beside),) = conditioning
        note(name, " ".join(sorted(key for key, value in beside.items() if value is not None)))
        place = Path(folder_paths.get_output_directory()) / "probe" / f"{name}.safetensors"
        save_file({"cond": tensor.contiguous()}, place)
        return ()


class Wrong:
    """A MODEL, a VAE and a CLIP of the host's kinds that are of other networks."""

    RETURN_TYPES = ("MODEL", "VAE", "CLIP")
    FUNCTION = "make"
    CATEGORY = "probe"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def make(self) -> Any:
        class Other(comfy.model_base.BaseModel):
            def __init__(self) -> None:
                config = comfy.supported_models_base.BASE({"disable_unet_model_creation": True})
                super().__init__(config, comfy.model_base.ModelType.FLOW)
                self.diffusion_model = torch.nn.Linear(1, 1)
                self.diffusion_model.dtype = torch.float32

        patcher = comfy.model_patcher.ModelPatcher(Other(), mm.get_torch_device(), mm.unet_offload_device())
        clip = SimpleNamespace(tokenize=lambda text, **options: {"l": [[(1, 1.0)]]})
        return patcher, comfy.sd.VAE(sd={}), clip


NODE_CLASS_MAPPINGS = {
    "Probe_Model": Model,
    "Probe_VAE": VAE,
    "Probe_LoadCLIP": LoadCLIP,
    "Probe_Conditioning": Conditioning,
    "Probe_Wrong": Wrong,
}
