"""Checks of the values in a network's config.json: foreign input, of any type, before anything is computed with it.

Each raises InputError that names the network, the field, what was expected and what came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pavdm.errors import InputError

MOST = 2**20  # no count or size in these networks comes near it
SHOWN = 60  # characters of a value


def refuse(network: str, name: str, expected: str, value: Any) -> InputError:
    """The error for a value that is not what was expected."""
    try:
        shown = repr(value)
    except ValueError:  # Python writes out no integers of more than some thousand digits
        shown = f"a {type(value).__name__}"
    if len(shown) > SHOWN:
        shown = shown[: SHOWN - 3] + "..."
    return InputError(f"{network}: expected {name} to be {expected}, got {shown}. Correct its config.json.")


def check_whole(network: str, name: str, value: Any, least: int = 1, most: int = MOST) -> None:
    """A whole number in a range, both ends included."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise refuse(network, name, f"a whole number from {least} to {most}", value)


def check_positive(network: str, name: str, value: Any, most: float = 1e6) -> None:
    """A number above 0."""
    if not _is_number(value) or not 0 < value <= most:
        raise refuse(network, name, f"a number above 0 and at most {most:g}", value)


def check_fraction(network: str, name: str, value: Any) -> None:
    """A number from 0 to 1."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise refuse(network, name, "a number from 0 to 1", value)


def check_flag(network: str, name: str, value: Any) -> None:
    """true or false."""
    if not isinstance(value, bool):
        raise refuse(network, name, "true or false", value)


def check_numbers(network: str, name: str, value: Any, zero: bool = True) -> None:
    """A tuple of finite numbers; zero: whether 0 is one of those."""
    numbers = isinstance(value, tuple) and all(_is_number(number) and math.isfinite(number) for number in value)
    if not numbers or not (zero or all(value)):
        raise refuse(network, name, f"a list of numbers{'' if zero else ' other than 0'}", value)


def check_wholes(network: str, name: str, value: Any) -> None:
    """A tuple of whole numbers above 0, at least one."""
    if not isinstance(value, tuple) or not value:
        raise refuse(network, name, "a list of whole numbers", value)
    for number in value:
        check_whole(network, f"each of {name}", number)


def as_mapping(network: str, name: str, value: Any) -> Mapping[str, Any]:
    """The value, if it is a JSON object."""
    if not isinstance(value, Mapping):
        raise refuse(network, name, "a JSON object", value)
    return value


def as_tuple(network: str, name: str, value: Any) -> tuple[Any, ...]:
    """The value as a tuple, if it is a list."""
    if not isinstance(value, (list, tuple)):
        raise refuse(network, name, "a list", value)
    return tuple(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, float) or abs(value) <= MOST  # larger integers may not fit into a float
