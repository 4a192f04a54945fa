"""The page of ``crlviz play`` in a real browser: its bodies, maps and links against the agents and mazes themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from crlviz.agent import load, load_all
from crlviz.browser import play_page, programs
from crlviz.errors import CrlvizError, UsageError
from crlviz.rollouts import rollout
from tests.helpers import ROOT
from tests.helpers.toys import toy_config, untrained_run

HOSTILE = "</script><b>&amp; depth"


@pytest.fixture(scope="module")
def agents():
    """Trained agents of depth 4 and 16 in the big maze."""
    return load_all([ROOT / "examples" / "depth4", ROOT / "examples" / "depth16"])


@pytest.fixture(scope="module")
def written(agents, tmp_path_factory):
    """The path of their page, with a hostile label."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(play_page, "_labels", lambda runs: ["depth 4", HOSTILE])
        path = tmp_path_factory.mktemp("play") / "play.html"
        path.write_text(play_page.page(agents), encoding="utf-8")
    return path


@pytest.fixture
def page(open_page, written):
    """The page, standing still at its second start."""
    opened = open_page(written)
    opened.set_viewport_size({"width": 600, "height": 500})  # the scene is drawn without a GPU
    opened.evaluate("crlviz.restore('#play=0&start=2')")
    return opened


def _lane(page, index=0):
    return page.evaluate(
        """index => { const lane = crlviz.lanes()[index], {leaves, obs, count} = lane;
        return {leaves: leaves.map(leaf => [...leaf]), obs: [...obs], ...count, goal: crlviz.chosen.goal}; }""",
        index,
    )


@pytest.mark.slow
def test_bodies_move_as_the_agent_moves_them(page, agents):
    env = agents[0].eval_env
    goal = env.maze.xy(env.maze.goals[3])
    page.evaluate("goal => crlviz.setGoal(goal)", goal.tolist())
    before = _lane(page)
    state = jax.jit(env.reset)(jax.random.key(0), jnp.array(before["obs"][:2]), jnp.array(goal))
    np.testing.assert_allclose(before["obs"], state.obs, atol=1e-5)
    step = jax.jit(env.step)
    for _ in range(60):
        page.evaluate("crlviz.step(crlviz.lanes()[0])")
        state = step(state, agents[0].act(state.obs))
    after = _lane(page)
    np.testing.assert_allclose(after["obs"], state.obs, atol=1e-3)
    assert after["distance"] == pytest.approx(float(state.metrics["distance"]), abs=1e-3)
    assert after["steps"] == 60


def test_a_click_moves_the_goal_and_the_body_goes_there(page, agents):
    maze = agents[0].eval_env.maze
    low, high, left, right = maze.extent
    box = page.locator("canvas.map").first.bounding_box()
    goal = maze.xy((4, 2))
    across, down = (goal[1] - left) / (right - left), (goal[0] - low) / (high - low)
    page.locator("canvas.map").first.click(position={"x": across * box["width"], "y": down * box["height"]})
    np.testing.assert_allclose(_lane(page)["goal"], goal, atol=0.05)
    page.evaluate("for (let k = 0; k < 150; k++) crlviz.step(crlviz.lanes()[0])")
    there = _lane(page)
    assert there["reached"] > 0
    assert np.linalg.norm(np.array(there["obs"][:2]) - goal) < 1
    # Into a wall: the nearest free place. Seen from above, the middle of the scene is the middle of the maze, a wall.
    page.locator("#top").check()
    page.wait_for_function("!waiting")
    box = page.locator("canvas.scene").first.bounding_box()
    page.locator("canvas.scene").first.click(position={"x": box["width"] / 2 - 8, "y": box["height"] / 2 - 8})
    goal = np.array(_lane(page)["goal"])
    assert maze.is_free(goal)
    assert np.abs(goal - [(low + high) / 2, (left + right) / 2]).max() < maze.cell_size


@pytest.mark.slow
def test_a_change_of_depth_keeps_pose_and_goal_and_takes_the_other_policy(page, agents):
    page.evaluate("for (let k = 0; k < 10; k++) crlviz.step(crlviz.lanes()[0])")
    before = _lane(page)
    page.keyboard.press("2")
    after = _lane(page)
    assert after["leaves"] == before["leaves"]
    assert after["goal"] == before["goal"]
    for index, agent in enumerate(agents):
        page.keyboard.press(str(index + 1))
        action = page.evaluate("[...actionOf(crlviz.lanes()[0])]")
        np.testing.assert_allclose(action, agent.act(np.array(before["obs"])), atol=2e-3)
    # Side by side both go on from there, to one goal, and the body of the one chosen stays.
    page.keyboard.press("s")
    page.evaluate("for (let k = 0; k < 10; k++) crlviz.lanes().forEach(crlviz.step)")
    first, second = _lane(page, 0), _lane(page, 1)
    assert first["steps"] == second["steps"] == before["steps"] + 10
    assert first["obs"][:2] != second["obs"][:2]
    page.keyboard.press("2")
    assert _lane(page)["obs"] == second["obs"]
    assert page.evaluate("crlviz.lanes().length") == 1


def test_the_map_is_q_and_its_numbers_are_rank_correlations(page, agents):
    env, lane = agents[0].eval_env, _lane(page)
    page.wait_for_function("crlviz.lanes()[0].map?.key === keyOf(crlviz.lanes()[0])")
    points, q, sees = page.evaluate(
        "(lane => [[...lane.map.grid.points], [...lane.map.q], lane.sees])(crlviz.lanes()[0])"
    )
    points, goal = np.array(points).reshape(-1, 2), np.array(lane["goal"])
    assert len(points) > 200
    assert env.maze.is_free(points).all()
    rows = np.repeat(np.array(lane["obs"], np.float32)[None], len(points), 0)
    rows[:, :2] = points
    expected = agents[0].q(rows[:, : env.state_dim], agents[0].act(rows), rows[:, env.state_dim :])
    np.testing.assert_allclose(q, expected, atol=5e-3 * np.ptp(expected))
    way, straight = env.maze.geodesic(points, goal), np.linalg.norm(points - goal, axis=1)
    np.testing.assert_allclose(page.evaluate("points => points.map(crlviz.ways())", points.tolist()), way, atol=1e-5)
    wanted = [stats.spearmanr(q, -distance).statistic for distance in (way, straight)]
    assert len(page.evaluate("[...ranks([NaN, 1, NaN])]")) == 3  # of a critic that diverged
    np.testing.assert_allclose(sees, wanted, atol=1e-3)  # equal distances are equal up to rounding
    assert f"{wanted[0]:.2f}, as the straight line {wanted[1]:.2f}" in page.locator(".sees").first.inner_text()


@pytest.mark.slow
def test_a_link_restores_the_view(page, agents):
    goal = agents[0].eval_env.maze.xy((6, 1))
    link = f"#agent=2&start=7&goal={goal[0]:g},{goal[1]:g}&speed=0.25&map=0&arrows=1&side=0&play=0"
    page.evaluate("link => { location.hash = link; }", link)
    page.wait_for_function("crlviz.chosen.start === 6")
    assert page.evaluate("crlviz.linkState()") == link
    assert page.locator("#link").get_attribute("href") == link
    assert page.locator("#agents button[aria-pressed=true]").inner_text() == f"2 {HOSTILE}"  # as text
    assert page.locator("#speed").input_value() == "0.25"
    assert not page.locator("#map").is_checked()
    assert page.locator("#unknown").is_hidden()
    # By an agent's label, and by the place of a start.
    places = page.evaluate("crlviz.starts.map((_, k) => (crlviz.goToStart(k), [...crlviz.lanes()[0].obs.slice(0, 2)]))")
    page.evaluate("([x, y]) => crlviz.restore(`#agent=depth 4&from=${x},${y}&play=0`)", places[20])
    np.testing.assert_allclose(_lane(page)["obs"][:2], places[20], atol=1e-6)
    assert page.evaluate("crlviz.chosen.agent") == 0
    page.evaluate("crlviz.restore('#agent=depth 400&start=99&goal=x&speed=7')")
    assert "does not hold: depth 400" in page.locator("#unknown").inner_text()
    assert page.evaluate("crlviz.chosen.start") == 20


@pytest.mark.slow
def test_the_clock_the_push_and_the_picture(page):
    still = _lane(page)
    page.locator("#push").click()
    pushed = _lane(page)
    assert pushed["obs"][:2] == still["obs"][:2]
    away = np.array(still["obs"][:2]) - still["goal"]
    assert np.dot(np.array(pushed["obs"][2:4]) - still["obs"][2:4], away) > 0
    page.locator("#play").click()
    page.wait_for_function("crlviz.lanes()[0].count.steps > 3")
    page.keyboard.press("r")
    page.locator("#play").click()
    assert page.locator("#play").inner_text() == "play"
    with page.expect_download() as download:
        page.locator("#png").click()
    assert download.value.suggested_filename == "point_big_maze.png"


def test_more_agents_or_other_worlds_are_refused(tmp_path, agents):
    runs = [untrained_run(tmp_path / f"run{k}", toy_config(seed=k)) for k in range(5)]
    with pytest.raises(UsageError, match="5 agents: a page holds at most 4"):
        play_page.grouped(load_all(runs))
    with pytest.raises(UsageError, match="not of point_big_maze"):
        play_page.grouped([agents[0], load(runs[0])])
    with pytest.raises(UsageError, match="no agent"):
        play_page.grouped([])


@pytest.mark.slow
def test_checkpoints_of_a_run_are_one_agent_with_a_slider(tmp_path, open_page, crlviz):
    run, path = untrained_run(tmp_path / "run", steps=(100, 200, 300)), tmp_path / "play.html"
    assert crlviz("play", run, "--max-checkpoints", "2", "--out", path)[0] == 0
    page = open_page(path)
    page.evaluate("crlviz.restore('#play=0')")
    obs = np.array(_lane(page)["obs"])
    for time, steps in enumerate((100, 300)):
        page.locator("#slider").fill(str(time))
        action = page.evaluate("[...actionOf(crlviz.lanes()[0])]")
        np.testing.assert_allclose(action, load(run / "checkpoints" / str(steps)).act(obs), atol=2e-3)
        assert f", {steps} steps" in page.locator("figcaption b").first.inner_text()
    assert (
        crlviz("play", run, "--out", tmp_path / "play.png")[2]
        == f"Error: {tmp_path / 'play.png'}: a page ends in .html\n"
    )
    assert "at least one is needed" in crlviz("play", run, "--max-checkpoints", "0")[2]


@pytest.mark.slow
def test_memory_stays_flat(page):
    """Over a quarter of a million steps of two bodies, with maps asked for all along."""
    client = page.context.new_cdp_session(page)

    def heap():
        page.wait_for_timeout(500)
        client.send("HeapProfiler.collectGarbage")
        return client.send("Runtime.getHeapUsage")["usedSize"]

    page.evaluate("crlviz.sideBySide(true); crlviz.setPlaying(true)")
    sizes = []
    for _ in range(5):
        for _ in range(10):
            page.evaluate("for (let k = 0; k < 5000; k++) crlviz.lanes().forEach(crlviz.step)")
            page.wait_for_timeout(100)
        sizes.append(heap())
    assert sizes[-1] < 1.02 * sizes[1] + 200_000


@pytest.mark.slow
def test_a_body_that_cannot_be_translated_follows_recorded_episodes(toy_agent, tmp_path, open_page, monkeypatch):
    def unknown(agents):
        raise CrlvizError("the step of it uses the operation qr")

    monkeypatch.setattr(programs, "page_programs", unknown)
    monkeypatch.setattr(play_page, "_MOST_STEPS", 20)
    (tmp_path / "play.html").write_text(play_page.page([toy_agent]), encoding="utf-8")
    page = open_page(tmp_path / "play.html")
    assert "cannot run in a page, because the step of it uses the operation qr" in page.locator("#note").inner_text()
    page.evaluate("crlviz.restore('#play=0&start=3')")
    episode = rollout(toy_agent, 4, length=20, distinct=True).isel(episode=2)
    for steps, shown in ((0, 0), (1, 1), (18, 19), (5, 19)):  # it stays at its end
        page.evaluate("steps => { for (let k = 0; k < steps; k++) crlviz.step(crlviz.lanes()[0]); }", steps)
        lane = _lane(page)
        np.testing.assert_allclose(lane["obs"][:4], episode.state.values[shown], atol=1e-6)
        assert lane["distance"] == pytest.approx(float(episode.distance[shown]), abs=1e-6)
    # The critic is asked for any goal, though the body goes on to its own.
    page.evaluate("crlviz.setGoal([1, -1]); moved()")
    page.wait_for_function("crlviz.lanes()[0].map?.key === keyOf(crlviz.lanes()[0])")
    assert _lane(page)["goal"] == [1, -1]
    assert page.locator("#push").is_hidden()
