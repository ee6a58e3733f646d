"""What all commands share: the group with its error line, the common options, printing and progress."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from memedit import __version__
from memedit.cli._lines import log_as_lines, warnings_as_lines
from memedit.errors import DataError, MemeditError, MemoryError_, OldSchema

if TYPE_CHECKING:
    from rich.console import Console

    from memedit.edit import Edit
    from memedit.memory import EditMemory, Record

DEFAULT_MEMORY = "indexes/default"
Callback = Callable[[int, int], None]


class Suggesting(click.Group):
    """A wrong name is answered with near ones."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=2)
            if near:
                raise click.UsageError(f"{error.message} Did you mean {' or '.join(near)}?", ctx) from None
            raise


class Commands(Suggesting):
    """Prints an expected error as one line and exits with 1; a traceback only with --debug."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings_as_lines(), log_as_lines():
                return super().invoke(ctx)
        except (MemeditError, OSError, KeyboardInterrupt) as error:
            if ctx.params.get("debug"):
                raise
            fail(error)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # a fault of ours: still one line, and how to learn more
            if ctx.params.get("debug"):
                raise
            fail(
                f"unexpected {type(error).__name__}: {error}; run `memedit --debug ...` for the traceback, and please report it"
            )


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="memedit")
@click.option("--debug", is_flag=True, envvar="MEMEDIT_DEBUG", help="Show a traceback when something fails.")
def main(debug: bool) -> None:
    """Change what a language model says, without changing its weights.

    Add a fact; from then on the right questions get the new answer, and nothing else changes.

    \b
    Examples:
      memedit add-fact "The capital of France is Lyon." --target Lyon --subject France
      memedit ask "What is the capital of France?"
      memedit undo
    """


def fail(error: BaseException | str) -> NoReturn:
    """One line on standard error, exit status 1."""
    if isinstance(error, KeyboardInterrupt):
        error = "stopped; what was acknowledged is kept"
    elif isinstance(error, OSError) and error.filename:
        error = f"{error.filename}: {error.strerror or error}"
    click.echo(f"error: {error}", err=True)
    sys.exit(1)


# --- options that several commands take -------------------------------------------------------------------------

memory_option = click.option(
    "--memory",
    "-m",
    "memory",
    envvar="MEMEDIT_MEMORY",
    default=DEFAULT_MEMORY,
    show_default=True,
    show_envvar=True,
    metavar="DIR",
    help="The memory's folder.",
)


def model_options(command: Any) -> Any:
    """--model, --device and --dtype, for every command that loads a language model."""
    command = click.option(
        "--dtype",
        metavar="NAME",
        help="float32, bfloat16, float16, 8bit or 4bit (by bitsandbytes), or auto (the weights' own).  "
        "[default: auto on a GPU, float32 on a CPU]",
    )(command)
    command = click.option(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1, ...; a GPU is used where there is one."
    )(command)
    return click.option(
        "--model",
        envvar="MEMEDIT_MODEL",
        default="base",
        show_default=True,
        show_envvar=True,
        metavar="NAME_OR_DIR",
        help="The base model: a folder, a hub name, or the shipped base.",
    )(command)


method_option = click.option(
    "--method", metavar="NAME", help="Use this editing method (see `memedit methods`)."
)
false_fire_option = click.option(
    "--false-fire-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Share of unrelated questions that may fire an edit; lower is stricter.  [default: 0.005]",
)


def moment(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """A time on the command line, looked at before anything is loaded.

    Raises:
        EditError: it can't be read as a time.
    """
    if value is None:
        return None
    from memedit.memory.content import instant

    return instant(value)


at_option = click.option(
    "--at",
    metavar="TIME",
    callback=moment,
    help="Use the facts that hold then (valid-from, valid-to), e.g. 2027-01-01: its first moment, UTC.  [default: now]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def _settings(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """ike.k=8 as {"ike": {"k": 8}}; a value that is no JSON is a text."""
    out: dict[str, dict[str, Any]] = {}
    for one in given:
        name, equals, value = one.partition("=")
        method, dot, setting = name.partition(".")
        if not (equals and dot and method and setting):
            raise click.BadParameter(f"{one!r}; write METHOD.SETTING=VALUE, such as ike.k=8", ctx, param)
        try:
            out.setdefault(method, {})[setting] = json.loads(value)
        except ValueError:
            out.setdefault(method, {})[setting] = value
    return out


settings_option = click.option(
    "--set",
    "settings",
    multiple=True,
    callback=_settings,
    metavar="METHOD.SETTING=VALUE",
    help="Another setting of a method than its paper's, such as ike.k=8; may be repeated.",
)


@contextmanager
def opened(path: str | EditMemory, **options: Any) -> Iterator[EditMemory]:
    """The memory at `path`, closed afterwards; one that is open already stays so."""
    from memedit.memory import EditMemory

    if isinstance(path, EditMemory):
        yield path
        return
    with EditMemory.open(path, **options) as memory:
        yield memory


@contextmanager
def existing(path: str | EditMemory, **options: Any) -> Iterator[EditMemory]:
    """As `opened`, for commands that only make sense on a memory that is there already.

    One of an older memedit is migrated first, also for commands that only read.
    """
    from memedit.memory import EditMemory

    if isinstance(path, EditMemory):
        yield path
        return
    try:
        memory = EditMemory.open(path, create=False, **options)
    except OldSchema:
        EditMemory.open(path, create=False).close()
        memory = EditMemory.open(path, create=False, **options)
    with memory:
        yield memory


def find(memory: EditMemory, name: str) -> Record:
    """A record by its id or by the user's own ref; `id:7` and `ref:7` say which is meant.

    Raises:
        MemoryError_: there is none. DataError: the name is one edit's id and another's ref.
    """
    kind, _, rest = name.partition(":")
    if kind == "id" and rest.isdecimal():
        return memory.get(int(rest))
    if kind == "ref":
        return memory.get_ref(rest)
    if not name.isdecimal():
        return memory.get_ref(name)
    try:
        by_ref = memory.get_ref(name)
    except MemeditError:
        return memory.get(int(name))
    if (
        len(name) < 19
        and by_ref.id != int(name)
        and any(r.id == int(name) for r in memory.list(status="all"))
    ):
        raise DataError(
            f"{name} is the id of one edit and the ref of edit {by_ref.id}; write id:{name} or ref:{name}"
        )
    return by_ref


def find_live(memory: EditMemory, name: str) -> Record:
    """As `find`, of edits that are live.

    Raises:
        MemoryError_: there is none, or it was superseded, forgotten or purged. DataError: as `find`.
    """
    record = find(memory, name)
    if record.status != "live":
        by = f" by edit {record.superseded_by}" if record.superseded_by else ""
        raise MemoryError_(f"edit {record.id} was {record.status}{by}; name a live edit, or add it again")
    return record


# --- printing ---------------------------------------------------------------------------------------------------


def console() -> Console:
    """Where tables for people go; wide when it is no terminal, so that nothing is cut in a pipe."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140
    return Console(width=width, highlight=False, soft_wrap=False)


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(data, ensure_ascii=False, indent=2))


def print_table(columns: list[str], rows: list[list[Any]], title: str | None = None) -> None:
    """A table for people; a column whose header ends in '#' is set flush right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(
            column.rstrip("#"), justify="right" if column.endswith("#") else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console().print(table)


class Bar:
    """A bar on standard error that appears when its work has a size; call it with (done, total)."""

    def __init__(self, shown: Any, text: str, passing: bool = False) -> None:
        self._shown, self._passing = shown, passing
        self._task = shown.add_task(text, total=None, visible=False)

    def __call__(self, done: int, total: int) -> None:
        seen = total > 1 and not (self._passing and done >= total)
        self._shown.update(self._task, completed=done, total=total, visible=seen)

    def beside(self, text: str) -> Bar:
        """Another bar below this one, for a part of the work; gone when it is done."""
        return Bar(self._shown, text, passing=True)


@contextmanager
def progress(text: str) -> Iterator[Bar]:
    """A bar, see `Bar`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    err = Console(stderr=True)  # where nobody looks on, a bar would leave an empty line
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        yield Bar(bar, text)


def read_json_lines(source: str, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a JSON-lines file ("-" for standard input); every object has `key`, a text.

    Raises:
        DataError: names the line and what is wrong with it.
    """
    with click.open_file(source, encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    data = json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(
                        f"{source} line {number}: not JSON ({error.msg} at column {error.colno})"
                    ) from None
                if not isinstance(data, dict) or not isinstance(data.get(key), str) or not data[key].strip():
                    raise DataError(
                        f'{source} line {number}: needs {{"{key}": "..."}} with a text that is not empty'
                    )
                if any("\ud800" <= c <= "\udfff" for c in data[key]):
                    raise DataError(
                        f"{source} line {number}: the {key} holds half of a surrogate pair; mend its encoding"
                    )
                yield number, data
        except UnicodeDecodeError as error:
            raise DataError(f"{source} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def check_output(target: str | None) -> None:
    """Refuse an output file that can't be written, before the work is done.

    Raises:
        DataError: its folder is missing, or it is a folder.
    """
    if target in (None, "-"):
        return
    path = Path(str(target))
    if path.is_dir():
        raise DataError(f"{target} is a folder; name a file for the output")
    if not path.parent.is_dir():
        raise DataError(f"there is no folder {path.parent} for the output {path.name}; make it first")


def write_text(target: str, text: str) -> None:
    """All or nothing: a regular file is written beside and moved into place; "-" prints, pipes and devices are written to."""
    if target == "-":
        click.echo(text, nl=False)
        return
    path = Path(target).resolve()
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json_lines(target: str, rows: list[dict[str, Any]]) -> None:
    """One JSON object a line, by `write_text`."""
    write_text(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def fact(edit: Edit) -> str:
    """An edit as people read it: an erasure has no answer, and its prompt alone would look like half a fact."""
    return f"{edit.statement} (withheld)" if edit.kind == "erase" else edit.statement


def counted(n: int, noun: str) -> str:
    """A number with its noun: 1 edit, 2,000 edits."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
