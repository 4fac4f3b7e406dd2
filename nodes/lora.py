"""Load LoRA: names that the host's own LoRA loaders do not know for this network, behind the host's own patches."""

from __future__ import annotations

from typing import Any

import comfy.sd
import folder_paths
from comfy_api.latest import io

from pavdm.errors import InputError
from pavdm.models.lora import generic_lora
from pavdm.models.weights import load_state_dict

from .host import model_file, schema
from .model import PAVDM


class LoadLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_LoadLoRA",
            display_name="Load LoRA (PA-VDM)",
            description="Applies a LoRA to the model. The stock LoRA loaders do the same for kohya's and generic "
            "names; this one also takes PEFT's and diffusers', and q, k and v that were trained as separate layers, "
            "and refuses a LoRA that does not fit the model.",
            search_aliases=["lora", "peft"],
            inputs=[
                io.Model.Input("model", tooltip="Of Load PA-VDM Model, or of another LoRA loader."),
                io.Combo.Input(
                    "lora_name",
                    options=folder_paths.get_filename_list("loras"),
                    tooltip="File in models/loras: kohya, generic, PEFT or diffusers names.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How much of the LoRA's change is added to the weights: 1 is all, 0 none.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with the LoRA, for a guider.")],
        )

    @classmethod
    def execute(cls, model: Any, lora_name: str, strength: float) -> io.NodeOutput:
        if not isinstance(model.model, PAVDM):
            raise InputError(
                f"expected the model of Load PA-VDM Model, got {type(model.model).__name__}: use the stock LoRA loader"
            )
        weights = model.model.diffusion_model.state_dict()
        layers = {
            name.removesuffix(".weight"): tuple(tensor.shape)
            for name, tensor in weights.items()
            if name.endswith(".weight")
        }
        lora = generic_lora(load_state_dict(model_file("loras", lora_name)), layers)
        return io.NodeOutput(comfy.sd.load_lora_for_models(model, None, lora, strength, 0.0)[0])
