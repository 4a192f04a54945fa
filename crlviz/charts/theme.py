"""The look of charts: the theme, styles for print, and colors of depths."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec

import altair as alt
import numpy as np

FONT = "DejaVu Sans, Helvetica, Arial, sans-serif"
LABEL, TITLE = 11, 14  # pixels of the labels of axes, and of a picture's title, on the screen
SOLID: list[int] = []  # no dashes; some PDF viewers draw [1, 0] as very fine dashes
CM = 96 / 2.54  # pixels
POINT = 96 / 72  # pixels
_NARROW = 12  # cm; a narrower picture has one panel a row

# Colors of depths 4, 16, 64, 256 and 1,024, interpolated in the logarithm of depth: deeper stands out more from the
# background, darker on white and lighter on black.
_DEPTH_STOPS = ("#f2b035", "#e0604c", "#a8326e", "#611f76", "#22103f")
_DEPTH_STOPS_DARK = ("#7d55c7", "#c2519b", "#ec7f66", "#f9b85f", "#f7f3a1")


@dataclass(frozen=True)
class Style:
    """How a picture is drawn.

    Attributes:
      dark: light on black.
      width_cm: width in print; None: as large as its panels are on a screen.
      points: font size of the labels of axes, in points at the final width; None: 11 pixels on a screen.
      title: with the title that states the claim.
      fonts: factor of all font sizes before the picture is scaled to its final width; found by ``fitted``.
    """

    dark: bool = False
    width_cm: float | None = None
    points: float | None = None
    title: bool = True
    fonts: float = 1.0

    @property
    def narrow(self) -> bool:
        """Whether panels stand below each other."""
        return self.width_cm is not None and self.width_cm < _NARROW


STYLES = {
    "notebook": Style(),
    "paper": Style(width_cm=17.0, points=7.0),
    "talk": Style(width_cm=28.0, points=14.0),
    "dark": Style(dark=True),
}
_STYLE: ContextVar[Style] = ContextVar("style", default=STYLES["notebook"])


def style() -> Style:
    """The style of the picture that is being drawn."""
    return _STYLE.get()


@contextlib.contextmanager
def styled(chosen: Style) -> Iterator[None]:
    """Context in which pictures are drawn in a style."""
    token = _STYLE.set(chosen)
    try:
        yield
    finally:
        _STYLE.reset(token)


def font(size: float) -> float:
    """Pixels of a text that has ``size`` pixels on a screen, in the style that is being drawn."""
    return round(size * style().fonts, 2)


def text_width(text: str, size: float = LABEL) -> float:
    """About how many pixels wide a text is, in the style that is being drawn."""
    return 0.6 * font(size) * len(text)


def ink(share: float = 1.0) -> str:
    """The color between the background (share 0) and the color of text (share 1)."""
    return blend("#16181d", "#f2f2f2", share) if style().dark else blend("#ffffff", "#1a1a1a", share)


@alt.theme.register("crlviz", enable=False)
def _theme() -> alt.theme.ThemeConfig:
    lines: dict[str, Any] = {"domainColor": ink(0.55), "tickColor": ink(0.55), "gridColor": ink(0.1)}
    labels: dict[str, Any] = {"labelFontSize": font(LABEL), "titleFontSize": font(12), "titleFontWeight": "normal"}
    colors: dict[str, Any] = {"labelColor": ink(), "titleColor": ink()}
    title: dict[str, Any] = {
        "fontSize": font(TITLE),
        "color": ink(),
        "subtitleFontSize": font(12),
        "subtitleColor": ink(0.7),
    }
    config: Any = {
        "config": {
            "font": FONT,
            "background": ink(0),
            "title": {"anchor": "start", "offset": 8, **title},
            "axis": {**labels, **colors, **lines},
            # A label at an end of an axis stays inside it, so that the titles of a row of panels align.
            "axisYQuantitative": {"labelFlush": True},
            "legend": {"labelLimit": 600, **labels, **colors},
            "header": {**labels, **colors},
            "text": {"color": ink(), "fontSize": font(LABEL)},
            "view": {"stroke": "transparent"},
        }
    }
    return config


@contextlib.contextmanager
def our_settings(chosen: Style) -> Iterator[None]:
    """Context in which Altair uses crlviz's theme and accepts tables of any length; restores the user's settings."""
    # A map has one row per point, and Altair refuses more than 5,000 rows.
    with styled(chosen), alt.theme.enable("crlviz"), alt.data_transformers.enable("default", max_rows=None):
        yield


P = ParamSpec("P")


def self_contained(plot: Callable[P, alt.TopLevelMixin]) -> Callable[P, alt.TopLevelMixin]:
    """Decorator: the function's charts look the same in any session; its theme and row limit do not apply.

    A chart and its copies (``chart.properties(...)``) keep crlviz's settings and their style when they are shown or
    saved. The sum of two charts is a plain Altair chart and has the session's settings.
    """

    @functools.wraps(plot)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> alt.TopLevelMixin:
        chart = plot(*args, **kwargs)
        kind: Any = type(chart)
        kind = kind.__base__ if hasattr(kind, "crlviz_style") else kind
        ours = object.__new__(_with_our_settings(kind, style()))
        ours.__dict__.update(chart.__dict__)  # a chart's constructor would validate all its parts again
        return ours

    return wrapper


@functools.cache
def _with_our_settings(kind: Any, chosen: Style) -> Any:
    """A subclass of a kind of chart, such as ``alt.LayerChart``, that is written with our settings."""

    def to_dict(self: Any, *args: Any, **options: Any) -> dict[str, Any]:
        with our_settings(chosen):
            spec = kind.to_dict(self, *args, **options)
        return spec if chosen.title else {name: part for name, part in spec.items() if name != "title"}

    return type(kind.__name__, (kind,), {"to_dict": to_dict, "__doc__": kind.__doc__, "crlviz_style": chosen})


def style_of(chart: alt.TopLevelMixin) -> Style:
    """The style in which a chart was drawn."""
    return getattr(chart, "crlviz_style", STYLES["notebook"])


def depth_color(depth: float) -> str:
    """The color of a depth, as #rrggbb."""
    stops = _DEPTH_STOPS_DARK if style().dark else _DEPTH_STOPS
    position = min(max(math.log(max(depth, 1) / 4, 4), 0), len(stops) - 1)
    low = min(int(position), len(stops) - 2)
    return blend(stops[low], stops[low + 1], position - low)


def blend(a: str, b: str, share: float) -> str:
    """Linear interpolation from color a (share 0) to color b (share 1), all as #rrggbb."""
    first, second = (np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)]) for color in (a, b))
    return "#" + "".join(f"{round(value):02x}" for value in first + share * (second - first))
