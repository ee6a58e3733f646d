"""The option --scope: another scope classifier than the shipped one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from memedit.errors import ModelError


def _classifier(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """A classifier's folder, looked at before anything is loaded.

    Raises:
        ModelError: it holds none.
    """
    if value is not None and not (Path(value) / "scope.json").is_file():
        raise ModelError(
            f"{value} holds no scope classifier; make one with `memedit train scope`, or leave --scope out"
        )
    return value


scope_option = click.option(
    "--scope",
    envvar="MEMEDIT_SCOPE",
    show_envvar=True,
    callback=_classifier,
    metavar="DIR",
    help="Let this scope classifier decide, made by `memedit train scope`.  [default: the shipped one]",
)


def deciding(scope: str | None, device: str | None = None) -> dict[str, Any]:
    """What a memory is opened with, so that the classifier of --scope encodes and decides."""
    if scope is None:
        return {"device": device}

    def load() -> Any:
        from memedit.devices import best
        from memedit.scope import ScopeClassifier

        return ScopeClassifier.load(scope, device=best(device))

    return {"encoder": load, "device": device}
