"""SERAC: a query in scope is answered by a counterfactual model, from the statement and the query; the base by all others.

Reference: Mitchell et al., "Memory-Based Model Editing at Scale", arXiv 2206.06520, section 3: a memory, a scope classifier
(here the router, for all methods), and a counterfactual model h(z, x) that answers x from the edit z alone.

Needs: a statement; nothing is prepared or stored. The counterfactual model ships: a LoRA on the shipped base and a pointer
(memedit.pointer), by which it copies names that it could not spell (memedit/pretrained/counterfactual). The paper's is a
T5-small or BART-base; any causal LM in a folder may take its place.

Relations: a row reads what `ice` has it read, but it is the counterfactual model that reads it: the base may be of any
size or vocabulary, and has no need to follow a stated fact. What the base knows beside the fact has no part in the answer.

Example:
    >>> method = load_method("serac")                                      # doctest: +SKIP
    >>> with method.applied(base, [[edit], []]) as model:                  # doctest: +SKIP
    ...     model.generate(["The capital of France is", "Two and two is"])
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from memedit.adapter import is_adapter, load_adapted
from memedit.edit import Edit
from memedit.errors import MethodError
from memedit.loading import PRETRAINED, find_model
from memedit.methods._splice import Piece
from memedit.methods.base import EditMethod
from memedit.methods.ice import ICE

if TYPE_CHECKING:
    from memedit.chat import Conversation
    from memedit.lm import HFModel
    from memedit.methods._together import RowsModel

SHIPPED = PRETRAINED / "counterfactual"

_LOADED: dict[tuple[str, str], HFModel] = {}  # by folder and device: once for all who ask in this process
_LOADING = threading.Lock()


class SERAC(EditMethod):
    """Rows with edits are answered by the counterfactual model, rows without by the base.

    Args:
        model: another counterfactual model: the folder of a causal LM, or of factors that `train/counterfactual.py` made.

    Raises:
        MethodError: no such folder.
    """

    name = "serac"

    def __init__(self, model: str | Path | None = None) -> None:
        if model is not None and not isinstance(model, (str, Path)):
            raise MethodError(f"serac's model is {model!r}; give the folder of a causal language model")
        folder = SHIPPED if model is None else Path(model).expanduser()
        if model is None and not is_adapter(folder):
            raise MethodError(
                "the shipped counterfactual model is missing from this installation; reinstall memedit, or name another "
                "by --set serac.model=FOLDER"
            )
        self.model = str(folder) if is_adapter(folder) else find_model(str(model))

    def context(self, edits: Sequence[Edit]) -> list[Piece]:
        """One line per edit, oldest first, as `ice` states them."""
        return ICE().context(edits)

    @contextmanager
    def applied(
        self,
        base: HFModel,
        edits_per_row: Sequence[Sequence[Edit]],
        talks: Sequence[Conversation | None] | None = None,
    ) -> Iterator[RowsModel]:
        """A model whose rows with edits the counterfactual model answers; the base is neither asked for them nor changed.

        Raises:
            MethodError: an edit without a statement.
        """
        from memedit.methods._other import OtherModel
        from memedit.methods._rows import rows_applied
        from memedit.methods._together import together

        rows = self.rows(base, edits_per_row, talks)
        talks = [None] * len(rows) if talks is None else talks
        mine = [i for i, edits in enumerate(edits_per_row) if edits]
        plain = [i for i, edits in enumerate(edits_per_row) if not edits]
        with ExitStack() as stack:
            parts: list[tuple[list[int], RowsModel]] = []
            if mine or not plain:
                own = [rows[i] for i in mine], [talks[i] for i in mine]
                answering = OtherModel(base, lambda: self._loaded(base), *own)
                parts.append((mine, answering))
            if plain:
                parts.append((plain, stack.enter_context(rows_applied(base, [rows[i] for i in plain]))))
            yield together(base, parts)

    def _loaded(self, base: HFModel) -> HFModel:
        """The counterfactual model, where the base is."""
        from memedit.lm import HFModel

        key = (self.model, str(base.device))
        with _LOADING:
            if key not in _LOADED:
                folder = Path(self.model)
                if is_adapter(folder):
                    _LOADED[key] = HFModel(*load_adapted(folder, key[1]))
                else:
                    _LOADED[key] = HFModel.from_pretrained(self.model, device=key[1])
            return _LOADED[key]
