"""Commands that copy a memory, bring a copy back, or give back the space it no longer needs: backup, restore, compact."""

from __future__ import annotations

from dataclasses import asdict

import click

from memedit.cli._group import counted, existing, json_option, memory_option, print_json, progress


@click.command()
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--force", is_flag=True, help="Replace the memory or backup that the folder holds.")
@memory_option
@json_option
def backup(folder: str, force: bool, memory: str, as_json: bool) -> None:
    """Copy the memory, as it is now, into a folder that is itself a memory; others may use it meanwhile.

    \b
    Examples:
      memedit backup backups/monday
      memedit list --memory backups/monday
    """
    with existing(memory, readonly=True) as m, progress("copying") as bar:
        copied = m.backup(folder, force=force, progress=bar)
    if as_json:
        print_json(asdict(copied))
    else:
        click.echo(f"backed up {counted(copied.edits, 'live edit')} ({_size(copied.bytes)}) to {folder}")


@click.command()
@click.argument("folder", type=click.Path(file_okay=False))
@click.option(
    "--force", is_flag=True, help="Also where the memory holds edits: the backup takes their place."
)
@memory_option
@json_option
def restore(folder: str, force: bool, memory: str, as_json: bool) -> None:
    """Put a backup in the place of the memory, in one step, after looking whether the backup is whole.

    Programs that have the memory open see the restored one at their next query.

    \b
    Examples:
      memedit restore backups/monday
      memedit restore backups/monday --force
    """
    from memedit.memory import restore as put_back

    with progress("copying") as bar:
        copied = put_back(folder, memory, force=force, progress=bar)
    if as_json:
        print_json(asdict(copied))
    else:
        click.echo(f"restored {memory} from {folder}: {counted(copied.edits, 'live edit')}")


@click.command()
@memory_option
@json_option
def compact(memory: str, as_json: bool) -> None:
    """Give back space: holes in the database, its log, vectors and files that belong to nothing. No edit goes.

    \b
    Example:
      memedit compact
    """
    with existing(memory) as m, progress("compacting"):
        done = m.compact()
    if as_json:
        print_json(asdict(done))
        return
    click.echo(f"compacted {memory}: {_size(done.before)} before, {_size(done.after)} after")
    if done.waits:
        click.echo("  the log is emptied when the programs that read the memory let it go")


def _size(count: int) -> str:
    """Bytes in words."""
    if count < 1 << 20:
        return f"{count / 1024:,.1f} KiB"
    return f"{count / (1 << 20):,.1f} MiB"
