"""What a model knows when it is asked: the steps of a mode, and memories and weights that are brought to each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memedit.data import Case
from memedit.errors import DataError, MemeditError
from memedit.evaluation.asking import said

if TYPE_CHECKING:
    from memedit.edit import Edit
    from memedit.lm import HFModel
    from memedit.memory import EditMemory
    from memedit.merging import Merged

Bar = Callable[[int, int], None]
AFTER_ALL, AFTER_EACH = "after-all", "after-each"


@dataclass(frozen=True, slots=True)
class Step:
    """Edits that are made, and cases that are asked about then.

    Attributes:
        add: places of the cases whose edits are made now. ask: places of those that are asked about.
        alone: whether what was made before is taken back first.
    """

    add: range
    ask: range
    when: str = AFTER_ALL
    alone: bool = False


def check_mode(mode: str) -> int | None:
    """The cases that are in memory together; None for all of them.

    Raises:
        DataError: no such mode.
    """
    if mode in ("all", "sequential"):
        return None
    head, _, number = mode.partition(":")
    if mode == "single":
        return 1
    if head == "batch" and number.isdecimal() and int(number):
        return int(number)
    raise DataError(f"unknown mode {mode!r}; take all, single, batch:N (such as batch:10) or sequential")


def steps(mode: str, cases: int) -> Iterator[Step]:
    """The steps of a mode over so many cases.

    "all": all edits, then all questions. "single", "batch:N": each case, or N together, alone. "sequential": one case after
    the other, asked right after it was made; and all of them at the end.
    """
    size = check_mode(mode)
    if mode == "all":
        yield Step(range(cases), range(cases), alone=True)
    elif size is not None:
        for first in range(0, cases, size):
            some = range(first, min(cases, first + size))
            yield Step(some, some, alone=True)
    else:
        for place in range(cases):
            yield Step(range(place, place + 1), range(place, place + 1), AFTER_EACH, alone=not place)
        yield Step(range(0), range(cases))


class Memories:
    """A memory that holds what a step says, beside edits that are always in it.

    Args:
        memory: empty, or with what an earlier run of the same command has put in. filling: edits of other data.
    """

    def __init__(self, memory: EditMemory, filling: Sequence[Edit] = (), bar: Bar | None = None) -> None:
        self.memory = memory
        if filling:
            memory.add(filling, progress=bar)
        self._made = 0
        self.ids: dict[int, list[int]] = {}

    def to(self, step: Step, cases: Sequence[Case], bar: Bar | None = None) -> None:
        """Take back what has to go, then add."""
        if step.alone:
            for _ in range(self._made):
                self.memory.undo()
            self._made, self.ids = 0, {}
        edits = [edit for place in step.add for edit in cases[place].edits]
        if not edits:
            return
        added = self.memory.add(edits, progress=bar)
        self._made += bool(added.operation)
        ids = iter(added.ids)
        self.ids |= {place: [next(ids) for _ in cases[place].edits] for place in step.add}


class Weights:
    """A copy of a base that holds what a step says in its weights.

    Args:
        make: a new copy without any edit.

    Attributes:
        failed: cases whose edit could not be written, and why.
    """

    def __init__(self, make: Callable[[], Merged]) -> None:
        self._make = make
        self.merged = make()
        self.failed: list[dict[str, str]] = []

    @property
    def lm(self) -> HFModel:
        """The copy, as it is now."""
        return self.merged.lm

    def to(self, step: Step, cases: Sequence[Case], bar: Bar | None = None) -> None:
        """Begin with a new copy where the step is alone, then write one edit after the other."""
        if step.alone and self.merged.edits:
            self.merged = self._make()
        for n, place in enumerate(step.add):
            for edit in cases[place].edits:
                try:
                    self.merged.add(edit)
                except (
                    Exception
                ) as error:  # as happens once a model has collapsed: counted, and the others go on
                    self.failed.append({"case": cases[place].id, "error": said(error)})
            if bar:
                bar(n + 1, len(step.add))


def prepared(
    memory: EditMemory, base: HFModel, model: Any, name: str, settings: Mapping[str, Any],
    cases: Sequence[Case], ids: Mapping[int, Sequence[int]], places: Sequence[int],
) -> list[dict[str, str]]:  # fmt: skip
    """Have the patches of some cases ready, where the method has any: which of them could not be made, and why.

    Args:
        model: the `EditedModel` that will use them. ids: of the edits of each case.
    """
    from memedit.kept import bound, prepare
    from memedit.methods import load_method
    from memedit.methods.patched import PatchMethod

    method = load_method(name, **settings)
    if not isinstance(method, PatchMethod):
        return []
    method = bound(method, model.patches)
    failed = []
    for place in places:
        records = [record for record in map(memory.get, ids[place]) if record.status == "live"]
        try:
            found = list(prepare(model.patches, base, records, lambda edit: method))
        except Exception as error:  # a method's own trouble with one fact: counted, and the others go on
            failed.append({"case": cases[place].id, "error": said(error)})
            continue
        failed += [{"case": cases[place].id, "error": one.error} for one in found if one.error]
    return failed


def filling(
    cases: Sequence[Case], prompts: Sequence[str], size: int, folder: Any, seed: int = 0
) -> list[Edit]:
    """Edits of other data, so that a memory with these cases holds `size`; none of them answers a question that is asked.

    Args:
        folder: of the public data sets, with splits.json.

    Raises:
        DataError: the folder is missing, or does not hold enough.
    """
    from memedit.scope_eval.cases import ScopeCase
    from memedit.scope_eval.public import Public
    from memedit.scope_eval.sets import Fillers

    own = sum(len(case.edits) for case in cases)
    if size <= own:
        return []
    wrapped = [ScopeCase(Case(c.id, e, c.queries), e.names) for c in cases for e in c.edits]
    try:
        fillers = Fillers.of(Public(folder), seed, many=size > 20_000)
    except MemeditError as error:
        raise DataError(f"there is nothing to fill the memory up with: {error}") from None
    found = fillers.around(wrapped, [(prompt, "general") for prompt in prompts], size - own)
    if len(found) < size - own:
        raise DataError(
            f"{folder} gives {len(found):,} other edits, {size - own - len(found):,} too few for --fill {size}; "
            "take a smaller one"
        )
    return found
