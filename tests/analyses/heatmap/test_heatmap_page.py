"""The interactive page in a real browser: a click moves the goal, the slider moves time, and the pixels follow."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from analyses.heatmap import q_map
from analyses.heatmap.heatmap_page import MAX_BYTES, choose_resolution, page
from crlviz import charts, datasets, envs
from tests.helpers.carved import carved
from tests.helpers.toys import Handmade

ENV = "point_u4_maze"
# Q of each checkpoint: first minus the straight-line distance, then minus the geodesic distance.
BY_STEPS = {100: "line", 200: "maze"}


def known(depth: int, steps: int) -> Handmade:
    env = envs.make(ENV)

    def value(state, action, goal):
        if BY_STEPS[steps] == "line":
            return -np.linalg.norm(state[:, :2] - goal, axis=1)
        return -env.maze.geodesic(state[:, :2], goal[0])

    facts = dict.fromkeys(datasets.FACTS, 0) | {"env": ENV, "algorithm": "known", "depth": depth, "env_steps": steps}
    return Handmade(env, lambda observation, key: np.zeros((len(observation), 2), np.float32), value, facts)


def mapped(checkpoints: list[tuple[int, int]], **options):
    agents = [known(depth, steps) for depth, steps in checkpoints]
    places = q_map.all_places(agents[0].env)
    return q_map.compute(agents, places, **{"resolution": 4} | options)


@pytest.fixture(scope="module")
def dataset():
    return mapped([(4, 100), (4, 200), (16, 100), (16, 200)])


@pytest.fixture
def opened(open_page, dataset, tmp_path):
    (tmp_path / "q.html").write_text(page(dataset, play="play.html"), encoding="utf-8")
    return open_page(tmp_path / "q.html")


def content(html: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])


def decode(text: str, dtype: str = "u1") -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def test_the_page_holds_q_to_1_255_of_its_range(dataset):
    data = content(page(dataset))
    dataset = dataset.isel(x=slice(4, -4), y=slice(4, -4))  # without the outer ring of walls
    assert data["corner"] == pytest.approx([float(dataset[axis][0]) - 0.125 for axis in "xy"])
    free = decode(data["free"]).reshape(data["size"]).astype(bool)
    assert np.array_equal(free, np.isfinite(dataset.straight.values[0]))
    for panel, depth in zip(data["panels"], (4, 16), strict=True):
        assert panel["label"] == f"depth {depth}"
        assert panel["steps"] == [100, 200]
        q = dataset.q.sel(depth=depth).transpose("env_steps", "goal", "x", "y").values[:, :, free]
        low, high = np.array(panel["low"])[..., None], np.array(panel["high"])[..., None]
        levels = decode(panel["q"]).reshape(q.shape)
        np.testing.assert_allclose(low + (high - low) * levels / 255, q, atol=np.ptp(q) / 255)
        correlation = dataset.rank_correlation.sel(depth=depth).transpose("env_steps", "distance_kind", "goal")
        np.testing.assert_allclose(panel["correlation"], correlation, atol=1e-4)
    centimeters = decode(data["geodesic"], "<u2").reshape(len(data["places"]), -1)
    np.testing.assert_allclose(centimeters / 100, dataset.geodesic.values[:, free], atol=0.006)


def test_all_cells_may_be_the_goal():
    maze = envs.make(ENV).maze
    assert [tuple(cell) for cell in maze.cell(q_map.all_places(envs.make(ENV)))] == maze.free


def test_runs_with_different_schedules_share_the_slider():
    data = content(page(mapped([(4, 100), (4, 200), (16, 200)])))
    assert [panel["steps"] for panel in data["panels"]] == [[100, 200], [200]]


def test_a_large_page_is_drawn_more_coarsely():
    assert choose_resolution(26 * 26, 16, 8) == 8
    points = choose_resolution(60 * 60, 64, 8)
    assert points < 8
    assert (60 * points) ** 2 * 66 < 6e6
    assert choose_resolution(10_000**2, 100, 8) == 1


# Position in meters of the brightest pixel of a panel, read from the canvas on the screen.
BRIGHTEST = """index => {
  const {map} = panels[index], ratio = map.width / map.getBoundingClientRect().width;
  const shown = map.getContext("2d").getImageData(0, 0, map.width, map.height).data;
  let best = [-1];
  for (let i = 0; i < X; i++) for (let j = 0; j < Y; j++) {
    const down = Math.round((i + .5) * zoom * ratio), right = Math.round((left + (j + .5) * zoom) * ratio);
    const k = 4 * (down * map.width + right);
    const yellow = free[i * Y + j] ? shown[k] + shown[k + 1] - shown[k + 2] : -1;
    if (yellow > best[0]) best = [yellow, i, j];
  }
  return best.slice(1).map((k, axis) => data.corner[axis] + (k + .5) * data.spacing);
}"""


def click(browser_page, place: np.ndarray, panel: int = 0) -> None:
    """Click at a position in meters."""
    right, down = browser_page.evaluate("xy => meters(xy)", place.tolist())
    browser_page.locator("canvas.map").nth(panel).click(position={"x": right, "y": down})


def test_a_click_moves_the_goal_of_every_map(opened):
    maze = envs.make(ENV).maze
    seen = set()
    for panel, cell in ((0, (1, 3)), (1, (5, 1)), (0, (3, 3))):
        goal = maze.xy(cell)
        click(opened, goal, panel)
        assert opened.inner_text("#place") == f"{goal[0]:g}, {goal[1]:g} m"
        links = [link.get_attribute("href") for link in opened.locator("a.live").all()]
        assert links == [f"play.html#goal={goal[0]:g},{goal[1]:g}&steps=200&agent=depth%20{depth}" for depth in (4, 16)]
        for index in (0, 1):
            # The star covers the goal itself, so the brightest pixels are next to it.
            assert np.abs(np.array(opened.evaluate(BRIGHTEST, index)) - goal).max() <= 0.5
        seen.add(opened.locator("canvas.map").first.screenshot())
    assert len(seen) == 3


def test_a_click_into_a_wall_does_nothing(opened):
    maze = envs.make(ENV).maze
    before = opened.locator("#panels").screenshot()
    wall = np.argwhere(maze.walls[1:-1, 1:-1])[0] + 1  # the outer ring is not drawn
    click(opened, maze.xy(tuple(wall)))
    opened.mouse.move(0, 0)
    assert opened.locator("#panels").screenshot() == before


def test_the_slider_moves_time(opened):
    far = envs.make(ENV).maze.xy((4, 1))  # around the corner, so that the two distances differ
    click(opened, far)
    slider, line = opened.locator("#slider"), opened.locator(".line").first
    assert opened.inner_text("#steps") == "200"
    assert "maze 1.00" in line.inner_text()
    late = opened.locator("canvas.map").first.screenshot()
    slider.focus()
    slider.press("ArrowLeft")
    assert opened.inner_text("#steps") == "100"
    assert "straight line 1.00" in line.inner_text()
    assert "maze 1.00" not in line.inner_text()
    assert opened.locator("canvas.map").first.screenshot() != late
    slider.press("ArrowRight")
    assert opened.locator("canvas.map").first.screenshot() == late


def test_the_tooltip_shows_q_and_distances(opened):
    maze = envs.make(ENV).maze
    goal, here = maze.xy((5, 1)), maze.xy((1, 1)) + 0.1
    click(opened, goal)
    right, down = opened.evaluate("xy => meters(xy)", here.tolist())
    opened.locator("canvas.map").first.hover(position={"x": right, "y": down})
    tip = opened.inner_text("#tip")
    shown = {name: float(number) for name, number in re.findall(r"(Q|maze|line) (-?[\d.]+)", tip)}
    assert shown["maze"] == pytest.approx(maze.geodesic(here, goal), abs=0.2)  # within a point of the grid
    assert shown["line"] == pytest.approx(np.linalg.norm(here - goal), abs=0.02)
    assert shown["Q"] == pytest.approx(-shown["maze"], abs=0.1)


def test_a_page_over_goals_with_one_checkpoint_and_its_outline(open_page, tmp_path):
    agent = known(4, 100)
    dataset = mapped([(4, 100)], over="goals", coverage=True, resolution=2)
    (tmp_path / "q.html").write_text(page(dataset), encoding="utf-8")
    opened = open_page(tmp_path / "q.html")
    assert not opened.locator("#training").is_visible()
    start = agent.env.maze.xy(agent.env.maze.starts[0])
    assert opened.inner_text("#place") == f"{start[0]:g}, {start[1]:g} m"
    outlined = opened.locator("canvas.map").screenshot()
    opened.locator("#coverage").uncheck()
    assert opened.locator("canvas.map").screenshot() != outlined


def test_the_animation_has_a_frame_a_checkpoint(dataset):
    image = Image.open(io.BytesIO(q_map.animate(dataset.isel(goal=[0]), size=100)))
    assert image.n_frames == 2
    frames = []
    for index in range(2):
        image.seek(index)
        frames.append(np.asarray(image.convert("RGB")).astype(int))
    assert frames[0].shape == frames[1].shape
    # Both frames show the goal in orange at the same pixels, and the maps differ.
    orange = [np.abs(frame - [228, 87, 46]).max(-1) < 40 for frame in frames]
    assert orange[0].any()
    where = [np.argwhere(found).mean(0) for found in orange]
    np.testing.assert_allclose(where[0], where[1], atol=1)
    assert (np.abs(frames[0] - frames[1]).max(-1) > 40).mean() > 0.01


@pytest.mark.slow
def test_the_animation_labels_maps_of_other_times(dataset, monkeypatch):
    """Depth 16 was saved only at the end, depth 8 only at the start: the other time is labeled in both."""
    frames = []

    def recording_render(chart, ending):
        panels = chart.to_dict()["vconcat"][0]["hconcat"]
        frames.append({" ".join(panel["title"]["text"]): panel for panel in panels})
        return render(chart, ending)

    render = charts.render
    monkeypatch.setattr(charts, "render", recording_render)
    goal = envs.make(ENV).maze.xy((4, 1))[None]
    agents = [known(4, 100), known(4, 200), known(16, 200), known(8, 100)]
    q_map.animate(q_map.compute(agents, goal, resolution=1), size=60)
    assert [list(frame) for frame in frames] == [
        ["depth 4", "depth 16 (none saved by then)", "depth 8"],
        ["depth 4", "depth 16", "depth 8 (at 100 steps)"],
    ]


@pytest.mark.slow
def test_without_a_maze_a_click_takes_the_nearest_place(open_page, tmp_path, monkeypatch):
    agent = known(4, 100)
    monkeypatch.setattr(agent.env, "maze", None)
    places = q_map.all_places(agent.env)
    assert len(places) == 100
    (tmp_path / "q.html").write_text(page(q_map.compute([agent], places, resolution=2)), encoding="utf-8")
    opened = open_page(tmp_path / "q.html")
    click(opened, places[7] + 0.01)
    shown = [float(number) for number in re.findall(r"-?[\d.]+", opened.inner_text("#place"))]
    np.testing.assert_allclose(shown, places[7], atol=0.006)
    assert opened.inner_text(".line").startswith("rank correlation: straight line 1.00")


@pytest.mark.slow
def test_a_large_maze_has_fewer_places_and_a_click_takes_the_nearest(open_page, tmp_path):
    agent = known(4, 100)
    env = envs.make("point_maze", layout=carved(41))
    dataset = q_map.on_a_page([dataclasses.replace(agent, env=env)], action="zeros")
    assert dataset.sizes["goal"] == 256
    html = page(dataset)
    assert len(html) < 1.6 * MAX_BYTES
    (tmp_path / "q.html").write_text(html, encoding="utf-8")
    opened = open_page(tmp_path / "q.html")
    places, maze = q_map.all_places(env), env.maze
    assert "nearest of 256 places" in opened.inner_text("body")
    for here in maze.xy(np.array(maze.free)[[5, 300, 640]]):
        click(opened, here)
        shown = [float(number) for number in re.findall(r"-?[\d.]+", opened.inner_text("#place"))]
        distances = maze.geodesic(places, here)
        assert maze.geodesic(np.array(shown), here) <= distances.min() + 2 * dataset.attrs["spacing"]


def test_distances_over_655_meters_are_kept(dataset):
    far = dataset.assign(geodesic=dataset.geodesic * 1000)
    data = content(page(far))
    free = np.isfinite(dataset.straight.values[0])
    distances = decode(data["geodesic"], "<u2").reshape(len(data["places"]), -1) * data["unit"]
    np.testing.assert_allclose(distances, far.geodesic.values[:, free], atol=data["unit"])
