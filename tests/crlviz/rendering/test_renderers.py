"""Renderers and cameras, compared with pinhole geometry, MuJoCo's single-ray casting, and each other."""

import os
import subprocess
import sys

import jax
import mujoco
import numpy as np
import pytest

from crlviz import envs
from crlviz.errors import UsageError
from crlviz.rendering import renderers
from crlviz.rendering.cameras import Cameraman, overview
from crlviz.rendering.renderers import FOVY, Camera, GLRenderer, RayRenderer, open_renderer

BALL = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><geom type='sphere' size='.5' pos='1 2 3' rgba='1 0 0 1'/></worldbody></mujoco>"
)


@pytest.fixture(scope="module")
def gl():
    """The OpenGL platform that works on this machine."""
    platform = renderers.working_platform()
    if platform is None:
        pytest.skip("no OpenGL works here")
    return platform


def _project(point, camera, width, height):
    """Pixel (right, down) of a point [3] in a pinhole camera."""
    forward, right, up = camera.axes
    way = np.asarray(point) - camera.eye
    scale = height / 2 / np.tan(np.radians(FOVY / 2)) / (way @ forward)
    return np.array([width / 2 + scale * (way @ right), height / 2 - scale * (way @ up)])


def _red(picture):
    picture = picture.astype(int)
    return (picture[..., 0] > 2 * picture[..., 1]) & (picture[..., 0] > 40)


@pytest.mark.parametrize("kind", ["rays", "gl"])
@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (90, -30), (200, -89), (-45, 20)])
def test_a_ball_is_where_a_pinhole_camera_projects_it(kind, azimuth, elevation, request):
    width, height, distance = 120, 90, 4.0
    camera = Camera(np.array([1.2, 2.1, 2.9]), distance, azimuth, elevation)
    if kind == "gl":
        renderer = GLRenderer(BALL, width, height, request.getfixturevalue("gl"))
    else:
        renderer = RayRenderer(BALL, width, height)
    picture = renderer.render(np.zeros(0), camera)
    renderer.close()
    assert picture.shape == (height, width, 3)
    assert picture.dtype == np.uint8
    rows, columns = np.nonzero(_red(picture))
    center = np.array([columns.mean(), rows.mean()]) + 0.5
    np.testing.assert_allclose(center, _project([1, 2, 3], camera, width, height), atol=1.0)
    away = np.linalg.norm(camera.eye - [1, 2, 3])
    radius = height / 2 / np.tan(np.radians(FOVY / 2)) * 0.5 / np.sqrt(away**2 - 0.25)
    assert np.sqrt(len(rows) / np.pi) == pytest.approx(radius, rel=0.06)


def test_camera_axes_follow_mujocos_convention():
    for azimuth, elevation in [(0, 0), (90, 0), (37, -64)]:
        forward, right, up = Camera(np.zeros(3), 1.0, azimuth, elevation).axes
        np.testing.assert_allclose(
            np.stack([right, up, -forward]) @ np.stack([right, up, -forward]).T, np.eye(3), atol=1e-9
        )
        np.testing.assert_allclose(np.cross(right, up), -forward, atol=1e-9)
        assert forward[2] == pytest.approx(np.sin(np.radians(elevation)))
    np.testing.assert_allclose(Camera(np.zeros(3), 1.0, 90, 0).axes[0], [0, 1, 0], atol=1e-9)


def _first_state(id):
    env = envs.make(id)
    state = jax.jit(env.reset)(jax.random.key(0))
    return env, np.asarray(env.pose(state)), np.asarray(state.obs[env.state_dim :])


@pytest.fixture(scope="module")
def ant():
    return _first_state("ant_u_maze")


def test_rays_hit_geoms_that_do_not_collide(ant):
    env, pose, _ = ant
    renderer = RayRenderer(env.model, 16, 16)
    renderer.render(pose, Camera(np.zeros(3), 5.0, 0, -30))
    data = mujoco.MjData(env.model)
    data.qpos[:] = pose
    mujoco.mj_forward(env.model, data)
    generator, found = np.random.default_rng(0), set()
    for _ in range(200):
        eye = generator.normal(size=3) * [4, 4, 0] + pose[:3] + [0, 0, 3]
        aim = data.geom_xpos[generator.integers(1, env.model.ngeom)]
        ray = (aim - eye) / np.linalg.norm(aim - eye)
        geom = np.zeros(1, np.int32)
        distance = mujoco.mj_ray(env.model, data, eye, ray, None, True, -1, geom)
        ours = renderer.hits(eye, ray[None], -1)
        assert ours[0][0] == geom[0]
        assert ours[1][0] == pytest.approx(distance)
        found.add(env.model.geom(geom[0]).name)
    assert any("ankle" in name for name in found)
    assert any("wall" in name for name in found)


@pytest.mark.parametrize("camera", ["follow", "top"])
def test_both_renderers_agree(gl, ant, camera):
    env, pose, goal = ant
    shot = Cameraman(env, pose, goal, camera, 4 / 3).shot(pose, 0.0)
    pictures = []
    for renderer in (GLRenderer(env.model, 160, 120, gl, fine=True), RayRenderer(env.model, 160, 120)):
        pictures.append(renderer.render(pose, shot).astype(int))
        renderer.close()
    difference = np.abs(pictures[0] - pictures[1]).mean(axis=-1)
    assert np.median(difference) < 8
    assert (difference < 40).mean() > 0.93  # the rest are edges and borders of shadows
    assert np.abs(pictures[0] - pictures[0].mean((0, 1))).mean() > 15  # not blank


def test_without_opengl_rays_are_cast(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    renderers.working_platform.cache_clear()
    renderer = open_renderer(BALL, 20, 20)
    renderers.working_platform.cache_clear()
    assert isinstance(renderer, RayRenderer)
    assert "without OpenGL" in renderer.name


def test_two_opengl_renderers_can_alternate(gl):
    env = envs.make("point_u_maze")
    pose = np.array([-1.0, -1.0, 1.0, 1.0])
    camera = overview(env, pose, pose[2:], 1.0)
    first, second = (GLRenderer(env.model, side, side, gl) for side in (64, 32))
    alone = first.render(pose, camera)
    assert second.render(pose, camera).shape == (32, 32, 3)
    np.testing.assert_array_equal(first.render(pose, camera), alone)
    first.close()
    second.close()


@pytest.mark.parametrize("size", [(5, 100), (100, 100_000), (0, 0)])
def test_impossible_sizes(size):
    with pytest.raises(UsageError, match=f"{size[0]}x{size[1]}"):
        open_renderer(BALL, *size)


def test_the_top_camera_shows_the_whole_maze_oriented_like_a_map():
    env = envs.make("point_hardest_maze")
    pose = np.array([*env.maze.xy((1, 1)), *env.maze.xy((7, 10))])
    for aspect in (2.0, 0.5):
        width, height = round(200 * aspect), 200
        camera = Cameraman(env, pose, pose[2:], "top", aspect).shot(pose, 0.0)
        x_min, x_max, y_min, y_max = env.maze.extent
        corners = np.array([_project([x, y, 0], camera, width, height) for x in (x_min, x_max) for y in (y_min, y_max)])
        assert (corners >= 0).all()
        assert (corners <= [width, height]).all()
        assert max(np.ptp(corners[:, 0]) / width, np.ptp(corners[:, 1]) / height) > 0.9
        assert corners[0, 0] < corners[1, 0]  # y to the right
        assert corners[0, 1] < corners[2, 1]  # x down


@pytest.mark.parametrize("env_id", ["point_big_maze", "ant_u_maze", "humanoid_u_maze", "swimmer_u_maze"])
def test_in_a_maze_the_following_camera_is_turned_as_the_map_and_near_the_body(env_id):
    env = envs.make(env_id)
    pose = np.zeros(env.model.nq)
    pose[: len(env.model.qpos0)] = env.model.qpos0
    goal = env.maze.xy(env.maze.goals[-1])
    cameraman = Cameraman(env, pose, goal, "follow", 4 / 3)
    data = mujoco.MjData(env.model)
    geoms = np.flatnonzero((env.model.body_weldid[env.model.geom_bodyid] > 0) & (env.model.geom_rgba[:, 3] == 1))
    for cell in sorted(env.maze.free)[::3]:
        pose[:2] = env.maze.xy(cell)
        camera = cameraman.shot(pose, 1.0)
        here, down, right = (
            _project([*(pose[:2] + step), 0.1], camera, 640, 480) for step in ((0, 0), (0.3, 0), (0, 0.3))
        )
        assert down[1] > here[1]  # x down
        assert right[0] > here[0]  # y to the right
        assert abs(right[1] - here[1]) < 1
        data.qpos[:] = pose
        mujoco.mj_kinematics(env.model, data)
        pixels = np.array([_project(place, camera, 640, 480) for place in data.geom_xpos[geoms]])
        radius = env.model.geom_rbound[geoms] * 240 / np.tan(np.radians(22.5)) / camera.distance
        extent = (pixels + radius[:, None]).max(0) - (pixels - radius[:, None]).min(0)
        assert extent.max() > 480 / 12, extent


def test_the_following_camera_shows_body_and_goal():
    env = envs.make("ant")  # in the open
    generator = np.random.default_rng(0)
    for _ in range(20):
        start, goal = generator.uniform(-2, 2, (2, 2))
        pose = env.model.qpos0.copy()
        pose[:2] = start
        camera = Cameraman(env, pose, goal, "follow", 4 / 3).shot(pose, 0.0)
        for place in (start, goal):
            right, down = _project([*place, 0.1], camera, 320, 240)
            assert 0 <= right <= 320
            assert 0 <= down <= 240
        # From behind: the goal lies farther up the picture than the body.
        if np.linalg.norm(goal - start) > 0.5:
            assert _project([*goal, 0.1], camera, 320, 240)[1] < _project([*start, 0.1], camera, 320, 240)[1]


def test_the_camera_lags_and_converges():
    env = envs.make("point_u_maze")
    cameraman = Cameraman(env, np.zeros(4), np.array([9.0, 0.0]), "side", 4 / 3)
    cameraman.shot(np.zeros(4), 0.0)
    moved = np.array([1.0, 0, 9, 0])
    positions = [cameraman.shot(moved, 0.1).lookat[0] for _ in range(40)]
    assert 0.1 < positions[0] < 0.5
    assert (np.diff(positions) > 0).all()
    assert positions[-1] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("camera", ["side", "follow"])
@pytest.mark.parametrize("env_id", ["point_u4_maze", "point_hardest_maze"])
def test_no_wall_hides_the_body(camera, env_id):
    """A ray from the camera hits the body first, at the center of every corridor and beside its walls."""
    env = envs.make(env_id)
    data, ball = mujoco.MjData(env.model), env.model.body("point").id
    path = env.maze.xy(sorted(env.maze.free))
    goal = env.maze.xy(env.maze.goals[-1])
    cameraman, hidden, elevations = Cameraman(env, np.append(path[0], goal), goal, camera, 4 / 3), [], []
    for aside in (0, 0.3, -0.3):
        for place in path:
            pose = np.array([*(place + aside), *goal])
            shot = cameraman.shot(pose, 0.3)
            data.qpos[:] = pose
            mujoco.mj_kinematics(env.model, data)
            ray = data.body("point").xpos - shot.eye
            # The goal's ball is transparent, so its body is excluded.
            hit = np.array([-1], np.int32)
            target = env.model.body("target").id
            mujoco.mj_ray(env.model, data, shot.eye, ray / np.linalg.norm(ray), None, 1, target, hit)
            elevations.append(shot.elevation)
            if env.model.geom_bodyid[hit[0]] != ball:
                hidden.append(place + aside)
    assert not hidden
    assert max(elevations) > (-50 if camera == "side" else -65)  # where nothing blocks the view it stays low


def test_unknown_camera():
    with pytest.raises(UsageError, match=r"'drone'; take follow, side, top"):
        Cameraman(envs.make("point_u_maze"), np.zeros(4), np.zeros(2), "drone", 1.0)


STEP_THEN_RENDER = """
import os
before = dict(os.environ)
from crlviz import cli, envs
from crlviz.rendering import renderers
env = envs.make("ant")
renderers.mujoco.mj_step(env.model, renderers.mujoco.MjData(env.model))
assert dict(os.environ) == before
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    name = renderers.open_renderer(env.model, 32, 32).name
print(name, *[warning.message for warning in caught if "MUJOCO_GL" in str(warning.message)], sep="; ")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "warning"),
    [
        ("nonsense", "MUJOCO_GL=nonsense is none of egl, osmesa, cgl, glfw and disable; pictures are drawn by casting"),
        ("cgl", "MUJOCO_GL=cgl does not work here; pictures are drawn by casting rays"),  # macOS only
    ],
)
def test_an_unusable_mujoco_gl_affects_only_rendering(value, warning):
    code = [sys.executable, "-c", STEP_THEN_RENDER]
    done = subprocess.run(code, capture_output=True, text=True, env={**os.environ, "MUJOCO_GL": value}, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"ray casting, without OpenGL; {warning}")
