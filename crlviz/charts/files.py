"""Charts as files and as parts of pages."""

import functools
import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt

from crlviz.charts.theme import CM, LABEL, POINT, STYLES, Style, our_settings, style_of, styled
from crlviz.checkpoints import atomic_files
from crlviz.errors import UsageError
from crlviz.escaping import script_json

ENDINGS = (".html", ".png", ".svg", ".pdf", ".json")
HELP = "how_to_read"  # where a chart's and a Dataset's attributes keep the explanation
_FITTING, _LARGEST = 6, 2.6  # passes to fit fonts to a width, and how large they may become against the panels
_SHARP = 2  # pixels of a png for each pixel of a picture on a screen
_PRINT = 300 / 2.54  # pixels of a png for each cm of a picture that has a width in print


def check_endings(paths: Sequence[Path], also: Sequence[str] = ()) -> None:
    """Check output files before anything is computed.

    Args:
      paths: the files.
      also: endings allowed besides ``ENDINGS``.

    Raises:
      UsageError: unknown ending, or no such directory.
      WriteError: the directory is not writable.
    """
    for path in paths:
        if path.suffix not in (*ENDINGS, *also):
            raise UsageError(f"cannot tell the format of {path}: its name should end in {' '.join((*ENDINGS, *also))}")
        atomic_files.check_writable(path)


def save(chart: alt.TopLevelMixin, path: str | Path) -> None:
    """Write a chart in the format given by the path's ending. HTML files are self-contained and need no network.

    Raises:
      UsageError: unknown ending, or no such directory.
      CrlvizError: the file cannot be written.
    """
    path = Path(path)
    check_endings([path])
    atomic_files.write(path, render(chart, path.suffix))


def render(chart: alt.TopLevelMixin, ending: str) -> bytes:
    """Encode a chart in the format of an ending, one of ``ENDINGS``, as wide as its style says."""
    return Rendering(chart).file(ending)


class Rendering:
    """A chart in several formats. What they share, the specification and the svg, is computed once."""

    def __init__(self, chart: alt.TopLevelMixin) -> None:
        self._style = style_of(chart)
        self._spec = _spec(chart)

    @functools.cached_property
    def _svg(self) -> str:
        import vl_convert

        return vl_convert.vegalite_to_svg(self._spec)

    def file(self, ending: str) -> bytes:
        """Content of a file with this ending, one of ``ENDINGS``, as wide as the chart's style says."""
        import vl_convert

        cm = self._style.width_cm
        if ending == ".html":
            head = f'<meta charset="utf-8"><title>{html.escape(_title(self._spec))}</title>'
            head += f"<script>{embed_script()}</script>"
            body = self.embed("chart", menu=True)
            return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'.encode()
        if ending == ".png":
            return vl_convert.svg_to_png(self._svg, scale=cm * _PRINT / _size(self._svg)[0] if cm else _SHARP)
        if ending == ".svg":
            return _as_wide(self._svg, cm, "cm").encode()
        if ending == ".pdf":
            points = cm / 2.54 * 72 if cm else None  # vl_convert makes a pixel of an svg a point of a pdf
            return vl_convert.svg_to_pdf(_as_wide(self._svg, points, ""))
        return (json.dumps(self._spec, indent=1) + "\n").encode()

    def embed(self, name: str, *, menu: bool = False) -> str:
        """HTML that draws the chart, as ``embed``."""
        name, options = html.escape(name), script_json({"actions": menu, "renderer": "svg"})
        script = f'vegaEmbed("#{name}", {script_json(self._spec)}, {options});'
        told = html.escape(self._spec.get("usermeta", {}).get(HELP, ""))
        details = f"<details><summary>How to read this</summary><p>{told}</p></details>" if told else ""
        # A picture wider than the window, as on a phone, shrinks.
        looks = f"#{name} svg {{ max-width: 100%; height: auto; }}"
        looks += f"#{name} svg {{ width: {self._style.width_cm * CM:.0f}px; }}" if self._style.width_cm else ""
        looks += "body { background: #16181d; color: #f2f2f2; }" if self._style.dark else ""
        return f'<style>{looks}</style><div id="{name}"></div>{details}<script>{script}</script>'


def fitted(plot: Callable[[], alt.TopLevelMixin], chosen: Style) -> alt.TopLevelMixin:
    """Draw a picture in a style, with fonts that have their size in points when the picture has its final width.

    Larger fonts make a picture wider, so this takes a few passes.

    Args:
      plot: draws it; decorated with ``self_contained``.
      chosen: the style; its ``fonts`` are found here.

    Raises:
      UsageError: fonts of this size do not fit into this width.
    """
    if chosen.width_cm is not None and chosen.points is None:
        chosen = replace(chosen, points=STYLES["paper"].points)
    if chosen.points is None:
        with styled(chosen):
            return plot()
    for _ in range(_FITTING):
        with styled(chosen):
            chart = plot()
        wide = pixels_wide(chart)
        final = wide if chosen.width_cm is None else chosen.width_cm * CM
        fonts = chosen.points * POINT / LABEL * wide / final
        if fonts > _LARGEST:
            raise UsageError(
                f"labels of {chosen.points:g} points leave no room for the picture in {final / CM:.3g} cm; "
                "take a smaller --font-size or a larger --width-cm"
            )
        if abs(fonts / chosen.fonts - 1) < 0.02:
            break
        chosen = replace(chosen, fonts=fonts)
    return chart


def pixels_wide(chart: alt.TopLevelMixin) -> float:
    """The width of a chart in pixels, as it is on a screen."""
    import vl_convert

    return _size(vl_convert.vegalite_to_svg(_spec(chart)))[0]


def _size(svg: str) -> tuple[float, float]:
    """Width and height of an svg in pixels."""
    width, height = (re.search(rf'^<svg[^>]*? {side}="([\d.]+)', svg) for side in ("width", "height"))
    assert width is not None
    assert height is not None
    return float(width[1]), float(height[1])


def _as_wide(svg: str, wide: float | None, unit: str) -> str:
    """The svg with another width, and the height that goes with it."""
    if wide is None:
        return svg
    width, height = _size(svg)
    head, end, rest = svg.partition(">")
    head = re.sub(r' width="[\d.]+"', f' width="{wide:g}{unit}"', head)
    return re.sub(r' height="[\d.]+"', f' height="{wide * height / width:.6g}{unit}"', head) + end + rest


def _spec(chart: alt.TopLevelMixin) -> dict[str, Any]:
    with our_settings(style_of(chart)):
        return chart.to_dict()


def _title(spec: Mapping[str, Any]) -> str:
    """A chart's title, or the first title among its parts."""
    title = spec.get("title", "")
    text = title["text"] if isinstance(title, dict) else title
    if text:
        return text if isinstance(text, str) else " ".join(text)
    parts = (part for kind in ("vconcat", "hconcat", "concat", "layer") for part in spec.get(kind, []))
    return next(filter(None, map(_title, parts)), "crlviz")


@functools.cache
def embed_script() -> str:
    """JavaScript that defines ``vegaEmbed``, for self-contained pages with one or more charts."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def embed(chart: alt.TopLevelMixin, name: str, *, menu: bool = False) -> str:
    """HTML that draws a chart in a page that contains ``embed_script``, with a folded line on how to read it.

    Args:
      chart: the chart.
      name: id of its element in the page.
      menu: show Vega's menu to save the chart as a picture.
    """
    return Rendering(chart).embed(name, menu=menu)
