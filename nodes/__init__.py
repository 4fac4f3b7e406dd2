"""The ComfyUI nodes. They hold schema and wiring; everything else is in the library `pavdm` beside this folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override


def _provide_library() -> None:
    """Make the library beside this folder importable by its own name, which is all that a clone in custom_nodes needs.

    A copy that is loaded already stays; sys.path is left alone.
    """
    if "pavdm" in sys.modules:
        return
    file = Path(__file__).resolve().parent.parent / "pavdm" / "__init__.py"
    spec = importlib.util.spec_from_file_location("pavdm", file, submodule_search_locations=[str(file.parent)])
    assert spec is not None and spec.loader is not None
    sys.modules["pavdm"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pavdm"])


class Extension(ComfyExtension):
    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        _provide_library()
        from . import bundled, conditioning, demo, lora, model, sampling, states, text, vae, video

        bundled.register()

        return [
            model.LoadModel,
            lora.LoadLoRA,
            vae.LoadVAE,
            text.LoadTextEncoder,
            conditioning.EncodePrompt,
            conditioning.EncodeClip,
            conditioning.EmptyVideo,
            sampling.ProgressiveSamplerNode,
            sampling.ReplacementSamplerNode,
            sampling.SchedulePlot,
            states.Start,
            states.Extend,
            states.Finish,
            states.SaveState,
            states.LoadState,
            video.DecodeToVideo,
            demo.DemoClip,
        ]
