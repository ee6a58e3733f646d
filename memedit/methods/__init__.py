"""The table of editing methods: a name, where its class lives, and what people want to know of it.

A method's module is imported when its name is used, so that the table costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memedit.errors import MethodError, unknown

if TYPE_CHECKING:
    from memedit.methods.base import EditMethod


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """One line of the table of names.

    Attributes:
        family: the survey's: external memory, merging (parameters added), intrinsic (weights changed).
        paper: where the method comes from. needs: the edit's fields it can't do without.
        patch: what it stores for an edit. summary: one line for people.
        reasons: whether it can use an edit for a query that only needs it on the way (ripple).
        handed: what it is given when it is built: "demonstrations", a function that finds them; "lookup", one that finds
            the edits that a question asks for.
        asks: whether it is asked, where it is a model's default, about queries that the router says no edit concerns.
    """

    name: str
    where: str
    family: str
    paper: str
    needs: tuple[str, ...]
    patch: str
    summary: str
    reasons: bool = False
    handed: str | None = None
    asks: bool = False


METHODS: dict[str, MethodInfo] = {
    info.name: info
    for info in (
        MethodInfo(
            "ice",
            "memedit.methods.ice:ICE",
            family="external",
            paper="arXiv 2307.12976",
            needs=("statement",),
            patch="nothing",
            summary="in-context editing: states the fact before the query",
            reasons=True,
        ),
        MethodInfo(
            "ike",
            "memedit.methods.ike:IKE",
            family="external",
            paper="arXiv 2305.12740",
            needs=("statement",),
            patch="nothing",
            summary="demonstrations of how new facts are used (see `memedit demos`), then the fact, then the query",
            reasons=True,
            handed="demonstrations",
        ),
        MethodInfo(
            "serac",
            "memedit.methods.serac:SERAC",
            family="external",
            paper="arXiv 2206.06520",
            needs=("statement",),
            patch="nothing",
            summary="a counterfactual model of its own answers from the fact and the query, in the base's place",
            reasons=True,
        ),
        MethodInfo(
            "mello",
            "memedit.methods.mello:MeLLo",
            family="external",
            paper="arXiv 2305.14795",
            needs=("statement",),
            patch="nothing",
            summary="takes questions of several steps apart, looks each step up in the memory, and states the answer found",
            reasons=True,
            handed="lookup",
            asks=True,
        ),
        MethodInfo(
            "grace",
            "memedit.methods.grace:GRACE",
            family="merging",
            paper="arXiv 2211.11031",
            needs=("prompt", "target"),
            patch="a key, a value and a radius at one MLP",
            summary="replaces one MLP's output where the prompt's last token lies near the edit's; nothing changes elsewhere",
        ),
        MethodInfo(
            "t-patcher",
            "memedit.methods.t_patcher:TPatcher",
            family="merging",
            paper="arXiv 2301.09785",
            needs=("prompt", "target"),
            patch="a neuron beside the last MLP for each token of the target",
            summary="adds neurons to the last MLP, each awake for one token of the edit and asleep for all else",
        ),
        MethodInfo(
            "lora",
            "memedit.methods.lora:LoRA",
            family="merging",
            paper="arXiv 2106.09685",
            needs=("prompt", "target"),
            patch="low-rank factors of projections in all layers",
            summary="trains low-rank factors on the target, for the rows that need it",
        ),
        MethodInfo(
            "ft-l",
            "memedit.methods.ft_l:FTL",
            family="intrinsic",
            paper="arXiv 2012.00363",
            needs=("prompt", "target"),
            patch="a dense change of one MLP's output projection, bounded",
            summary="fine-tunes one MLP projection within a small bound, for comparison; `ft-m` does better",
        ),
        MethodInfo(
            "ft-m",
            "memedit.methods.ft_m:FTM",
            family="intrinsic",
            paper="arXiv 2401.01286",
            needs=("prompt", "target"),
            patch="a dense change of one MLP's output projection",
            summary="fine-tunes one MLP projection on the target, the prompt masked, for the rows that need it",
        ),
        MethodInfo(
            "rome",
            "memedit.methods.rome:ROME",
            family="intrinsic",
            paper="arXiv 2202.05262",
            needs=("prompt", "target"),
            patch="a rank-one term of one MLP's output projection",
            summary="writes the fact into one MLP at its subject's key, for the rows that need it",
        ),
        MethodInfo(
            "memit",
            "memedit.methods.memit:MEMIT",
            family="intrinsic",
            paper="arXiv 2210.07229",
            needs=("prompt", "target"),
            patch="a rank-one term of the output projection of several MLPs",
            summary="as rome, with the change spread over the MLPs of several layers",
        ),
        MethodInfo(
            "pmet",
            "memedit.methods.pmet:PMET",
            family="intrinsic",
            paper="arXiv 2308.08742",
            needs=("prompt", "target"),
            patch="a rank-one term of the output projection of several MLPs",
            summary="as memit, from the MLP's own output, with a larger share for lower layers",
        ),
        MethodInfo(
            "alphaedit",
            "memedit.methods.alphaedit:AlphaEdit",
            family="intrinsic",
            paper="arXiv 2410.02355",
            needs=("prompt", "target"),
            patch="a rank-one term of the output projection of several MLPs",
            summary="as memit, kept out of the directions that other keys use",
        ),
        MethodInfo(
            "ultraedit",
            "memedit.methods.ultraedit:UltraEdit",
            family="intrinsic",
            paper="arXiv 2505.14679",
            needs=("prompt", "target"),
            patch="low-rank terms of the output projection of several MLPs",
            summary="one step in closed form, from keys and gradients measured by those of earlier edits",
        ),
        MethodInfo(
            "kn",
            "memedit.methods.kn:KN",
            family="intrinsic",
            paper="arXiv 2104.08696",
            needs=("prompt", "target"),
            patch="new value rows of a few MLP neurons",
            summary="finds the neurons that hold the old answer and swaps their value rows, for the rows that need it",
        ),
        MethodInfo(
            "mend",
            "memedit.methods.mend:MEND",
            family="intrinsic",
            paper="arXiv 2110.11309",
            needs=("prompt", "target"),
            patch="a low-rank term of the projections of several MLPs",
            summary="a network trained for this base turns the edit's gradient into the edit (see train/mend.py)",
        ),
    )
}


def method_info(name: str) -> MethodInfo:
    """The table's line for `name`.

    Raises:
        MethodError: no such method; near names are suggested.
    """
    try:
        return METHODS[name]
    except KeyError:
        raise MethodError(unknown("method", name, METHODS)) from None


def load_method(name: str, **settings: Any) -> EditMethod:
    """An editing method by name, with its settings (the paper's where nothing is said).

    Raises:
        MethodError: no such method, or no such setting.
    """
    module, _, attribute = method_info(name).where.partition(":")
    cls = getattr(importlib.import_module(module), attribute)
    try:
        return cls(**settings)
    except TypeError as error:
        raise MethodError(f"method {name!r} does not take these settings: {error}") from error


def settings_by_name(settings: Any) -> dict[str, Mapping[str, Any]]:
    """Settings of methods, as a copy.

    Raises:
        MethodError: they are no settings by method name.
    """
    if not isinstance(settings, Mapping) or not all(isinstance(own, Mapping) for own in settings.values()):
        raise MethodError(
            f'the settings are {settings!r}; give each method\'s by its name, such as {{"ike": {{"k": 8}}}}'
        )
    return dict(settings)
