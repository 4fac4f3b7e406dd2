"""What pip, ComfyUI and its registry read about this project agrees."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import pavdm

ROOT = Path(__file__).resolve().parent.parent
# What ComfyUI 0.3.75 installs itself, in its own requirements.txt or with transformers.
OF_COMFYUI = [
    "torch",
    "safetensors",
    "numpy",
    "pillow",
    "tqdm",
    "transformers",
    "tokenizers",
    "packaging",
    "sentencepiece",
]


@pytest.fixture(scope="module")
def project() -> Any:
    if sys.version_info < (3, 11):
        pytest.skip("Python 3.10 has no tomllib")
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def required() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(text) for line in lines if (text := line.split("#")[0].strip())]
    return {requirement.name: requirement for requirement in found}


def test_pip_and_comfyui_install_the_same(project: Any) -> None:
    listed = {requirement.name: requirement for requirement in map(Requirement, project["project"]["dependencies"])}
    assert listed == required()


def test_whatever_comfyui_does_not_bring_has_a_reason_above_it() -> None:
    before = ""
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        name = re.split("[<>=!~ ]", line)[0]
        if name and not line.startswith("#") and name not in OF_COMFYUI:
            assert before.startswith("#") or before in required(), f"{line}: why is it needed?"
        before = line if line.startswith("#") else name


def test_nothing_pins_what_the_host_chooses() -> None:
    for requirement in required().values():
        assert all(part.operator == ">=" for part in requirement.specifier), requirement


def test_the_registry_finds_version_host_and_licence(project: Any) -> None:
    comfy = project["tool"]["comfy"]
    assert comfy["PublisherId"] and comfy["DisplayName"] and "0.3.75" in SpecifierSet(comfy["requires-comfyui"])
    text = (ROOT / comfy["version"]["path"]).read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "(\d+\.\d+\.\d+)"$', text, re.MULTILINE)  # as the registry's tool reads it
    assert version == pavdm.__version__
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "pavdm.__version__"}
    assert project["project"]["license"] and (ROOT / "LICENSE").is_file()


def imported(file: Path) -> set[str]:
    """The packages that a file imports anywhere, those beside it left out."""
    found = set()
    for statement in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            found |= {alias.name.split(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            found.add((statement.module or "").split(".")[0])
    return found


def test_every_import_of_the_shipped_code_is_a_declared_dependency(project: Any) -> None:
    extras = project["project"]["optional-dependencies"].values()
    declared = {*required(), *(re.split(r"[\[<>=]", entry)[0] for entries in extras for entry in entries)}
    of = {
        "PIL": "pillow",
        "bs4": "beautifulsoup4",
        "cv2": "opencv-python-headless",
        "scenedetect": "scenedetect-headless",
    }
    optional = {"flash_attn", "torchvision", "vbench", "clip"}  # looked for, and named where they are missing
    host = {"comfy", "comfy_api", "folder_paths", "latent_preview", "pavdm"}
    of_torch = {"typing_extensions"}  # which cannot be had without it
    unknown = set()
    for file in (*(ROOT / "pavdm").rglob("*.py"), *(ROOT / "nodes").glob("*.py")):
        for name in imported(file) - sys.stdlib_module_names - optional - host - of_torch:
            if of.get(name, name) not in declared:
                unknown.add(f"{file.relative_to(ROOT)}: {name}")
    assert not unknown
