"""The picture and the film of behaviors: the hardest episode, alike for all agents, and what the picture claims."""

import re

import numpy as np
import pytest
import xarray as xr

from analyses import behavior
from analyses.behavior import behavior_picture, hardest_episode, naming
from crlviz import datasets, envs
from crlviz.errors import UsageError
from crlviz.rendering import video
from crlviz.rollouts import rollout
from tests.helpers.policies import FixedGoal, push, stay, steer
from tests.helpers.toys import FACTS, ROOM, Handmade, assert_described


@pytest.fixture(scope="module")
def room():
    return envs.make("point_maze", layout=ROOM)


@pytest.fixture(scope="module")
def agents(room):
    """Depth 4 stands still, 8 pushes into a wall, 16 reaches the goal; two seeds each."""
    policies = {4: stay, 8: push(0, 1), 16: steer}
    return [
        Handmade(room, policy, facts=FACTS | {"depth": depth, "seed": seed}, source=f"d{depth}s{seed}")
        for depth, policy in policies.items()
        for seed in range(2)
    ]


@pytest.fixture(scope="module")
def no_maze():
    env = FixedGoal(1.0, (0, 2))
    assert env.model.nq == 4  # builds the model while the environment still has its maze
    env.maze = None
    return env


@pytest.fixture(scope="module")
def dataset(agents):
    return naming.compute(agents, episodes=5)


def test_the_critical_depth_is_where_the_goal_is_reached(dataset):
    assert "fewer than 3 seeds" in naming.summary(dataset)
    bare = dataset.drop_dims(["shown", "moment"])
    more = xr.concat([bare.isel(seed=[0]).assign_coords(seed=[seed]) for seed in range(3)], dim="seed")
    assert naming.find_critical_depth(more).depth == 16
    assert "Critical depth: 16;" in naming.summary(more)
    assert naming.find_critical_depth(more.sel(depth=[4, 8])).depth is None
    widths = more.rename(seed="width").assign_coords(width=[8, 16, 32]).assign_attrs(differing="depth\nwidth")
    assert "not looked for" in naming.find_critical_depth(widths).sentence


def test_the_shown_episode_is_the_hardest_and_the_same_for_all(agents, room, dataset):
    runs = rollout(agents[0], 5, env=room)
    starts, goals = runs.state.values[:, 0, :2], runs.goal.values
    far = [room.maze.geodesic(start[None], goal)[0] for start, goal in zip(starts, goals, strict=True)]
    hardest = int(np.argmax(far))
    assert len({round(float(way), 3) for way in far}) > 1
    for _, facts, part in datasets.each(dataset):
        assert hardest_episode.index(part) == hardest
        np.testing.assert_allclose(part.goal, goals[hardest])
        np.testing.assert_allclose(part.path.values[0], starts[hardest], rtol=1e-6)
        gone = np.linalg.norm(part.path.values[-1] - part.goal.values)
        assert (gone < room.goal_distance) == (facts["depth"] == 16)


def test_the_path_ends_where_the_body_fails():
    env = FixedGoal(1.0, (0, 2))
    dataset = naming.compute([Handmade(env, steer)], episodes=1, stills=False)
    path = dataset.path.values.reshape(-1, 2)
    y = path[np.isfinite(path[:, 1]), 1]
    assert len(y) < env.episode_length
    assert (y <= env.line).all()
    assert "still" not in dataset


def test_the_shown_seed_is_the_median():
    for seeds, middle in ((3, 1), (4, 1), (1, 0)):
        ranks = np.random.default_rng(0).permutation(seeds)  # seed k is the ranks[k]-th best
        dataset = _planted({4: ranks[:, None], 8: 10 - ranks[:, None]})
        assert hardest_episode.typical(dataset)["depth 4"] == f"d4s{ranks.tolist().index(middle)}"
    many = _planted({depth: np.zeros((1, 1)) for depth in (4, 8, 16, 32, 64, 128, 256)})
    assert list(hardest_episode.typical(many)) == ["depth 4", "depth 16", "depth 64", "depth 256"]


def test_stills_are_of_the_same_moments_from_the_same_start(dataset, agents):
    still = dataset.still.astype(int)
    assert dataset.shown.values.tolist() == ["depth 4", "depth 8", "depth 16"]
    assert still.dtype.kind == "i"
    assert dataset.still.dtype == np.uint8
    assert still.shape[-3:] == (240, 320, 3)
    first = still.isel(moment=0)
    assert abs(first - first.isel(shown=0)).max() == 0
    moved = abs(still.isel(moment=-1) - first).mean(("row", "column", "channel")).values
    assert moved[0] < 0.1  # depth 4 stands still
    assert (moved[1:] > 5).all()
    times = dataset.moment_time.values
    part = dataset.sel(depth=16).isel(seed=0)
    steps = part.steps_to_goal.values[hardest_episode.index(part)]
    assert times[0] == 0
    assert times[-1] >= steps * 0.1 - 1e-9  # depth 16 is seen to arrive


def test_the_film_shows_the_hardest_episode_of_each_depth(agents, dataset, monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(video, "write", lambda path, rows, size: shown.extend(rows) or "hand")
    assert behavior.film(agents, dataset, tmp_path / "all.mp4") == "drawn by hand"
    assert [[panel.caption for panel in row] for row in shown] == [["depth 4", "depth 8", "depth 16"]]
    poses = [panel.episode.pose.values for panel in shown[0]]
    for pose, depth in zip(poses, (4, 8, 16), strict=True):
        np.testing.assert_array_equal(pose[0], poses[0][0])  # start and goal
        path = dataset.path.sel(depth=depth).isel(seed=0)
        np.testing.assert_allclose(pose[:, :2], path[: len(pose)], rtol=1e-6)
    steps = dataset.moment_time.values[-1] / 0.1
    assert {len(pose) for pose in poses} == {min(round(steps) + 16, dataset.sizes["time"])}  # 1.5 s more


@pytest.mark.slow
def test_the_film_is_written_as_a_gif(no_maze, tmp_path):
    """Also of a body that falls; the video ends when the last episode shown has ended."""
    import imageio.v3 as imageio

    agents = [Handmade(no_maze, steer)]
    dataset = naming.compute(agents, episodes=3)
    assert "drawn by" in behavior.film(agents, dataset, tmp_path / "falls.gif", size=(64, 48))
    frames = imageio.imread(tmp_path / "falls.gif")
    assert frames.shape[2] == 64
    assert 15 < len(frames) < no_maze.episode_length
    assert "depth 4: fell forward at speed" in str(behavior.plot(dataset).to_dict()["vconcat"][0]["title"])


@pytest.mark.slow
def test_a_dataset_with_the_names_of_older_versions_gives_the_same_picture(dataset):
    old = {"stayed near the start": "stands still", "did not reach the goal": "never reaches"}
    old |= {"reached the goal": "reaches the goal"}
    assert set(np.unique(dataset.name)) == set(old)
    before = [old.get(name, name) for name in dataset.behavior.values]
    names = np.array([old[name] for name in dataset.name.values.ravel()], object).reshape(dataset.name.shape)
    older = dataset.assign(name=dataset.name.copy(data=names)).assign_coords(behavior=before)
    assert behavior.plot(older).to_dict() == behavior.plot(dataset).to_dict()


def test_the_bars_begin_with_what_reached_the_goal(dataset):
    bars = behavior.plot(dataset).to_dict()["vconcat"][-1]
    scale = bars["layer"][0]["encoding"]["color"]["scale"]["domain"]
    assert scale == ["reached the goal", "stayed near the start", "did not reach the goal"]


def test_the_map_is_turned_as_the_camera_is():
    """Ahead of the camera is above on the map, and what it has at its right is at the right."""
    right_of = {0: [0, -1], 90: [1, 0], 180: [0, 1], -90: [-1, 0]}  # looking along x, y, -x and -y
    for azimuth, right in right_of.items():
        ahead = [np.cos(np.radians(azimuth)), np.sin(np.radians(azimuth))]
        down, across = behavior_picture._turned(np.array([ahead, right]), azimuth).T
        np.testing.assert_allclose([down, across], [[-1, 0], [0, 1]], atol=1e-9)


# ---- claims


def _planted(times, **others):
    """A Dataset of one depth after the other: times at goal [seeds, episodes], and other descriptors of that shape."""
    depths = list(times)
    shape = ("depth", "seed", "episode")
    values = {"time_at_goal": times, "geodesic": {depth: 1 + 0 * times[depth] for depth in depths}} | others
    stacked = {name: np.stack([by_depth[depth] for depth in depths]).astype(float) for name, by_depth in values.items()}
    dataset = xr.Dataset(
        {name: (shape, values, {"long_name": name, "units": "1"}) for name, values in stacked.items()},
        coords={"depth": depths, "seed": np.arange(len(times[depths[0]]))},
        attrs={"env": "here", "episodes": 1, "differing": "depth\nseed"},
    )
    share = (*shape[:2], "behavior"), np.tile(np.eye(len(behavior.NAMES))[0], (*dataset.time_at_goal.shape[:2], 1))
    sources = [[f"d{depth}s{seed}" for seed in dataset.seed.values] for depth in depths]
    return dataset.assign(share=share).assign_coords(behavior=behavior.NAMES, source=(shape[:2], sources))


def _claim(dataset):
    groups = list(datasets.groups(dataset))
    return behavior_picture.claim(dataset, groups, behavior.find_critical_depth(dataset))


def test_the_title_says_what_was_found():
    far, near = np.array([[10.0], [12], [14]]), np.array([[60.0], [62], [64]])
    title, note = _claim(_planted({4: far, 16: near}))
    assert title == "Depth 16 stays 50 steps longer at its goals than depth 4"
    assert "95 % interval" in note
    assert "3 seeds" in note
    title, note = _claim(_planted({4: far, 16: far + 1}))
    assert title == "Steps at the goal: 12 at depth 4, 13 at depth 16; 3 seeds cannot tell them apart"
    assert re.search(r"3 seeds would tell a difference of \d+ steps at the goal", note)
    title, note = _claim(_planted({4: far[:1], 16: 0 * near[:1]}))
    assert title == "Goals reached: 100 % (depth 4), 0 % (depth 16)"
    assert "one seed, so no claim" in note


def test_no_difference_is_named_that_no_episode_has_room_for():
    """Seeds 120 steps apart find differences from some 650 steps on: possible in 800 steps, not in 300."""
    far = np.array([[20.0], [140], [260]])
    planted = _planted({4: far, 16: far + 10})
    for steps, words in ((800, "cannot tell them apart"), (300, "are too few to tell")):
        path = (*planted.source.dims, "time", "axis"), np.zeros((2, 3, steps, 2))
        title, note = _claim(planted.assign(path=path))
        assert title == f"Steps at the goal: 140 at depth 4, 150 at depth 16; 3 seeds {words}"
        assert (f"of {steps} steps" in note) == (steps == 800)
        told = [float(number) for number in re.findall(r"difference of (\d+)", note)]
        assert all(number <= steps for number in told)
        assert len(told) == (steps == 800)
        sentence = naming.find_critical_depth(planted.assign(path=path)).sentence
        assert ("3 seeds vary too much to find any" in sentence) == (steps == 300)


def test_descriptors_are_drawn_where_they_differ_beyond_chance():
    rng = np.random.default_rng(0)
    time = {4: rng.normal(10, 1, (5, 1)), 16: rng.normal(60, 1, (5, 1))}
    same = {depth: rng.normal(0.5, 0.1, (5, 1)) for depth in time}
    fast = {4: rng.normal(0.1, 0.01, (5, 1)), 16: rng.normal(0.9, 0.01, (5, 1))}
    dataset = _planted(time, wall_contact=same, speed=fast)
    groups, critical = list(datasets.groups(dataset)), behavior.find_critical_depth(dataset)
    assert behavior_picture.differing(groups, critical) == ["speed"]
    text = str(behavior.plot(dataset).to_dict())
    assert "What else changes from depth 4 to 16" in text
    assert "fraction of time at a wall" not in text
    few = dataset.isel(seed=[0])
    assert "What else changes" not in str(behavior.plot(few).to_dict())
    # Compared only where time at goal differs: else one page would test two families of hypotheses.
    equal = _planted({4: time[4], 16: time[4]}, speed=fast)
    assert behavior_picture.differing(list(datasets.groups(equal)), behavior.find_critical_depth(equal)) == []


def test_a_saved_dataset_gives_the_same_chart(dataset, tmp_path):
    assert_described(dataset)
    datasets.save(dataset, tmp_path / "behavior.nc")
    with xr.open_dataset(tmp_path / "behavior.nc") as read:
        chart = behavior.plot(read).to_dict()
        assert chart == behavior.plot(dataset).to_dict()
    assert "2 seeds" in str(chart["title"])
    linked = behavior.plot(dataset, play="play.html").to_dict()["datasets"].values()
    links = {row["link"] for rows in linked for row in rows if "link" in row}
    parts = [part.isel(episode=hardest_episode.index(part)) for _, _, part in datasets.each(dataset)]
    start, goal = ((float(value) for value in place) for place in (parts[0].path.values[0], parts[0].goal.values))
    where = "play.html#goal={:.3f},{:.3f}&from={:.3f},{:.3f}&agent=depth%20".format(*goal, *start)
    assert links == {f"{where}{depth}" for depth in (4, 8, 16)}


def test_a_dataset_with_the_names_of_an_older_version_gives_the_same_chart(dataset):
    old = {"behavior": "behaviour", "geodesic": "way", "displacement_over_geodesic": "reach"}
    old["travel_over_geodesic"] = "roaming"
    bare = dataset.drop_dims(["shown", "moment"])  # an older version had no stills
    assert behavior.plot(bare.rename(old)).to_dict() == behavior.plot(bare).to_dict()


def test_mistakes(room, no_maze):
    other = Handmade(no_maze, stay, facts=FACTS | {"depth": 8})
    with pytest.raises(UsageError, match="0 episodes"):
        naming.compute([Handmade(room, stay)], episodes=0)
    with pytest.raises(UsageError, match="have different bodies or worlds"):
        naming.compute([Handmade(room, stay), other], episodes=2)
