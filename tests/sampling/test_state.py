"""State files: nothing is lost on the way to the disk and back, and nothing that does not fit is taken."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule
from pavdm.sampling.progressive import sample, start
from pavdm.sampling.schedule import Schedule
from pavdm.sampling.state import load_state, save_state


def velocity(latents, timesteps, texts, frame_mask=None):
    words = torch.tensor([[float(len(text)) for text in row] for row in texts])[:, None, :, None, None]
    return torch.tanh(latents.mean(dim=2, keepdim=True) + latents + words)


def fresh(prompt="|0| a lake |3| a storm", seed=3, **settings):
    return start(
        Schedule(3, 2, 6, shift=2.7),
        torch.randn(1, 4, 2, 3, 5, generator=torch.Generator().manual_seed(0)),
        seeds=(seed,),
        prompts=(PromptSchedule.parse(prompt),),
        chunk_seconds=17 / 24,
        total=6,
        settings={"guidance": 7.0, **settings},
    )


@pytest.fixture
def saved(tmp_path):
    state = [state for state, _ in sample(fresh(), velocity, num_chunks=2)][-1]
    save_state(state, tmp_path / "state.safetensors")
    return tmp_path / "state.safetensors", state


def test_a_loaded_state_goes_on_bit_for_bit(saved):
    path, state = saved
    expected = torch.cat([chunk for _, chunk in sample(state, velocity)], dim=2)
    out = torch.cat([chunk for _, chunk in sample(load_state(path), velocity)], dim=2)
    assert torch.equal(out, expected)


def test_every_field_comes_back(saved):
    path, state = saved
    loaded = load_state(path)
    for name in ("schedule", "call", "total", "first_chunk", "seeds", "prompts", "window_texts", "clean_texts"):
        assert getattr(loaded, name) == getattr(state, name), name
    assert torch.equal(loaded.clean, state.clean)
    assert dict(loaded.settings) == {"guidance": 7.0}


def test_the_same_settings_are_accepted(saved):
    path, state = saved
    assert load_state(path, fresh()).call == state.call


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (fresh(guidance=4.0), "guidance: 7.0 in the state, 4.0 now"),
        (fresh(seed=8), "seeds"),
        (fresh(prompt="a forest"), "a forest"),
        (replace(fresh(), prompt_switch="window"), "prompt switch"),
        (fresh(model="other"), "model: None in the state, other now"),
    ],
    ids=["guidance", "seed", "prompt", "switch", "model"],
)
def test_other_settings_are_refused_by_name_unless_overridden(saved, now, named):
    path, state = saved
    with pytest.raises(InputError, match="--override-state") as error:
        load_state(path, now)
    assert named in str(error.value)
    taken = load_state(path, now, override=True)
    assert dict(taken.settings) == dict(now.settings)
    assert torch.equal(taken.window, state.window)


@pytest.mark.parametrize(
    "now",
    [replace(fresh(), schedule=Schedule(3, 2, 12, shift=2.7)), replace(fresh(), window=torch.zeros(1, 4, 0, 6, 5))],
    ids=["schedule", "size"],
)
def test_what_cannot_fit_is_refused_even_when_overridden(saved, now):
    path, _ = saved
    with pytest.raises(InputError, match="does not fit"):
        load_state(path, now, override=True)


def test_damaged_foreign_missing_and_newer_files_are_told_apart(saved, tmp_path):
    path, _ = saved
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="damaged"):
        load_state(cut)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"window": torch.zeros(1)}, foreign)
    with pytest.raises(InputError, match="no PA-VDM state"):
        load_state(foreign)
    with pytest.raises(InputError, match="no state file"):
        load_state(tmp_path / "absent.safetensors")
    newer = tmp_path / "newer.safetensors"
    save_file({"window": torch.zeros(1)}, newer, {"pavdm_state": '{"format": 99}'})
    with pytest.raises(InputError, match="format 99"):
        load_state(newer)
    broken = tmp_path / "broken.safetensors"
    save_file({"window": torch.zeros(1)}, broken, {"pavdm_state": '{"format": 1}'})
    with pytest.raises(InputError, match="cannot be read"):
        load_state(broken)


def test_a_failed_save_leaves_the_state_before_untouched(saved, tmp_path, monkeypatch):
    path, state = saved
    before = path.read_bytes()

    def full_disk(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pavdm.sampling.state.save_file", full_disk)
    with pytest.raises(InputError, match="No space left"):
        save_state(replace(state, call=0), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
