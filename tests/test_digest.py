"""The digest that autosaved states are found by: equal for equal work in any process, another for other work."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

FILE = Path(__file__).resolve().parent.parent / "nodes" / "digest.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("digest_under_test", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


digest = load().digest


def rescaled(multiplier: float) -> Any:
    """A patch as the host's own nodes make them: a function that knows its strength from around it."""

    def patch(arguments: Any) -> Any:
        return arguments * multiplier

    return patch


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value

    def call(self) -> Any:
        return self.value


@pytest.mark.parametrize(
    "make",
    [
        rescaled,
        Holder,
        lambda x: Holder(x).call,
        lambda x: [rescaled(x), 1],
        lambda x: {"function": rescaled(x)},
        lambda x: torch.tensor([x]),
        lambda x: SimpleNamespace(weights=torch.tensor([x])),
        lambda x: lambda y=x: y,
    ],
)
def test_equal_work_is_found_again_and_another_strength_is_not(make: Any) -> None:
    assert digest(make(0.7)) == digest(make(0.7))
    assert digest(make(0.7)) != digest(make(0.3))


def test_other_code_is_other_work() -> None:
    assert digest(lambda x: x + 1) != digest(lambda x: x + 2) != digest(lambda x: x * 2)


def test_objects_that_hold_each_other_come_to_an_end() -> None:
    one, two = Holder(1), Holder(2)
    one.other, two.other = two, one
    assert digest(one) == digest(one) != digest(two)


def test_what_is_held_many_times_over_is_read_once() -> None:
    held: Any = Holder(1)
    for _ in range(60):  # 2 ** 60 ways to the first one
        held = Holder([held, held])
    assert digest(held) == digest(held)


def test_a_function_that_knows_itself_before_it_is_set_is_read() -> None:
    def outer() -> Any:
        def inner() -> Any:
            return later

        found = digest(inner)
        later = 1
        return found

    assert len(outer()) == 64


def test_what_differs_from_run_to_run_does_not_count() -> None:
    assert digest({"uuid": 1, "a": 2}) == digest({"uuid": 9, "a": 2}) != digest({"uuid": 1, "a": 3})


def test_another_process_finds_the_same() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(FILE.parent)!r}); from digest import digest; import torch;"
        "make = lambda m: (lambda x: x * m); print(digest(make(0.7), {'b': {1, 2}, 'a': torch.ones(2)}, 'text'))"
    )
    both = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert both[0].stdout == both[1].stdout and len(both[0].stdout.strip()) == 64
