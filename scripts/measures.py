"""Write docs/measures.md from the registry that the report reads: python scripts/measures.py"""

from pathlib import Path

from pavdm.evaluation.markdown import as_markdown

TARGET = Path(__file__).resolve().parent.parent / "docs" / "measures.md"

if __name__ == "__main__":
    TARGET.write_text(as_markdown(), encoding="utf-8")
