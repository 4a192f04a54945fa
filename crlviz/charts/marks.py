"""Parts of plots: titles that state a claim, marks of seeds, labels at line ends, axes and legends."""

import textwrap
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from crlviz.charts.files import HELP
from crlviz.charts.theme import LABEL, TITLE, blend, font, ink, style, text_width

_LINE = 1.2  # height of a line of text against its font
_FARTHEST = 2.5  # lines of text that a label may lie away from its line's end
_SAME_END = 0.1  # lines that end within this share of x are named at one place
_NARROWEST = 560  # pixels: what a title's lines have at least
_AXIS = 58  # pixels that an axis takes


def claimed(chart: Any, claim: str, note: str = "", how_to_read: str = "") -> Any:
    """The chart under a title that states its claim.

    Args:
      chart: a concatenation of panels, or a panel without a title.
      claim: what the picture shows, in the words of ``crlviz.statistics`` where it says that something is better.
      note: one short line below it: environment, seeds.
      how_to_read: goes to the page, folded, and not into the picture.
    """
    wide = max(_NARROWEST, _width(chart))
    title = alt.TitleParams(
        _wrapped(claim, wide, 1.1 * TITLE),
        subtitle=_wrapped(note, wide, 12),
        anchor="start",
        offset=14,
        lineHeight=font(_LINE * TITLE),
        subtitleLineHeight=font(_LINE * 12),
    )
    told = {"usermeta": {HELP: how_to_read}} if how_to_read else {}
    return chart.properties(title=title, **told)


def _width(chart: Any) -> float:
    """Approximate width in pixels of a chart that crlviz made."""
    spacing = chart.spacing if isinstance(getattr(chart, "spacing", None), (int, float)) else 20
    for name in ("hconcat", "vconcat", "concat"):
        if isinstance(parts := getattr(chart, name, None), list):
            widths = [_width(part) for part in parts]
            if name == "vconcat":
                return max(widths)
            columns = chart.columns if name == "concat" and isinstance(chart.columns, int) else len(widths)
            return max(sum(row) + spacing * (len(row) - 1) for row in _rows(widths, columns))
    width = getattr(chart, "width", None)
    return (width if isinstance(width, (int, float)) else 0) + font(_AXIS)


def _rows(parts: Sequence[Any], columns: int) -> list[Sequence[Any]]:
    return [parts[first : first + columns] for first in range(0, len(parts), columns)]


def _wrapped(text: str, wide: float, size: float) -> list[str]:
    """Lines of a text of about this width in pixels."""
    text = text.replace(" %", "\u00a0%")  # a number keeps its sign
    return textwrap.wrap(text, max(16, int(wide / text_width("n", size)))) or [""]


def panel_title(label: str, pixels: float, lines: int = 1) -> alt.TitleParams:
    """A panel's title, wrapped to the panel's width in pixels, as a label may name many settings.

    Args:
      label: the title.
      pixels: width of the panel.
      lines: height of the title in lines, if the others of its row have as many.
    """
    text = _wrapped(label, pixels, 12.5)
    return alt.TitleParams(
        [*[""] * (lines - len(text)), *text],
        anchor="start",
        frame="group",
        fontSize=font(12),
        lineHeight=font(_LINE * 12),
        offset=10,
    )


def panel_titles(labels: Sequence[str], pixels: float) -> list[alt.TitleParams]:
    """Titles of a row of panels, all of one height."""
    most = max(len(_wrapped(label, pixels, 12.5)) for label in labels)
    return [panel_title(label, pixels, most) for label in labels]


def row(*panels: Any, columns: int = 0, spacing: int = 28) -> Any:
    """Panels side by side, at most ``columns`` in a row; below each other in a narrow picture."""
    columns = 1 if style().narrow else columns or len(panels)
    if len(panels) <= columns:
        return alt.hconcat(*panels, spacing=spacing)
    return alt.concat(*panels, columns=columns, spacing=spacing)


def seed_marks(
    table: pd.DataFrame, value: alt.X | alt.Y, *, tooltip: Sequence[str] = (), **channels: Any
) -> list[alt.Chart]:
    """Two layers: a small mark per seed and a large mark at their mean.

    No intervals are drawn: with few seeds and skewed scores, no interval has its nominal coverage.

    Args:
      table: one row per group: ``values`` (one number per seed), ``value`` (their mean), and the channels' columns.
      value: encoding of ``value``, along x or y.
      tooltip: columns shown in the tooltip of the mean.
      channels: further encodings of both layers.
    """
    seeds = table.drop(columns="value").explode("values").rename(columns={"values": "value"})
    means = table.drop(columns="values")
    return [
        alt.Chart(seeds).mark_point(size=22, opacity=0.5).encode(value, **channels),
        alt.Chart(means).mark_point(size=100, filled=True, opacity=1).encode(value, tooltip=list(tooltip), **channels),
    ]


def end_labels(
    ends: pd.DataFrame, x: alt.X, color: alt.Color, domain: tuple[float, float], height: float
) -> alt.Chart | None:
    """A layer that names each line at its right end; None if the names would not be near their lines.

    Args:
      ends: one row per line: ``group`` (its name), ``value`` (its height there) and the column of x.
      x: encoding of the lines.
      color: encoding of the lines.
      domain: lowest and highest value of the panel.
      height: of the panel in pixels.
    """
    field = str(x["shorthand"]).partition(":")[0]
    if len(ends) < 1 or np.ptp(ends[field]) > _SAME_END * abs(ends[field]).max():
        return None
    gap = font(_LINE * LABEL) * (domain[1] - domain[0]) / height
    ends = ends.sort_values("value")
    places = spread(ends["value"].to_numpy(float), gap, domain)
    if places is None or np.abs(places - ends["value"]).max() > _FARTHEST * gap:
        return None
    scale = dict(zip(color["scale"]["domain"], color["scale"]["range"], strict=True))
    # Light colors are hard to read as text.
    shades = [blend(scale[group], ink(), 0.4) for group in ends.group]
    y = alt.Y("label_y:Q", scale=alt.Scale(domain=list(domain)))
    data = pd.DataFrame({"group": ends.group, field: ends[field].max(), "label_y": places, "shade": shades})
    marks = alt.Chart(data).mark_text(align="left", baseline="middle", dx=10)
    return marks.encode(x=x, y=y, text="group:N", color=alt.Color("shade:N", scale=None, legend=None))


def spread(values: np.ndarray, gap: float, domain: tuple[float, float]) -> np.ndarray | None:
    """Places for labels of sorted values [N]: as near as can be to them, at least ``gap`` apart, inside the domain.

    None if there is no room.
    """
    from scipy.optimize import isotonic_regression

    steps = gap * np.arange(len(values))
    low, high = domain[0] + gap / 2, domain[1] - gap / 2
    if steps[-1] > high - low:
        return None
    return isotonic_regression(values - steps).x.clip(low, high - steps[-1]) + steps


def legend(**options: Any) -> alt.Legend:
    """A legend of groups, below its panels."""
    defaults: dict[str, Any] = {"title": None, "orient": "bottom", "direction": "horizontal", "symbolOpacity": 1}
    return alt.Legend(**defaults | {"columns": 4, "labelLimit": 400, "offset": 4} | options)


def label_axis(labels: Sequence[str], room: float) -> alt.Axis:
    """An axis of groups, with one line per setting in each label.

    Args:
      labels: the groups' labels, settings separated by ", ".
      room: pixels available for each label; if one is wider, all are rotated by 90 degrees.
    """
    lines = [label.split(", ") for label in labels]
    split: dict[str, Any] = {"labelExpr": "split(datum.label, ', ')", "labelLimit": 0}
    if max(text_width(line) for label in lines for line in label) <= room:
        return alt.Axis(labelAngle=0, **split)
    # In a rotated label, the first line is at the tick and the others are to its right, so the label is shifted left.
    return alt.Axis(labelAngle=-90, labelOffset=-font(6.5) * (max(map(len, lines)) - 1), **split)


def number_axis(**options: Any) -> alt.Axis:
    """An axis of numbers of any size, labeled 0.8, 200, 200k.

    SI suffixes are used from 1,000 on only: 0.8 would become 800m, which reads as meters, and zero would get a suffix.
    """
    text = "format(datum.value, abs(datum.value) < 1000 ? '.3~g' : '.3~s')"
    defaults: dict[str, Any] = {"grid": False, "labelExpr": text, "labelOverlap": "greedy", "labelSeparation": 6}
    return alt.Axis(**defaults | {"labelFlush": True} | options)


def layers(*charts: alt.Chart | None) -> Any:
    """Layer charts, leaving out those without data: Vega logs a warning for them in every page's console."""
    return alt.layer(*(chart for chart in charts if chart is not None and len(chart.data)))


def seed_note(counts: Sequence[int]) -> str:
    """Text on the number of seeds in a chart of ``seed_marks``, given the number in each group."""
    if max(counts) == 1:
        return "one seed"
    number = "-".join(map(str, sorted({min(counts), max(counts)})))
    return f"{number} seeds (small marks)"
