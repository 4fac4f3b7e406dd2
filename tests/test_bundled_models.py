"""The files that ship with the pack are among the host's, after the user's own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).resolve().parent.parent / "nodes" / "bundled.py"


class Host(ModuleType):
    """What the module reads of ComfyUI's folder_paths."""

    def __init__(self) -> None:
        super().__init__("folder_paths")
        self.folders = {kind: [f"/user/{kind}"] for kind in ("diffusion_models", "vae", "text_encoders")}

    def get_folder_paths(self, kind: str) -> list[str]:
        return self.folders[kind]

    def add_model_folder_path(self, kind: str, path: str) -> None:
        self.folders[kind].append(path)


@pytest.fixture
def bundled(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "folder_paths", Host())
    spec = importlib.util.spec_from_file_location("bundled_under_test", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_folders_with_models_come_after_the_users_and_only_once(bundled: Any, tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "pavdm-tiny-vae.safetensors").write_bytes(b"")
    (tmp_path / "text_encoders").mkdir()
    bundled.register(tmp_path)
    bundled.register(tmp_path)
    assert sys.modules["folder_paths"].folders == {  # type: ignore[attr-defined]
        "diffusion_models": ["/user/diffusion_models"],
        "vae": ["/user/vae", str(tmp_path / "vae")],
        "text_encoders": ["/user/text_encoders"],
    }


def test_where_nothing_ships_nothing_is_added(bundled: Any, tmp_path: Path) -> None:
    bundled.register(tmp_path / "nowhere")
    assert sys.modules["folder_paths"].folders["vae"] == ["/user/vae"]  # type: ignore[attr-defined]
