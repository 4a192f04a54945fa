"""Descriptors of episodes written by hand, and names of policies whose behavior is known."""

import copy

import mujoco
import numpy as np
import pytest
import xarray as xr

from analyses.behavior import naming
from analyses.behavior.descriptors import DESCRIPTORS, describe
from crlviz import envs
from crlviz.rollouts import rollout
from tests.helpers.policies import FixedGoal, circle, push, stay, steer
from tests.helpers.toys import ROOM, Handmade


@pytest.fixture(scope="module")
def room():
    return envs.make("point_maze", layout=ROOM)


# ---- descriptors


def _walk(env, places, goal, body, length=None):
    """A rollout of one episode through positions [N, 2].

    A pose is the position, then ``body``, then the goal. If ``length`` is longer than the path, the episode fails after
    the last position.
    """
    places, goal = np.asarray(places, float), np.asarray(goal, float)
    steps = length or len(places) - 1
    padded = np.concatenate([places, np.repeat(places[-1:], steps + 1 - len(places), axis=0)])
    pose = np.concatenate([padded[:-1], np.tile(body, (steps, 1)), np.tile(goal, (steps, 1))], axis=1)
    distance = np.linalg.norm(padded[1:] - goal, axis=1)
    alive = np.arange(steps) < len(places) - 1
    height = np.full((steps, env.goal_dim - 2), body[0])  # a humanoid's goal has a height
    return xr.Dataset(
        {
            "state": (("episode", "time", "state_index"), pose[None]),
            "pose": (("episode", "time", "joint"), pose[None]),
            "achieved": (("episode", "time", "goal_index"), np.concatenate([padded[1:], height], axis=1)[None]),
            "goal": (("episode", "goal_index"), np.append(goal, height[0])[None]),
            "distance": (("episode", "time"), distance[None]),
            "success": (("episode", "time"), (distance < 0.5)[None] & alive),
            "alive": (("episode", "time"), alive[None]),
        }
    )


ANT = np.array([0.75, 1, 0, 0, 0, 0, 1, 0, -1, 0, -1, 0, 1])  # height, quaternion, joints at reset


def _numbers(dataset):
    return {name: dataset[name].item() for name in dataset.data_vars}


def test_descriptors_of_a_walk_computed_by_hand():
    """Forward, back and forward again along a corridor of 4 m cells."""
    env = envs.make("ant_u_maze")
    start, goal = env.maze.xy((1, 1)), env.maze.xy((1, 3))  # 8 m apart, straight
    y = start[1] + np.array([0, 1, 2, 3, 4, 3, 4, 5, 6, 7, 7.8, 7.9])
    numbers = _numbers(describe(env, _walk(env, np.stack([np.full(12, start[0]), y], 1), goal, ANT)))
    assert numbers["geodesic"] == 8
    assert numbers["progress"] == pytest.approx(7.9 / 8)
    assert numbers["steps_to_goal"] == 10
    assert numbers["time_at_goal"] == 2
    assert numbers["staying"] == 1
    assert numbers["path_over_geodesic"] == pytest.approx((4 + 1 + 4 + 0.8) / 8)
    assert numbers["displacement_over_geodesic"] == pytest.approx(7.9 / 8)
    assert numbers["speed"] == pytest.approx(9.9 / 11 / env.dt)
    assert numbers["fell"] == numbers["fall_speed"] == numbers["time_fallen"] == numbers["above_wall"] == 0
    assert numbers["wall_contact"] == 0
    assert numbers["torso_height"] == pytest.approx(0.75)
    assert numbers["uprightness"] == pytest.approx(1)


def test_moves_within_the_goals_diameter_do_not_count_as_travel():
    env = envs.make("ant_u_maze")
    start, goal = env.maze.xy((1, 1)), env.maze.xy((1, 3))
    shake = start + np.array([(0, 0.4 * (k % 2)) for k in range(40)])
    assert _numbers(describe(env, _walk(env, shake, goal, ANT)))["travel_over_geodesic"] == 0
    there_and_back = start + np.array([(0, 4.0 * (k % 2)) for k in range(5)])
    assert _numbers(describe(env, _walk(env, there_and_back, goal, ANT)))["travel_over_geodesic"] == pytest.approx(
        16 / 8
    )


def test_descriptors_of_a_fall():
    env = envs.make("ant_u_maze")
    start, goal = env.maze.xy((1, 1)), env.maze.xy((1, 3))
    places = start + np.array([(0, 0.1 * k) for k in range(21)])
    numbers = _numbers(describe(env, _walk(env, places, goal, ANT, length=50)))
    assert numbers["fell"] == 1
    assert numbers["fall_speed"] == pytest.approx(0.1 / env.dt)
    assert numbers["time_fallen"] == 30
    tilted = ANT.copy()
    tilted[1:5] = np.cos(np.radians(35)), np.sin(np.radians(35)), 0, 0  # by 70 degrees
    numbers = _numbers(describe(env, _walk(env, places, goal, tilted)))
    assert numbers["uprightness"] == pytest.approx(np.cos(np.radians(70)))
    assert numbers["time_fallen"] == 20


def test_air_time_wall_contact_and_above_wall():
    env = envs.make("humanoid_u_maze")
    start, goal = env.maze.xy((1, 1)), env.maze.xy((3, 1))  # the wall between them is 1 m high and 2 m thick
    upright = np.concatenate([[1.3, 1, 0, 0, 0], np.zeros(17)])  # its feet 7 mm above the floor
    flat = np.linspace(start, goal, 41)
    walked = _numbers(describe(env, _walk(env, flat, goal, upright)))
    jumped = _numbers(describe(env, _walk(env, flat, goal, upright + np.eye(22)[0])))
    assert walked["geodesic"] > 8
    assert jumped["air_time"] == 1
    assert walked["air_time"] == 0
    # From 1 m to 3 m it is over the wall; 10 % of a 2 m cell on both sides are left out.
    assert jumped["above_wall"] == sum(1.2 < x - start[0] < 2.8 for x in flat[1:, 0])
    low = upright - 0.6 * np.eye(22)[0]
    through = _numbers(describe(env, _walk(env, flat, goal, low)))
    assert through["above_wall"] == 0
    assert through["wall_contact"] > 0.5
    assert jumped["wall_contact"] == 0


def test_contact_and_air_time_against_mujocos_collisions():
    """Random poses near a wall and the floor: compare with the distances of MuJoCo's own contacts."""
    env = envs.make("humanoid_u_maze")
    rng = np.random.default_rng(0)
    model = copy.copy(env.model)
    model.geom_margin[:] = 0.06
    data = mujoco.MjData(model)
    seen = set()
    for _ in range(40):
        body = np.concatenate([[rng.uniform(1.2, 1.45), 1, 0, 0, 0], 0.5 * rng.normal(size=17)])
        place, goal = env.maze.xy((1, 1)) - [rng.uniform(0.3, 0.99), 0], env.maze.xy((1, 3))
        numbers = _numbers(describe(env, _walk(env, [place, place], goal, body)))
        data.qpos[:] = np.concatenate([place, body, goal])
        mujoco.mj_forward(model, data)
        gaps = {"wall": np.inf, "floor": np.inf}
        for contact in data.contact:
            for geom in contact.geom:
                kind = model.geom(geom).name.partition("_")[0]
                if kind in gaps:
                    gaps[kind] = min(gaps[kind], contact.dist)
        assert numbers["wall_contact"] == (gaps["wall"] < 0.01)
        assert numbers["air_time"] == (gaps["floor"] > 0.05)
        seen.add((numbers["wall_contact"], numbers["air_time"]))
    assert len(seen) == 4


def test_a_point_mass_has_no_torso(room):
    agent = Handmade(room, push(0, 1))
    described = describe(room, rollout(agent, 2, length=40))
    for name in ("torso_height", "uprightness", "air_time", "above_wall", "time_fallen"):
        assert name not in described
        assert f"{name}: no torso" in described.attrs["absent"]
    assert set(described.data_vars) == {name for name, what in DESCRIPTORS.items() if set(what.needs) <= {"maze"}}
    # It moves 2.5 m, at most 0.3 m per step, and then pushes against the wall.
    assert 1 - 12 / 40 < float(described.wall_contact[0]) < 1 - 8 / 40


# ---- names


def _names(env, policy, episodes=4, **options):
    dataset = naming.compute([Handmade(env, policy)], episodes=episodes, stills=False, **options)
    share = dataset.share.isel(depth=0)
    assert share.sum() == pytest.approx(1)
    return {str(name): float(share.sel(behavior=name)) for name in dataset.behavior.values if share.sel(behavior=name)}


@pytest.mark.slow
def test_names_of_known_policies(room):
    assert _names(room, stay) == {"stayed near the start": 1}
    assert _names(room, steer) == {"reached the goal": 1}
    assert _names(room, push(0, 1)) == {"did not reach the goal": 1}
    assert _names(room, circle) == {"roamed": 1}
    # It falls where y exceeds the line: on the way, close to the goal, or while it moves away from the goal.
    assert _names(FixedGoal(1.0, (0, 2)), steer) == {"fell forward at speed": 1}
    assert _names(FixedGoal(1.6, (0, 2)), steer) == {"fell near the goal": 1}
    assert _names(FixedGoal(1.0, (0, -2)), push(0, 1)) == {"fell": 1}


def test_names_of_walkers():
    walker = {
        "fell": 0,
        "time_at_goal": 30,
        "staying": 1,
        "travel_over_geodesic": 1,
        "displacement_over_geodesic": 1,
        "progress": 1,
        "time_fallen": 0,
    }
    upright = walker | {"uprightness": 0.95, "above_wall": 0}
    assert naming.behavior(upright) == "walked to the goal"
    assert naming.behavior(upright | {"uprightness": 0.5}) == "reached the goal"
    assert naming.behavior(upright | {"above_wall": 3}) == "went over a wall"
    assert naming.behavior(upright | {"travel_over_geodesic": 3, "staying": 0.1}) == "roamed"
    assert naming.behavior(upright | {"fell": 1, "fall_speed": 0}) == "fell near the goal"
    assert naming.behavior({}) == "did not reach the goal"
