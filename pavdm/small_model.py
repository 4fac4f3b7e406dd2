"""pavdm-tiny, the small trained model that comes with the package, and the settings that it was trained for.

It knows the procedural world (`pavdm.training.world`) and nothing else: docs/pavdm-tiny.md has its recipe and figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pavdm.models.files import ModelFiles
from pavdm.prompts import PromptSchedule
from pavdm.sampling.schedule import Schedule
from pavdm.settings import Settings

FOLDER = Path(__file__).resolve().parent / "bundled"  # also a folder for --models
SIZE = (64, 96)  # height, width
FPS = 24.0
SCHEDULE = Schedule(window_chunks=3, steps=15)
GUIDANCE = 3.0
AESTHETIC = 6.5  # the score that its captions carried


def files() -> ModelFiles:
    """Its three networks, in folders that have the names by which ComfyUI knows kinds of models."""
    return ModelFiles(FOLDER / "diffusion_models", FOLDER / "vae", FOLDER / "text_encoders")


def settings(prompt: str, out: Path, **others: Any) -> Settings:
    """What to make with it: `others` are fields of `Settings`, such as seconds and clip."""
    fitting = {"size": SIZE, "fps": FPS, "schedule": SCHEDULE, "guidance_scale": GUIDANCE, "aesthetic": AESTHETIC}
    return Settings(prompt=PromptSchedule.parse(prompt), out=out, **{**fitting, **others})


def defaults() -> dict[str, Any]:
    """The same as options of `pavdm extend` and `pavdm generate`, by their names."""
    return {
        "models": FOLDER,
        "size": f"{SIZE[0]}x{SIZE[1]}",
        "window_chunks": SCHEDULE.window_chunks,
        "steps": SCHEDULE.steps,
        "guidance": GUIDANCE,
        "aesthetic": AESTHETIC,
    }


def options() -> list[str]:
    """The same as typed in a shell."""
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in defaults().items())
    return [word for pair in pairs for word in pair]
