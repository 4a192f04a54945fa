"""What an algorithm asks for by ``Rows``: recorded steps against the environment's own rules, batches against numpy."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz.algorithms.batches import Rows, Sizes, shapes
from crlviz.envs import mazes
from crlviz.errors import UsageError
from tests.helpers.toys import FallingPoint, begun, collected, toy_config
from training.loop import buffer as replays
from training.run.building import build

# ---- what is recorded

LENGTH = 9


@cache
def _recorded() -> tuple[replays.Transitions, FallingPoint]:
    """Steps of an environment whose episodes end by falls and by a time limit, [steps, environments, ...]."""
    env = FallingPoint("falling", mazes.get("u_maze", centered=True))
    env.goal_distance = 1.0  # so that some steps are paid
    loop = build(toy_config(algorithm="sac", num_envs=16, unroll=10, window=30, replay_steps=60, episode_length=LENGTH))
    loop = dataclasses.replace(loop, env=env)
    state = jax.jit(lambda key: collected(loop, begun(loop, key)))(jax.random.key(1))
    size = int(state.replay.size)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:size], state.replay.rows), env


def test_the_recorded_steps_fit_together():
    rows, env = _recorded()
    same = rows.trajectory[1:] == rows.trajectory[:-1]
    assert same.any()
    assert not same.all()
    # XLA may compute a step twice, for the row and for the next one, and round differently.
    np.testing.assert_allclose(rows.next_state[:-1][same], rows.state[1:][same], atol=1e-6)
    np.testing.assert_array_equal(rows.commanded[:-1][same], rows.commanded[1:][same])
    np.testing.assert_allclose(rows.achieved, rows.next_state[..., list(env.goal_indices)], atol=1e-6)
    reached = np.linalg.norm(rows.achieved - rows.commanded, axis=-1) < env.goal_distance
    np.testing.assert_array_equal(rows.reward, reached)
    assert 0 < reached.mean() < 1


def test_falls_and_time_limits_are_distinguished():
    rows, env = _recorded()
    seen = {"fell": 0, "limit": 0, "goes on": 0}
    for environment in range(rows.trajectory.shape[1]):
        numbers = rows.trajectory[:, environment]
        for time in range(len(numbers) - 1):
            steps = int((numbers[: time + 1] == numbers[time]).sum())  # of its episode so far
            ended = numbers[time + 1] != numbers[time]
            fell = ended and steps < LENGTH
            seen["fell" if fell else "limit" if ended else "goes on"] += 1
            assert rows.discount[time, environment] == (not ended)
            # An episode may also fall in its last step, which does not count as truncation.
            if steps < LENGTH:
                assert rows.truncation[time, environment] == 0
            else:
                assert rows.truncation[time, environment] == (rows.next_state[time, environment, 1] <= env.line)
    assert min(seen.values()) > 0


# ---- what batches are made of it

CAPACITY, ENVIRONMENTS, DISTANCE, COUNT = 12, 2, 2.5, 4000
TRAJECTORY = np.array([[0, 0], [0, 0], [0, 1], [0, 1], [1, 1], [1, 1], [1, 1], [1, 2], [1, 2], [2, 2], [2, 2], [2, 3]])


def _ring(rows: Rows) -> replays.Replay:
    """A full buffer that has wrapped: every number tells its time (from the oldest) and its environment."""
    time, environment = np.meshgrid(np.arange(CAPACITY), np.arange(ENVIRONMENTS), indexing="ij")
    label = np.stack([time, environment], -1).astype(np.float32)
    steps = replays.Transitions(
        state=label,
        action=-label,
        achieved=label + 100,
        trajectory=TRAJECTORY.astype(np.int32),
        commanded=label + 1000,
        next_state=label + 0.5,
        reward=label[..., 0] + 7,
        discount=label[..., 0] + 20,
        truncation=label[..., 0] + 30,
    ).kept(rows)
    head = 5
    rolled = jax.tree.map(lambda leaf: jnp.asarray(np.roll(leaf, head, axis=0)), steps)
    return replays.Replay(rolled, jnp.array(head), jnp.array(CAPACITY))


def _later(time: int, environment: int) -> list[int]:
    """The times from this one on in the same episode; the window is the whole buffer."""
    return [t for t in range(time, CAPACITY) if TRAJECTORY[t, environment] == TRAJECTORY[time, environment]]


@partial(jax.jit, static_argnums=(2, 3))
def _batch(ring: replays.Replay, key: jax.Array, rows: Rows, count: int):
    return replays.gather(ring, replays.sample(ring, key, count, CAPACITY, rows), rows, DISTANCE)


@pytest.mark.parametrize(
    "rows",
    [
        Rows("future", 0.8),
        Rows("future", 1.0, pairs=True),
        Rows("future", 0.8, relabel=0.3, transitions=True),
        Rows("final", transitions=True),
        Rows("final", relabel=0.7, transitions=True),
        Rows("commanded", transitions=True),
        Rows("commanded"),
        Rows("future", relabel=0.0, transitions=True),
    ],
    ids=str,
)
def test_batches_are_those_of_a_plain_list(rows):
    batch = jax.tree.map(np.asarray, _batch(_ring(rows), jax.random.key(2), rows, COUNT))
    relabeled, offsets = 0, []
    for index in range(COUNT):
        time, environment = batch.state[index].astype(int)
        later, own = _later(time, environment), np.array([time, environment])
        np.testing.assert_array_equal(batch.action[index], -own)
        commanded = batch.goal[index, 0] >= 1000
        goal_time = int(batch.goal[index, 0]) % 100
        assert batch.goal[index, 1] % 100 == environment
        if commanded:
            assert goal_time == time
            reward = time + 7
        else:
            relabeled += 1
            assert goal_time in (later[-1:] if rows.goals == "final" else later)
            offsets.append(goal_time - time)
            reward = float(goal_time - time < DISTANCE)
        if rows.transitions:
            assert batch.reward[index] == reward
            np.testing.assert_array_equal(batch.next_state[index], own + 0.5)
            assert (batch.discount[index], batch.truncation[index]) == (time + 20, time + 30)
        if rows.pairs:
            np.testing.assert_array_equal(batch.goal_state[index], [goal_time, environment])
            np.testing.assert_array_equal(batch.goal_action[index], [-goal_time, -environment])
    share = 0.0 if rows.goals == "commanded" else rows.relabel
    assert abs(relabeled / COUNT - share) < 0.04  # five standard deviations
    if rows.goals == "future" and share:
        assert len(set(offsets)) > 3
    assert len({tuple(state) for state in batch.state}) == CAPACITY * ENVIRONMENTS
    wanted = shapes(rows, Sizes(2, 2, 2), COUNT)
    assert jax.tree.map(jnp.shape, batch) == jax.tree.map(jnp.shape, wanted)


def test_a_share_is_independent_of_which_row_and_goal_are_drawn():
    """Rows of a share are those of all rows, with some goals put back."""
    whole, part = Rows("future", 0.8), Rows("future", 0.8, relabel=0.5)
    both, some = (jax.tree.map(np.asarray, _batch(_ring(r), jax.random.key(4), r, 500)) for r in (whole, part))
    np.testing.assert_array_equal(both.state, some.state)
    kept = some.goal[:, 0] < 1000
    assert 0.4 < kept.mean() < 0.6
    np.testing.assert_array_equal(both.goal[kept], some.goal[kept])


def test_a_buffer_keeps_only_what_is_asked_for():
    def fields(rows: Rows) -> set[str]:
        return {name for name, leaf in vars(replays.example(rows, Sizes(3, 2, 2), 4)).items() if leaf is not None}

    always = {"state", "action", "achieved", "trajectory"}
    step = {"next_state", "discount", "truncation"}
    assert fields(Rows("future", 0.9)) == fields(Rows("future", 0.9, pairs=True)) == always
    assert fields(Rows("final", relabel=0.5)) == always | {"commanded"}
    assert fields(Rows("final", transitions=True)) == always | step
    assert fields(Rows("commanded", transitions=True)) == always | step | {"commanded", "reward"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"goals": "past"}, "goals are 'past'; take future, final, commanded"),
        ({"goals": "future", "gamma": 0.0}, "gamma is 0.0"),
        ({"goals": "final", "relabel": 1.1}, "share of relabeled rows is 1.1; it must be from 0 to 1"),
        ({"goals": "commanded", "pairs": True}, "pairs need goals that were achieved"),
    ],
)
def test_wrong_rows_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        Rows(**settings)
