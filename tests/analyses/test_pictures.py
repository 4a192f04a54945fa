"""Every picture with few and many checkpoints: no text on another, none cut off; and against kept images."""

import io
import itertools
import shutil
import subprocess
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
ENGINES = ("chromium", "poppler", "resvg")
WIDE = 1000  # pixels at which engines are compared
BLOCK = 32  # pixels of the squares in which they are
# Mean difference of gray values, of 1, over the picture and in the worst square. Edges differ by up to 0.071 there,
# another font by 0.096.
ENGINE_TOLERANCE, BLOCK_TOLERANCE = 0.02, 0.085


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


@pytest.mark.slow
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


def rasters(drawn, browser, folder):
    """A picture by three engines, as gray values [height, width]: its svg, its pdf and its png."""
    for ending in (".svg", ".pdf"):
        (folder / f"picture{ending}").write_bytes(drawn.file(ending))
    (folder / "page.html").write_text(
        f'<body style="margin:0"><img src="picture.svg" style="display:block;width:{WIDE}px">'
    )
    page = browser.new_page(viewport={"width": WIDE, "height": 800})
    page.goto((folder / "page.html").as_uri())
    page.locator("img").screenshot(path=folder / "chromium.png")
    page.close()
    scaled = ["-scale-to-x", str(WIDE), "-scale-to-y", "-1"]
    subprocess.run(["pdftoppm", "-png", "-singlefile", *scaled, folder / "picture.pdf", folder / "poppler"], check=True)
    png = Image.open(io.BytesIO(drawn.file(".png"))).convert("RGB")
    png.resize((WIDE, round(png.height * WIDE / png.width)), Image.Resampling.LANCZOS).save(folder / "resvg.png")
    images = [Image.open(folder / f"{engine}.png").convert("L") for engine in ENGINES]
    heights = [image.height for image in images]
    assert max(heights) - min(heights) <= 2
    return {
        engine: np.asarray(image.crop((0, 0, WIDE, min(heights))), float) / 255
        for engine, image in zip(ENGINES, images, strict=True)
    }


@pytest.fixture
def poppler():
    if shutil.which("pdftoppm") is None:
        pytest.skip("there is no poppler to draw the pdf: apt-get install poppler-utils")


def engine_difference(one, other):
    """Mean difference over the picture and in its worst square, after averages over 4 pixels that blur edges."""
    height, width = (size // BLOCK * BLOCK for size in one.shape)
    small = [each[:height, :width].reshape(height // 4, 4, width // 4, 4).mean((1, 3)) for each in (one, other)]
    gap = abs(small[0] - small[1])
    side = BLOCK // 4
    return gap.mean(), gap.reshape(height // BLOCK, side, width // BLOCK, side).mean((1, 3)).max()


@pytest.mark.slow
@pytest.mark.parametrize("style", ["notebook", "paper"])
@pytest.mark.parametrize("name", ["heatmap", "efficiency", "embed", "norms"])
def test_three_engines_draw_the_same_picture(name, style, browser, poppler, tmp_path):
    drawn = charts.Rendering(draw(name, 3, False, 3, style=charts.STYLES[style]))
    shown = rasters(drawn, browser, tmp_path)
    for one, other in itertools.combinations(ENGINES, 2):
        everywhere, worst = engine_difference(shown[one], shown[other])
        assert everywhere < ENGINE_TOLERANCE, f"{one} and {other} differ by {everywhere:.4f}"
        assert worst < BLOCK_TOLERANCE, f"{one} and {other} differ by {worst:.3f} somewhere"


@pytest.mark.slow
def test_another_font_is_a_difference_of_engines(browser, poppler, tmp_path, monkeypatch):
    drawn = charts.Rendering(draw("efficiency", 3, False, 3))
    file = drawn.file

    def other_font(ending):
        return file(ending).replace(b"DejaVu Sans", b"DejaVu Serif") if ending == ".svg" else file(ending)

    monkeypatch.setattr(drawn, "file", other_font)
    shown = rasters(drawn, browser, tmp_path)
    assert engine_difference(shown["poppler"], shown["resvg"])[1] < BLOCK_TOLERANCE
    assert engine_difference(shown["chromium"], shown["resvg"])[1] > BLOCK_TOLERANCE
