"""Importing the pack starts nothing heavy: what its files import of the library, alone and in a process of its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

NODES = Path(__file__).resolve().parent.parent / "nodes"


def library_modules() -> set[str]:
    """Every module of pavdm that a node file imports when it is imported."""
    found = set()
    for file in NODES.glob("*.py"):
        for statement in ast.parse(file.read_text("utf-8")).body:
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("pavdm"):
                found.add(statement.module or "")
    return found


def test_what_the_nodes_import_brings_neither_transformers_nor_a_started_gpu() -> None:
    modules = sorted(library_modules())
    assert "pavdm.models.checkpoint" in modules
    code = (
        f"import sys, importlib; [importlib.import_module(name) for name in {modules}]; import torch; "
        "heavy = {'transformers', 'tokenizers', 'av', 'cv2', 'accelerate', 'diffusers'} & set(sys.modules); "
        "assert not heavy, heavy; assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
