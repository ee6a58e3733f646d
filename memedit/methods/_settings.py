"""What the settings of a method that prepares patches may be: checked at once, by type and range, and not in mid-solving."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_type_hints

import torch

from memedit.errors import MethodError

# The least that a setting may be, whichever method has it; those of the second line must be more than nothing.
_LEAST = {
    "layer": 0, "seed": 0, "steps": 1, "span": 1, "rank": 1, "top": 1, "memory": 1, "fewest": 1, "most": 1, "warm": 2,
    "depth": 0, "share": 0, "t": 0, "p": 0, "decay": 0, "kl": 0, "ridge": 0, "weight": 0, "l2": 0, "radius": 0,
    "orth": 0, "a": 0, "m": 0,
}  # fmt: skip
_POSITIVE = ("lr", "ada_lr", "clamp", "bound")
_SHARES = ("depth", "share", "t", "p")  # 1 at most


def check_settings(method: str, kind: type, given: Mapping[str, Any]) -> None:
    """Refuse settings of a wrong type or out of their range.

    Args:
        kind: the method's settings, a dataclass. given: by name, all of them fields of it.

    Raises:
        MethodError: names the setting, and says what it must be.
    """
    hints = get_type_hints(kind)
    defaults = {f.name: f.default for f in dataclasses.fields(kind)}
    for name, value in given.items():
        wrong = _wrong_type(hints[name], defaults[name], value) or _out_of_range(name, value)
        if wrong:
            raise MethodError(f"{method}.{name} is {value!r}; it must be {wrong}")


@contextmanager
def solvable(setting: str) -> Iterator[None]:
    """Equations whose matrix a setting keeps regular; where it did not, that is said.

    Raises:
        MethodError: they have no single solution; names the setting.
    """
    try:
        yield
    except torch.linalg.LinAlgError as error:
        raise MethodError(
            f"the equations for the patch have no single solution: take a higher {setting} (--set METHOD.{setting}=0.01)"
        ) from error


def _wrong_type(hint: Any, default: Any, value: Any) -> str | None:
    """What a value must be instead; None where it is of the annotated type."""
    kinds = set(getattr(hint, "__args__", ())) if type(None) in getattr(hint, "__args__", ()) else {hint}
    if value is None and type(None) in kinds:
        return None
    kinds -= {type(None)}
    if bool in kinds:
        return None if isinstance(value, bool) else "true or false"
    if str in kinds:
        return None if isinstance(value, str) else "text"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if float in kinds:
        return None if number and math.isfinite(value) else f"a number such as {default!r}"
    if int in kinds:
        whole = number and isinstance(value, int)
        return (
            None if whole else f"a number without a fraction, such as {1 if default is None else default!r}"
        )
    return None if _pairs(value) else "pairs of numbers (how many, tokens each), such as [[5, 10]]"


def _pairs(value: Any) -> bool:
    def whole(part: Any) -> bool:
        return isinstance(part, int) and not isinstance(part, bool) and part >= 1

    return isinstance(value, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and all(map(whole, pair)) for pair in value
    )


def _out_of_range(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if name in _POSITIVE and value <= 0:
        return "above 0"
    if name in _SHARES and not 0 <= value <= 1:
        return "a share, from 0 to 1"
    if name in _LEAST and value < _LEAST[name]:
        return f"at least {_LEAST[name]}"
    return None
