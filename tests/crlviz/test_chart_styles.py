"""Styles for print: width, fonts, title, colors; and the explanation that goes to pages."""

import io
import itertools
import re

import altair as alt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from crlviz import charts
from crlviz.charts import Style
from crlviz.errors import UsageError


@charts.self_contained
def plot():
    data = pd.DataFrame({"a": [1, 2], "b": [3, 4]})
    panel = alt.Chart(data).mark_line().encode(x="a:Q", y="b:Q").properties(width=300, height=200)
    return charts.claimed(charts.row(panel, panel), "Deeper is better", "two seeds", "Left is < right.")


def wide(svg):
    """Width of an svg in the units of its contents."""
    return float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])


@pytest.mark.parametrize(("cm", "points"), [(8.5, 6), (17, 7), (28, 14)])
def test_width_and_labels_have_their_size_on_paper(cm, points):
    chart = charts.fitted(plot, Style(width_cm=cm, points=points))
    svg = charts.render(chart, ".svg").decode()
    assert f'width="{cm:g}cm"' in svg
    labels = {float(size) for size in re.findall(r'font-size="([\d.]+)px"', svg)}
    assert min(labels) * cm / 2.54 * 72 / wide(svg) == pytest.approx(points, rel=0.04)
    page = re.search(rb"/MediaBox\s*\[\s*0 0 ([\d.]+)", charts.render(chart, ".pdf"))
    assert float(page[1]) == pytest.approx(cm / 2.54 * 72, rel=0.01)
    png = Image.open(io.BytesIO(charts.render(chart, ".png")))
    assert png.width == pytest.approx(cm / 2.54 * 300, rel=0.01)


def test_text_stays_text_and_a_narrow_picture_has_one_panel_a_row():
    broad, narrow = (charts.render(charts.fitted(plot, Style(width_cm=cm)), ".svg").decode() for cm in (17, 8.5))
    assert "Deeper is better" in broad
    across, down = (float(re.search(r'height="([\d.]+)cm"', svg)[1]) for svg in (broad, narrow))
    assert down / 8.5 > 1.5 * across / 17


def test_without_a_title():
    spec = charts.fitted(plot, Style(title=False)).to_dict()
    assert "Deeper is better" not in str(spec)
    assert "Deeper is better" in str(plot().to_dict())


def test_labels_that_do_not_fit():
    with pytest.raises(UsageError, match=r"labels of 30 points leave no room for the picture in 6 cm"):
        charts.fitted(plot, Style(width_cm=6, points=30))


def test_dark_is_light_on_black_and_deeper_is_lighter():
    def luminance(color):
        return sum(weight * int(color[k : k + 2], 16) for weight, k in ((0.2126, 1), (0.7152, 3), (0.0722, 5)))

    with charts.styled(charts.STYLES["dark"]):
        shades = [luminance(charts.depth_color(depth)) for depth in (4, 8, 16, 64, 256, 1024)]
    assert all(b > a + 3 for a, b in itertools.pairwise(shades))
    png = charts.render(charts.fitted(plot, charts.STYLES["dark"]), ".png")
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    assert np.median(pixels) < 40
    assert pixels.max() > 200


def test_a_chart_keeps_the_style_it_was_drawn_in():
    dark = charts.fitted(plot, charts.STYLES["dark"])
    assert dark.to_dict()["config"]["background"] == dark.properties(spacing=3).to_dict()["config"]["background"]
    assert plot().to_dict()["config"]["background"] == "#ffffff"


def test_the_explanation_is_folded_below_the_picture_of_a_page(tmp_path, open_page):
    charts.save(plot(), tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    page.wait_for_selector("svg")
    words = page.locator("details p")
    assert not words.is_visible()
    page.get_by_text("How to read this").click()
    assert words.is_visible()
    assert words.inner_text() == "Left is < right."
    assert "Left is" not in page.locator("svg.marks").text_content()


def test_labels_are_as_near_as_can_be_to_their_lines():
    values = np.array([0.1, 0.5, 0.51, 0.52, 0.9])
    places = charts.spread(values, 0.1, (0.0, 1.0))
    assert (np.diff(places) >= 0.1 - 1e-9).all()
    assert places[0] == pytest.approx(0.1)
    assert places[4] == pytest.approx(0.9)
    np.testing.assert_allclose(places[1:4], [0.41, 0.51, 0.61])  # around their middle
    assert charts.spread(np.linspace(0, 1, 20), 0.1, (0.0, 1.0)) is None
    assert charts.spread(np.array([0.0, 0.0]), 0.1, (0.0, 1.0)) == pytest.approx([0.05, 0.15])  # inside the panel
