"""The 3-D replay: its data compared with MuJoCo's own positions, and the page in a real browser."""

import base64
import json

import mujoco
import numpy as np
import pytest
import xarray as xr

from crlviz import envs
from crlviz.errors import CrlvizError, UsageError
from crlviz.rendering import replay_page

STEPS = 12


def _episode(env, seed=0, fell=None):
    """An episode of random poses with the variables that ``rollout`` saves."""
    model, rng = env.model, np.random.default_rng(seed)
    data, pose = mujoco.MjData(model), np.empty((STEPS, model.nq), np.float32)
    for row in pose:
        data.qpos[:] = model.qpos0
        mujoco.mj_integratePos(model, data.qpos, rng.normal(size=model.nv), 1.0)
        row[:] = data.qpos
    goal = rng.normal(size=env.goal_dim)
    distance = rng.uniform(0, 3, STEPS)
    return xr.Dataset(
        {
            "pose": (("time", "joint"), pose),
            "goal": ("goal_index", goal),
            "distance": ("time", distance),
            "q": ("time", -distance),
            "alive": ("time", np.arange(STEPS) < (STEPS if fell is None else fell)),
        },
        attrs={"env": env.id},
    )


def _floats(text, *shape):
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)


@pytest.fixture(scope="module")
def point():
    return envs.make("point_u_maze")


@pytest.fixture(scope="module", params=["point_u_maze", "humanoid", "arm_push_hard"])
def env(request):
    return envs.make(request.param)


@pytest.mark.parametrize("every", [1, 3])
def test_geom_poses_are_mujocos(env, every):
    episode = _episode(env)
    page = json.loads(json.dumps(replay_page.page_data(env, {"a": episode}, every=every), allow_nan=False))
    standing = _floats(page["standing"], -1, 7)
    places = _floats(page["panels"][0]["places"], -(-STEPS // every), len(page["geoms"]) - len(standing), 7)
    focus = _floats(page["panels"][0]["focus"], -1, 3)
    model, data, turned = env.model, mujoco.MjData(env.model), np.empty(9)
    shown = [geom for geom in range(model.ngeom) if model.geom_rgba[geom, 3] > 0]
    for frame in (0, 1, 3):
        data.qpos[:] = episode.pose[frame * every]
        mujoco.mj_forward(model, data)
        # Geoms may have no name, so each is identified by pose, size and color, and must match exactly one.
        remaining = list(zip(page["geoms"], [*standing, *places[frame]], strict=True))
        for geom in shown:
            matches = []
            for k, (drawn, place) in enumerate(remaining):
                mujoco.mju_quat2Mat(turned, place[3:].astype(float))
                same = np.allclose(place[:3], data.geom_xpos[geom], atol=1e-5)
                same &= np.allclose(turned, data.geom_xmat[geom], atol=1e-5)
                if same and np.allclose(drawn["rgba"], model.geom_rgba[geom]):
                    matches.append(k)
            assert matches, f"geom {geom} {model.geom(geom).name} is not where it should be in frame {frame}"
            drawn, _ = remaining.pop(matches[0])
            kind = mujoco.mjtGeom(int(model.geom_type[geom])).name
            radius, length, _ = model.geom_size[geom]
            if kind == "mjGEOM_CAPSULE":
                assert (drawn["mesh"], drawn["size"], drawn["end"]) == ("round", [radius] * 3, length)
            elif kind == "mjGEOM_BOX":
                assert (drawn["mesh"], drawn["size"]) == ("box", model.geom_size[geom].tolist())
        assert not remaining
        if env.view.body:
            at = data.body(env.view.body).xpos + env.view.lookat
            np.testing.assert_allclose(focus[frame, :2], at[:2], atol=1e-5)


def test_in_the_open_the_cameras_azimuth_is_relative_to_the_direction_of_the_goal():
    env = envs.make("humanoid")
    episode = _episode(env)
    to_goal = episode.goal.values[:2] - episode.pose.values[0, :2]
    turn = replay_page.page_data(env, {"a": episode})["panels"][0]["turn"]
    np.testing.assert_allclose([np.cos(turn), np.sin(turn)], to_goal / np.linalg.norm(to_goal), atol=1e-6)


def test_in_a_maze_all_panels_are_turned_as_the_map(point):
    page = replay_page.page_data(point, {"a": _episode(point), "b": _episode(point, 1)})
    assert [panel["turn"] for panel in page["panels"]] == [0, 0]
    assert page["view"]["azimuth"] == pytest.approx(np.pi)  # looks along -x, so x is down
    maze = point.maze
    assert page["ground"]["extent"] == maze.extent
    centers = np.array(page["ground"]["walls"]) + page["ground"]["cell"] / 2
    assert sorted(map(tuple, maze.cell(centers).tolist())) == sorted(maze.cells("#"))


def test_a_page_of_a_thousand_steps_of_two_humanoids_is_small(tmp_path):
    env = envs.make("humanoid")
    long = _episode(env).isel(time=np.arange(1000) % STEPS)
    replay_page.write(tmp_path / "long.html", env, {"a": long, "b": long})
    assert (tmp_path / "long.html").stat().st_size < 2e6


def test_invalid_episodes_and_paths_are_refused(tmp_path, point):
    episode, path = _episode(point), tmp_path / "page.html"
    with pytest.raises(UsageError, match="no episode"):
        replay_page.write(path, point, {})
    with pytest.raises(UsageError, match="keep one step"):
        replay_page.write(path, point, {"a": episode}, every=0)
    with pytest.raises(UsageError, match="not of point_u_maze"):
        replay_page.write(path, point, {"a": episode.assign_attrs(env="ant")})
    with pytest.raises(UsageError, match="choose one"):
        replay_page.write(path, point, {"a": episode.expand_dims(episode=1)})
    with pytest.raises(UsageError, match="no directory"):
        replay_page.write(tmp_path / "none" / "page.html", point, {"a": episode})
    assert list(tmp_path.iterdir()) == []
    path.mkdir()
    with pytest.raises(CrlvizError, match="cannot write"):
        replay_page.write(path, point, {"a": episode})


# For each panel, a hash of its pixels and its number of colors.
PIXELS = """() => panels.map(({canvas}) => {
  const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  return [pixels.reduce((sum, pixel) => (sum * 31 + pixel) >>> 0, 0), new Set(pixels).size];
})"""


def _slide(page, step):
    page.locator("#slider").evaluate(
        "(slider, step) => { slider.value = step; slider.dispatchEvent(new Event('input')); }", step
    )
    page.wait_for_function("!waiting")


def _pixels(page):
    page.wait_for_function("!waiting")
    return page.evaluate(PIXELS)


def test_the_page_works_in_a_browser(tmp_path, point, open_page):
    path = tmp_path / "page.html"
    captions = ("</script><b>depth 4</b>", "depth 64 & more")
    episodes = _episode(point, 0, fell=5), _episode(point, 1).drop_vars("q")  # the second agent has no critic
    replay_page.write(path, point, dict(zip(captions, episodes, strict=True)))
    page = open_page(path)
    if not page.evaluate("document.createElement('canvas').getContext('webgl2') !== null"):
        assert "no WebGL 2" in page.locator("#missing").inner_text()
        pytest.skip("this chromium has no WebGL")
    assert page.locator("figure b").all_inner_texts() == list(captions)
    first = _pixels(page)
    assert all(colors > 50 for _, colors in first)
    _slide(page, 7)
    second = _pixels(page)
    assert all(a != b for a, b in zip(first, second, strict=True))
    fallen, standing = page.locator(".numbers").all_inner_texts()
    assert fallen.startswith("step 7 · 0.70 s")
    assert fallen.endswith("fell at step 5")
    assert "fell" not in standing
    assert " · Q -" in fallen
    assert "Q" not in standing
    _slide(page, 0)
    assert "fell" not in page.locator(".numbers").first.inner_text()
    assert _pixels(page) == first

    # The map's body is where the camera looks.
    here = page.locator(".here").evaluate_all(
        "dots => dots.map(dot => [+dot.getAttribute('cy'), +dot.getAttribute('cx')])"
    )
    np.testing.assert_allclose(here, [_episode(point, seed).pose.values[0, :2] for seed in (0, 1)], atol=1e-4)
    page.locator("#top").check()
    above = _pixels(page)
    assert all(a != b for a, b in zip(first, above, strict=True))
    page.locator("#top").uncheck()
    assert _pixels(page) == first

    # Orbit, pan and zoom in one panel move both; reset undoes it.
    box = page.locator("canvas").first.bounding_box()
    looks = [first]
    for button in ("left", "right", "wheel"):
        page.mouse.move(box["x"] + 100, box["y"] + 100)
        if button == "wheel":
            page.mouse.wheel(0, 200)
            page.wait_for_function("orbit.distance > view.distance")
        else:
            page.mouse.down(button=button)
            page.mouse.move(box["x"] + 180, box["y"] + 120)
            page.mouse.up(button=button)
        looks.append(_pixels(page))
        assert all(a != b for a, b in zip(*looks[-2:], strict=True)), button
    page.locator("#reset").click()
    assert _pixels(page) == first

    # Without following, the camera stays where it was when the body moves on.
    page.locator("#follow").uncheck()
    _slide(page, 7)
    assert all(a != b for a, b in zip(second, _pixels(page), strict=True))

    page.locator("#speed").select_option("8")
    page.locator("#play").click()
    page.wait_for_function(f"!playing && time === {STEPS - 1}")
    assert page.locator("#slider").input_value() == str(STEPS - 1)


@pytest.mark.parametrize("agents", [*(pytest.param(count, marks=pytest.mark.slow) for count in (1, 4)), 2])
def test_pictures_and_lines_of_one_episode_fit_a_window(tmp_path, point, open_page, agents):
    path = tmp_path / "page.html"
    captions = [f"depth {depth}, seed 0, episode {k}" for k in (1, 2) for depth in (4, 8, 16, 32)[:agents]]
    replay_page.write(path, point, {each: _episode(point, k) for k, each in enumerate(captions)}, columns=agents)
    page = open_page(path)
    page.set_viewport_size({"width": 1280, "height": 800})
    boxes = page.locator("figure").evaluate_all("all => all.map(one => one.getBoundingClientRect().toJSON())")
    first, second = boxes[:agents], boxes[agents:]
    assert len({box["top"] for box in first}) == 1  # side by side
    assert max(box["bottom"] for box in first) <= 800
    assert min(box["top"] for box in second) >= max(box["bottom"] for box in first)
    canvas = page.locator("canvas").first.bounding_box()
    assert canvas["height"] > 200
    page.set_viewport_size({"width": 420, "height": 800})
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


def test_a_browser_without_webgl_shows_a_message(tmp_path, point, browser):
    path = tmp_path / "page.html"
    replay_page.write(path, point, {"a": _episode(point)})
    page = browser.new_page()
    page.add_init_script(
        "const get = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
        " return kind === 'webgl2' ? null : get.call(this, kind, ...rest); };"
    )
    page.goto(path.absolute().as_uri())
    assert "no WebGL 2" in page.locator("#missing").inner_text()
    _slide(page, 4)
    assert page.locator(".numbers").inner_text().startswith("step 4")
    page.close()
