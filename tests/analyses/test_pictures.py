"""Every picture with few and many checkpoints: no text on another, none cut off; and against kept images."""

import io
import itertools
from functools import partial

import numpy as np
import pytest
from PIL import Image

from analyses import calibrate, embed, evaluation, norms, stitch
from analyses.heatmap import q_map
from analyses.sweeps import efficiency, profiles, scaling
from crlviz import charts
from tests.helpers import pictured

PICTURES = {
    "eval": (pictured.evaluated, partial(evaluation.plot, maze=pictured.MAZE)),
    "heatmap": (pictured.mapped, partial(q_map.plot, tips=False)),
    "stitch": (pictured.stitched, stitch.plot),
    "embed": (pictured.embedded, embed.plot),
    "calibrate": (pictured.calibrated, calibrate.plot),
    "norms": (pictured.normed, norms.plot),
    "scaling": (pictured.swept, partial(scaling.plot, metric="success")),
    "profiles": (pictured.profiled, partial(profiles.plot, metric="success")),
    "efficiency": (pictured.swept, partial(efficiency.plot, metric="success")),
}
KEPT_PIXELS = 420  # width of the kept images: that of a phone
TOLERANCE = 0.012  # mean difference of gray values, of 1; another version of a renderer moves edges by less


def draw(name, *kind, style=charts.STYLES["notebook"]):
    build, plot = PICTURES[name]
    dataset = build(*kind)
    return charts.fitted(lambda: plot(dataset), style)


def check_texts(chart):
    """No text lies on another or leaves the canvas, by the measures of the font that charts ask for."""
    svg = charts.render(chart, ".svg").decode()
    try:
        found, (width, height) = pictured.texts(svg)
    except OSError:  # only the font's file is opened here
        pytest.skip("DejaVu Sans is not installed: apt-get install fonts-dejavu-core")
    assert len(found) > 5
    for text in found:
        inside = text.left >= -1 and text.top >= -1 and text.right <= width + 1 and text.bottom <= height + 1
        assert inside, f"{text} leaves the canvas of {width} x {height}"
    for one, other in itertools.combinations(found, 2):
        assert not one.overlaps(other), f"{one} lies on {other}"


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param((3, True, 1), id="3 with long labels"),
        pytest.param((8, False, 3), id="8 of three seeds", marks=pytest.mark.slow),
        pytest.param((20, False, 1), id="20 of one seed", marks=pytest.mark.slow),
    ],
)
def test_no_text_lies_on_another_or_leaves_the_canvas(name, kind):
    check_texts(draw(name, *kind))


def test_the_measure_finds_what_lies_on_another():
    import altair as alt
    import pandas as pd

    data = pd.DataFrame({"x": [0, 0], "y": [0, 0.02], "words": ["one", "other"]})
    chart = (
        alt.Chart(data)
        .mark_text()
        .encode(x="x:Q", y=alt.Y("y:Q").scale(domain=[0, 1]), text="words")
        .properties(title="more " * 20)
    )
    with pytest.raises(AssertionError, match="lies on"):
        check_texts(chart)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_look_as_they_were_kept(name, data):
    """The kept images are made anew by removing them, and are looked at before they are committed."""
    chart = draw(name, 3, False, 3)
    check_texts(chart)
    png = Image.open(io.BytesIO(charts.render(chart, ".png"))).convert("L")
    drawn = png.resize((KEPT_PIXELS, round(png.height * KEPT_PIXELS / png.width)), Image.Resampling.LANCZOS)
    kept = data / "pictures" / f"{name}.png"
    if not kept.exists():
        drawn.quantize(32).save(kept, optimize=True)
        pytest.fail(f"there was no {kept}; now there is")
    before = Image.open(kept).convert("L")
    assert abs(before.height - drawn.height) <= 2
    drawn = drawn.resize(before.size)
    difference = np.abs(np.asarray(before, float) - np.asarray(drawn, float)).mean() / 255
    assert difference < TOLERANCE, f"{name} differs from its kept image by {difference:.4f}"
