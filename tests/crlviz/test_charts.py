"""Charts: colors, file formats, layers, and self-contained pages."""

import base64
import io
import itertools
import json
import re

import altair as alt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from crlviz import charts
from crlviz.envs import mazes
from crlviz.errors import UsageError


def luminance(color: str) -> float:
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_deeper_is_darker():
    shades = [luminance(charts.depth_color(depth)) for depth in (4, 8, 12, 16, 32, 64, 128, 256, 512, 1024)]
    assert all(a > b + 3 for a, b in itertools.pairwise(shades))
    assert charts.depth_color(4096) == charts.depth_color(1024)


@pytest.fixture
def chart():
    return alt.Chart(pd.DataFrame({"a": [1, 2], "b": [3, 4]})).mark_point().encode(x="a", y="b")


@pytest.mark.parametrize(
    ("ending", "start"), [("html", b"<!"), ("png", b"\x89PNG"), ("svg", b"<svg"), ("pdf", b"%PDF"), ("json", b"{")]
)
def test_the_ending_gives_the_format(chart, tmp_path, ending, start):
    path = tmp_path / f"picture.{ending}"
    charts.save(chart, path)
    assert path.read_bytes().lstrip().lower().startswith(start.lower())
    assert list(tmp_path.iterdir()) == [path]


def test_several_formats_of_a_chart_share_what_is_slow(chart, monkeypatch):
    """One specification and one drawing, the same bytes as each format by itself."""
    import vl_convert

    alone = {ending: charts.render(chart, ending) for ending in charts.ENDINGS}
    counts = {"to_dict": 0, "svg": 0}
    specify, draw = alt.Chart.to_dict, vl_convert.vegalite_to_svg

    def counted(name, function):
        def call(*args, **options):
            counts[name] += 1
            return function(*args, **options)

        return call

    monkeypatch.setattr(alt.Chart, "to_dict", counted("to_dict", specify))
    monkeypatch.setattr(vl_convert, "vegalite_to_svg", counted("svg", draw))
    drawn = charts.Rendering(chart)
    files = {ending: drawn.file(ending) for ending in charts.ENDINGS}
    assert len(files.pop(".pdf")) == len(alone.pop(".pdf"))  # it holds the time at which it was written
    assert files == alone
    assert drawn.embed("here") == charts.embed(chart, "here")
    assert counts == {"to_dict": 2, "svg": 1}  # charts.embed(chart) specifies it once more


def test_html_needs_no_network(chart, tmp_path):
    charts.save(chart, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<script src=" not in text
    assert "import(" not in text.split("vegaEmbed")[0][:2000]
    assert len(text) > 500_000  # vega itself is inside


def test_unknown_ending(chart, tmp_path):
    with pytest.raises(UsageError, match=r"picture\.bmp: its name should end in"):
        charts.save(chart, tmp_path / "picture.bmp")
    with pytest.raises(UsageError, match="there is no directory"):
        charts.save(chart, tmp_path / "none" / "picture.png")


def test_embedded_charts_cannot_close_their_script_tag():
    chart = alt.Chart(pd.DataFrame({"a": ["</script><b>"]})).mark_text().encode(text="a")
    assert "</script><b>" not in charts.embed(chart, "name")


def test_maps_have_equal_axes():
    maze = mazes.get("u5_maze", cell_size=4.0)
    ground = charts.in_meters(maze, maze.extent, 400)
    assert (ground["width"], ground["height"]) == (400, 350)  # 8 columns, 7 rows
    assert ground["x"].to_dict()["scale"]["domain"] == [-2, 30]
    assert ground["y"].to_dict()["scale"]["domain"] == [-2, 26]


def test_a_map_leaves_out_the_outer_walls():
    maze = mazes.get("u5_maze", cell_size=4.0)
    assert charts.inside(maze) == (2, 22, 2, 26)
    ground = charts.in_meters(maze, charts.inside(maze), 120)
    drawn = charts.walls(maze, ground).properties(width=ground["width"], height=ground["height"])
    pixels = np.asarray(Image.open(io.BytesIO(charts.render(drawn, ".png"))).convert("L"))
    color = int(np.asarray(Image.new("RGB", (1, 1), charts.WALL).convert("L"))[0, 0])
    wall = (pixels <= color) & (pixels > color - 85)  # the hatching is darker, text is black
    # 5 x 6 cells of 40 pixels a side, at two pixels each.
    expected = maze.walls[1:-1, 1:-1].sum() * 40**2
    assert abs(wall.sum() - expected) < 0.15 * expected


@pytest.mark.parametrize("low", [-3.0, -2.5, 0.0, 1.25])
@pytest.mark.parametrize("size", [2, 3, 6, 19, 64, 500, 20_000])
def test_ticks_are_few_whole_meters_with_zero_among_them(low, size):
    ticks = charts.ticks(low, low + size)
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= low + size and tick == int(tick) for tick in ticks)
    assert len(set(np.diff(ticks))) == 1
    assert (0 in ticks) == (low <= 0 <= low + size)


def test_outline_is_the_regions_border():
    inside = np.zeros((4, 4), bool)
    inside[1:3, 1:3] = True
    inside[0, 2] = True
    ground = charts.in_meters(None, (0, 4, 0, 4), 100)
    data = charts.outline(inside, np.arange(4) + 0.5, np.arange(4) + 0.5, 1.0, ground).data
    # A 2 by 2 block with one more tile at its upper right has a border of six straight pieces.
    assert {(r.x, r.x2, r.y, r.y2) for r in data.itertuples()} == {
        (0, 0, 2, 3), (1, 1, 1, 2), (3, 3, 1, 3), (1, 3, 1, 1), (0, 1, 2, 2), (0, 3, 3, 3)
    }  # fmt: skip
    assert len(data) == 6


def test_a_veil_makes_pale_what_is_free_and_not_inside():
    free, inside = np.array([[1, 1, 0], [1, 1, 1]], bool), np.array([[1, 0, 0], [0, 0, 0]], bool)
    url = charts.veil(free, inside, charts.in_meters(None, (0, 2, 0, 3), 90)).data.url[0]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))
    side = len(pixels) // 2
    seen = pixels[side // 2 :: side, side // 2 :: side]
    assert (seen[..., :3] == 255).all()
    np.testing.assert_array_equal(seen[..., 3] > 0, [[False, True, False], [True, True, True]])
    assert 60 < seen[0, 1, 3] < 200  # what lies below stays visible


def test_json_is_the_specification(chart, tmp_path):
    charts.save(chart, tmp_path / "picture.json")
    saved, own = json.loads((tmp_path / "picture.json").read_text()), chart.to_dict()
    assert saved.pop("config")["font"] == charts.FONT
    assert own.pop("config").get("font") != charts.FONT  # the session's theme is unchanged
    assert saved == own


@pytest.mark.parametrize("show", [lambda chart: chart.to_dict(), lambda chart: json.loads(chart.to_json())])
def test_a_self_contained_chart_looks_the_same_in_every_session(show):
    long = pd.DataFrame({"a": np.arange(6000.0), "b": 1.0})  # Altair's limit is 5,000 rows
    plain = alt.Chart(long).mark_point().encode(x="a", y="b")
    ours = charts.self_contained(lambda: plain)()
    assert isinstance(ours, alt.Chart)
    with alt.theme.enable("dark"):
        shown, copied = show(ours), show(ours.properties(width=77))
        with pytest.raises(alt.MaxRowsError):
            show(plain)
    assert shown == json.loads(charts.render(plain, ".json"))
    assert shown["config"]["font"] == charts.FONT
    assert copied == shown | {"width": 77}


def test_a_self_contained_chart_is_shown_and_joined_as_any_other(chart, tmp_path):
    ours = charts.self_contained(lambda: chart)()
    assert charts.FONT in ours._repr_mimebundle_()["text/html"]  # what a notebook asks for
    joined = (ours & chart).to_dict()
    assert len(joined["vconcat"]) == 2
    assert joined["config"].get("font") != charts.FONT  # as in the session
    ours.save(tmp_path / "a.html")
    assert charts.FONT in (tmp_path / "a.html").read_text()


def test_long_labels_are_wrapped_or_rotated():
    long = "crl.learning_rate 0.0003, crl.logsumexp_penalty 0.1, num_envs 4"
    title = charts.panel_title(long, 260).to_dict()["text"]
    assert " ".join(title) == long
    assert max(map(len, title)) <= 260 / 7.5
    assert charts.label_axis(["depth 4", "depth 16, seed 0"], 65).to_dict()["labelAngle"] == 0
    on_end = charts.label_axis(["depth 4", long], 65).to_dict()
    assert (on_end["labelAngle"], on_end["labelLimit"]) == (-90, 0)


def test_a_page_has_its_charts_title_and_no_console_warnings(open_page, tmp_path):
    data = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    drawn = alt.Chart(data).mark_point().encode(x="a", y="b")
    empty = alt.Chart(data[data.a > 9]).mark_rule().encode(x="a", y="b")
    inside = alt.vconcat(charts.layers(drawn, empty).properties(title="inside"))
    for chart, title in ((inside, "inside"), (inside.properties(title=alt.TitleParams("Q < 0")), "Q < 0")):
        charts.save(chart, tmp_path / "page.html")
        page = open_page(tmp_path / "page.html")
        assert page.title() == title
        page.wait_for_selector("canvas, svg")


def _labels(axis: alt.Axis, low: float, high: float, kind: str, width: int) -> list[str]:
    data = pd.DataFrame({"a": [low, high]})
    x = alt.X("a:Q", axis=axis, scale=alt.Scale(type=kind, nice=False, domain=[low, high]))
    svg = charts.render(alt.Chart(data).mark_point().encode(x=x).properties(width=width), ".svg").decode()
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg)[:-1]  # the last one is the axis title


@pytest.mark.parametrize(
    ("low", "high", "kind"), [(0.3, 4, "log"), (0.2, 0.9, "linear"), (0, 800_000, "linear"), (9e3, 4e6, "log")]
)
def test_number_labels_are_correct_and_distinct(low, high, kind):
    for label in (labels := _labels(charts.number_axis(tickCount=4), low, high, kind, 165)):
        number, suffix = re.fullmatch(r"([\d.]+)([kM]?)", label).groups()  # never m, which reads as meters
        value = float(number) * {"": 1, "k": 1e3, "M": 1e6}[suffix]
        assert low * 0.99 <= value <= high * 1.01
        assert not (value == 0 and suffix)
    assert len(labels) == len(set(labels)) >= 2


@pytest.mark.parametrize("label", ["depth {}", "depth {}, 200,000 steps", "batch {}, network without LayerNorm"])
def test_group_labels_do_not_overlap(label, open_page, tmp_path):
    labels = [label.format(depth) for depth in (4, 16, 64)]
    data = pd.DataFrame({"group": labels, "b": [1.0, 2.0, 3.0]})
    x = alt.X("group:N", sort=labels, axis=charts.label_axis(labels, 65), title=None)
    chart = alt.Chart(data).mark_point().encode(x=x, y="b").properties(width=3 * 65)
    script = f"<body><script>{charts.embed_script()}</script>{charts.embed(chart, 'here')}"
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{script}", encoding="utf-8")
    page = open_page(tmp_path / "page.html")
    page.wait_for_selector("svg")
    texts = page.locator(".role-axis-label").first.locator("text")
    assert texts.count() == 3
    boxes = [box.bounding_box() for box in texts.all()]
    if "rotate(" in texts.first.get_attribute("transform"):
        return  # rotated labels are beside each other
    for left, right in itertools.pairwise(boxes):
        assert left["x"] + left["width"] < right["x"]


def test_a_solid_line_has_no_dashes():
    data = pd.DataFrame({"a": [1, 2, 1, 2], "b": [1, 2, 3, 4], "what": list("sstt")})
    scale = alt.Scale(domain=["s", "t"], range=[charts.SOLID, [5, 4]])
    line = alt.Chart(data).mark_line().encode(x="a", y="b", strokeDash=alt.StrokeDash("what:N", scale=scale))
    dashes = set(re.findall('stroke-dasharray="([^"]*)"', charts.render(line, ".svg").decode()))
    assert dashes == {"", "5,4"}


def test_a_raster_has_one_square_per_value():
    values = np.array([[0.0, 1.0, np.nan], [0.5, 2.0, -1.0]])
    ground = charts.in_meters(None, (0, 2, 0, 3), 300)
    image = charts.raster(values, (0.0, 1.0), "Q", ground).layer[0]
    png = base64.b64decode(image.data.url[0].partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    side = pixels.shape[0] // 2
    assert pixels.shape == (2 * side, 3 * side, 4)
    squares = pixels.reshape(2, side, 3, side, 4)
    assert (squares == squares[:, :1, :, :1]).all()
    colors = squares[:, 0, :, 0]
    assert colors[..., 3].tolist() == [[255, 255, 0], [255, 255, 255]]
    ends = [[int(charts.VIRIDIS[k][c : c + 2], 16) for c in (1, 3, 5)] for k in (0, 15, -1)]
    assert colors[0, 0, :3].tolist() == colors[1, 2, :3].tolist() == ends[0]
    assert colors[1, 0, :3].tolist() == ends[1]
    assert colors[0, 1, :3].tolist() == colors[1, 1, :3].tolist() == ends[2]
