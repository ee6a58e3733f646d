"""Records of a data set on a hub, or of a local folder that `datasets` reads: hf:OWNER/NAME[:CONFIG][:SPLIT].

`hf:OWNER/NAME:FILE.json` is one file of it. The packages are imported only when such a name is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from memedit.errors import DataError

PREFIX = "hf:"
_SPLITS = ("train", "validation", "valid", "val", "dev", "test")
_FILES = (".json", ".jsonl", ".csv", ".tsv", ".gz")


def is_hub(path: str | Path) -> bool:
    """Whether a name is of a hub and not of a file."""
    return str(path).startswith(PREFIX)


def named_file(path: str) -> str | None:
    """The local copy of a single file that a hub name names (fetched where it is not there yet); None for whole data sets.

    Raises:
        DataError: it can't be fetched.
    """
    name, *parts = path.removeprefix(PREFIX).split(":")
    if len(parts) != 1 or not parts[0].endswith(_FILES):
        return None
    if Path(name).is_dir():
        return str(Path(name) / parts[0])

    def fetch() -> str:
        from huggingface_hub import hf_hub_download

        return str(hf_hub_download(name, parts[0], repo_type="dataset"))

    return str(_tried(path, fetch))


def records(path: str) -> Iterator[tuple[str, Any]]:
    """(where, record) of each row; fields that a row lacks are left out of it.

    Raises:
        DataError: no such name, no connection, no package, or several splits and none named.
    """
    name, config, split = parsed(path)
    try:
        import datasets
    except ImportError:
        raise DataError(
            f'{path} needs the package datasets; install it with pip install "memedit[data]", or name a file'
        ) from None
    found = _tried(path, lambda: datasets.load_dataset(name, config))
    if split is None and len(found) > 1:
        raise DataError(
            f"{path} has the splits {', '.join(found)}; name one, such as {path}:{next(iter(found))}"
        )
    if split is not None and split not in found:
        raise DataError(f"{path}: there is no split {split}; it has {', '.join(found)}")
    rows = found[split or next(iter(found))]
    if not len(rows):
        raise DataError(f"{path} is empty")
    for number, row in enumerate(rows, 1):
        yield f"record {number}", _given(row)


def parsed(path: str) -> tuple[str, str | None, str | None]:
    """The name, configuration and split of hf:NAME[:CONFIG][:SPLIT]; one part alone is a split if it is called as splits are.

    Raises:
        DataError: no such form.
    """
    name, *parts = path.removeprefix(PREFIX).split(":")
    if not name or len(parts) > 2 or not all(parts):
        raise DataError(
            f"{path} is no name on a hub; write hf:OWNER/NAME, with :CONFIG and :SPLIT where needed"
        )
    if len(parts) == 2:
        return name, parts[0], parts[1]
    alone = parts[0] if parts else None
    return (name, None, alone) if alone in _SPLITS else (name, alone, None)


def _given(value: Any) -> Any:
    """A row without the empty fields that a table of records of several shapes fills in."""
    if isinstance(value, dict):
        return {key: _given(one) for key, one in value.items() if one is not None}
    return [_given(one) for one in value] if isinstance(value, list) else value


def _tried(path: str, load: Callable[[], Any]) -> Any:
    """What `load` gives; whatever the hub's packages raise becomes one sentence."""
    try:
        return load()
    except (
        Exception
    ) as error:  # they raise a dozen kinds, for no connection, no such name, no such configuration
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"can't load {path}: {said}; without a connection, name a file or a folder that is here"
        ) from None
