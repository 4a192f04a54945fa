"""Colours, files by their ending, and pages that stand alone."""

import itertools
import json

import altair as alt
import numpy as np
import pandas as pd
import pytest

from crlviz import charts, mazes
from crlviz.errors import UsageError


def luminance(colour: str) -> float:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_deeper_is_darker():
    shades = [luminance(charts.depth_colour(depth)) for depth in (4, 8, 12, 16, 32, 64, 128, 256, 512, 1024)]
    assert all(a > b + 3 for a, b in itertools.pairwise(shades))
    assert charts.depth_colour(4096) == charts.depth_colour(1024)


@pytest.fixture
def chart():
    return alt.Chart(pd.DataFrame({"a": [1, 2], "b": [3, 4]})).mark_point().encode(x="a", y="b")


@pytest.mark.parametrize(
    ("ending", "start"), [("html", b"<!"), ("png", b"\x89PNG"), ("svg", b"<svg"), ("pdf", b"%PDF"), ("json", b"{")]
)
def test_save_by_ending(chart, tmp_path, ending, start):
    path = tmp_path / f"picture.{ending}"
    charts.save(chart, path)
    assert path.read_bytes().lstrip().lower().startswith(start.lower())
    assert list(tmp_path.iterdir()) == [path]


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


def test_embedded_charts_cannot_end_their_script():
    chart = alt.Chart(pd.DataFrame({"a": ["</script><b>"]})).mark_text().encode(text="a")
    assert "</script><b>" not in charts.embed(chart, "name")


def test_the_ground_has_equal_axes():
    maze = mazes.get("u5_maze", cell_size=4.0)
    ground = charts.in_metres(maze, maze.extent, 400)
    assert (ground["width"], ground["height"]) == (400, 350)  # 8 columns, 7 rows
    assert ground["x"].to_dict()["scale"]["domain"] == [-2, 30]
    assert ground["y"].to_dict()["scale"]["domain"] == [-2, 26]


def test_outline_is_the_regions_border():
    inside = np.zeros((4, 4), bool)
    inside[1:3, 1:3] = True
    ground = charts.in_metres(None, (0, 4, 0, 4), 100)
    data = charts.outline(inside, np.arange(4) + 0.5, np.arange(4) + 0.5, 1.0, ground).data
    assert len(data) == 8  # a 2 by 2 block has eight unit edges
    assert {(r.x, r.x2, r.y, r.y2) for r in data.itertuples()} == {
        (1, 1, 1, 2), (1, 1, 2, 3), (3, 3, 1, 2), (3, 3, 2, 3), (1, 2, 1, 1), (2, 3, 1, 1), (1, 2, 3, 3), (2, 3, 3, 3)
    }  # fmt: skip


def test_json_is_the_specification(chart, tmp_path):
    charts.save(chart, tmp_path / "picture.json")
    saved, own = json.loads((tmp_path / "picture.json").read_text()), chart.to_dict()
    assert saved.pop("config")["font"] == charts.FONT
    assert own.pop("config").get("font") != charts.FONT  # the session's theme is left as it is
    assert saved == own


def test_a_whole_chart_looks_the_same_in_every_session(chart, tmp_path):
    whole = charts.whole(lambda: chart)()
    assert type(whole) is type(chart)
    with alt.theme.enable("dark"):
        shown = whole.to_dict()
    assert shown["config"]["font"] == charts.FONT
    assert shown["config"]["background"] == "white"
    assert json.loads(charts.render(whole, ".json")) == json.loads(charts.render(chart, ".json"))


def test_labels_of_many_settings_fit():
    long = "crl.learning_rate 0.0003, crl.logsumexp_penalty 0.1, num_envs 4"
    title = charts.panel_title(long, 260).to_dict()["text"]
    assert " ".join(title) == long
    assert max(map(len, title)) <= 260 / 7.5
    assert charts.label_axis(["depth 4", "depth 16, seed 0"], 65).to_dict()["labelAngle"] == 0
    on_end = charts.label_axis(["depth 4", long], 65).to_dict()
    assert (on_end["labelAngle"], on_end["labelLimit"]) == (-90, 0)
