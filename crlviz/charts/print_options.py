"""Options of a command for the style of its picture in print, and the picture drawn in that style."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import altair as alt
import click

from crlviz.charts.files import fitted
from crlviz.charts.theme import STYLES, style
from crlviz.errors import UsageError

_STYLE = "crlviz.style"  # key in a command's context


def printed(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options for print, as a decorator: they put a ``Style`` into the command's context."""

    def put(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is None or value is False:
            return
        chosen = context.meta.get(_STYLE, STYLES["notebook"])
        if parameter.name == "style":  # eager, so the others change it
            chosen = STYLES[value]
        elif parameter.name == "no_title":
            chosen = replace(chosen, title=False)
        elif value <= 0:
            raise UsageError(f"{parameter.opts[0]} {value:g}: it must be above 0")
        else:
            chosen = replace(chosen, **{str(parameter.name): value})
        context.meta[_STYLE] = chosen

    shared: dict[str, Any] = {"callback": put, "expose_value": False}
    options = (
        click.option("--no-title", is_flag=True, help="Leave the title to the caption.", **shared),
        click.option("--font-size", "points", type=float, help="Of labels, in points at that width.", **shared),
        click.option("--width-cm", type=float, help="Width of the picture in print.", **shared),
        click.option(
            "--style",
            type=click.Choice(list(STYLES)),
            is_eager=True,
            help="paper: 17 cm, 7 points; talk: 28 cm, 14 points; notebook (default): for a screen; dark: on black.",
            **shared,
        ),
    )
    return functools.reduce(lambda decorated, option: option(decorated), options, command)


def draw(plot: Callable[[], alt.TopLevelMixin]) -> alt.TopLevelMixin:
    """Draw a picture in the style that the options of the running command ask for."""
    context = click.get_current_context(silent=True)
    return fitted(plot, context.meta.get(_STYLE, style()) if context else style())
