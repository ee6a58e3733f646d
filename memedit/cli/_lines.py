"""Warnings and notes as lines for people, on standard error."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from memedit.errors import ContextWarning


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """What memedit warns of is meant for people: one line, without file and line number."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, ContextWarning):
                click.echo(f"warning: {message}", err=True)
            else:
                shown(message, category, *where, **more)

        warnings.showwarning = show
        yield


@contextmanager
def log_as_lines() -> Iterator[None]:
    """What memedit notes while it works (a patch prepared, a covariance estimated): a line on standard error."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            click.echo(record.getMessage(), err=True)

    log, handler = logging.getLogger("memedit"), Lines()
    before = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
