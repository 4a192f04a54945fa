"""The ring buffer against a plain list, and hindsight goals against the enumerated distribution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from crlviz.algorithms.batches import Rows
from training.loop import buffer as replays


def _rows(times: np.ndarray, trajectory: np.ndarray) -> replays.Transitions:
    """Steps [T, E] that hold their own time and environment, so that a sampled row shows where it was."""
    environment = np.broadcast_to(np.arange(trajectory.shape[1]), trajectory.shape)
    label = np.stack([np.broadcast_to(times[:, None], trajectory.shape), environment], -1).astype(np.float32)
    return replays.Transitions(
        state=jnp.asarray(label),
        action=jnp.asarray(-label),
        achieved=jnp.asarray(label * 2),
        trajectory=jnp.asarray(trajectory, jnp.int32),
    )


def _empty(capacity: int, environments: int) -> replays.Replay:
    example = jax.tree.map(lambda leaf: leaf[0], _rows(np.arange(1), np.zeros((1, environments), int)))
    return replays.create(capacity, example)


def _filled(trajectory: np.ndarray, capacity: int, unroll: int) -> replays.Replay:
    """A buffer after inserting all rows of trajectory [T, E], one unroll at a time."""
    ring = _empty(capacity, trajectory.shape[1])
    for first in range(0, len(trajectory), unroll):
        times = np.arange(first, first + unroll)
        ring = insert(ring, _rows(times, trajectory[times]))
    return ring


insert = jax.jit(replays.insert)
sample = jax.jit(replays.sample, static_argnums=(2, 3, 4))
gather = jax.jit(replays.gather, static_argnums=(2, 3))


# ---- the ring buffer


@settings(max_examples=25)
@given(unroll=st.integers(1, 4), turns=st.integers(1, 4), environments=st.integers(1, 3), inserts=st.integers(0, 10))
def test_the_buffer_holds_the_newest_rows(unroll, turns, environments, inserts):
    capacity = unroll * turns
    trajectory = np.arange(inserts * unroll)[:, None] // 3 + np.zeros((1, environments), int)
    ring = _filled(trajectory, capacity, unroll)
    expected = list(range(inserts * unroll))[-capacity:]
    assert ring.capacity == capacity
    assert int(ring.size) == len(expected)
    order = (int(ring.head) - int(ring.size) + np.arange(len(expected))) % capacity  # oldest first
    state = np.asarray(ring.rows.state)[order]
    np.testing.assert_array_equal(state[..., 0], np.array(expected).reshape(-1, 1) + np.zeros(environments))
    np.testing.assert_array_equal(state[..., 1], np.arange(environments) + np.zeros((len(expected), 1)))
    np.testing.assert_array_equal(np.asarray(ring.rows.action)[order], -state)
    np.testing.assert_array_equal(np.asarray(ring.rows.trajectory)[order], trajectory[np.array(expected, int)])


# ---- offsets


def _truncated_geometric(remaining: int, gamma: float) -> np.ndarray:
    weight = np.array([gamma**k for k in range(1, remaining + 1)])
    return weight / weight.sum()


@settings(max_examples=30)
@given(
    remaining=st.integers(1, 400),
    gamma=st.one_of(st.sampled_from([1.0, 0.999999, 0.99, 0.5, 0.01]), st.floats(0.1, 1)),
)
def test_offsets_follow_the_truncated_geometric_distribution(remaining, gamma):
    """On an even grid, the inverse distribution function gives every value its probability to within a grid point."""
    count = 20_000
    uniform = (np.arange(count, dtype=np.float32)) / count
    offset = np.asarray(replays.future_offset(jnp.asarray(uniform), jnp.full(count, remaining), gamma))
    share = np.bincount(offset, minlength=remaining + 1) / count
    assert share[0] == 0
    assert len(share) == remaining + 1
    assert (np.diff(offset) >= 0).all()
    # In float32 the borders between values move by up to a few grid points.
    np.testing.assert_allclose(share[1:], _truncated_geometric(remaining, gamma), atol=4 / count)


def test_offsets_at_the_edges():
    last = np.nextafter(np.float32(1), np.float32(0))
    for gamma in (1.0, 0.999999, 0.99, 1e-3):
        for remaining in (1, 2, 1000, 100_000):
            both = replays.future_offset(jnp.array([0.0, last]), jnp.array([remaining, remaining]), gamma)
            assert int(both[0]) == 1
            assert 1 <= int(both[1]) <= remaining
        assert (replays.future_offset(jnp.linspace(0, 0.999, 50), jnp.ones(50, int), gamma) == 1).all()
    assert int(replays.future_offset(jnp.array(last), jnp.array(1000), 1.0)) == 1000


# ---- sampling


def _episodes(steps: int, environments: int, lengths: list[int]) -> np.ndarray:
    """Trajectory numbers [T, E] of episodes that end early, at different times in each environment."""
    columns = []
    for environment in range(environments):
        numbers, episode = [], 0
        while len(numbers) < steps:
            numbers += [episode] * lengths[(episode + environment) % len(lengths)]
            episode += 1
        columns.append(numbers[:steps])
    return np.array(columns).T


@settings(max_examples=20)
@given(
    inserts=st.integers(4, 12),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    gamma=st.sampled_from([1.0, 0.99, 0.5]),
    seed=st.integers(0, 1000),
)
def test_goals_come_later_in_the_same_episode_and_window(inserts, lengths, gamma, seed):
    unroll, capacity, environments, window = 5, 25, 3, 15
    trajectory = _episodes(inserts * unroll, environments, lengths)
    ring = _filled(trajectory, capacity, unroll)
    count = 600  # of 45 rows with replacement: each is almost certain to occur
    wanted = Rows("future", gamma)
    indices = sample(ring, jax.random.key(seed), count, window, wanted)
    rows = gather(ring, indices, wanted, 1.0)
    goals = rows.goal
    time, environment = np.asarray(rows.state, int).T
    goal_time, goal_environment = np.asarray(goals / 2, int).T
    np.testing.assert_array_equal(rows.action, -rows.state)
    np.testing.assert_array_equal(environment, goal_environment)
    np.testing.assert_array_equal(trajectory[time, environment], trajectory[goal_time, environment])
    # ``achieved`` is recorded after the step, so the row's own one lies one step in its future.
    assert (goal_time >= time).all()
    assert time.max() < inserts * unroll
    assert time.min() >= max(0, inserts * unroll - capacity)
    for e in range(environments):
        mine = np.unique(time[environment == e])
        np.testing.assert_array_equal(np.diff(mine), 1)  # one window without a gap, and every row of it occurs
        assert len(mine) == window
        assert goal_time[environment == e].max() <= mine[-1]


@pytest.mark.parametrize("inserts", [6, 11])  # the buffer just full, and wrapped around
@pytest.mark.parametrize("gamma", [0.8, 1.0])
def test_windows_rows_and_goals_follow_the_exact_distribution(inserts, gamma):
    """Many samples against all (row, goal) enumerated: windows and rows uniform, goals weighted by gamma^k."""
    unroll, capacity, environments, window, count, draws = 2, 12, 2, 5, 4, 6000
    trajectory = _episodes(inserts * unroll, environments, [3, 1, 4, 2])
    ring = _filled(trajectory, capacity, unroll)

    @jax.jit
    def draw(keys):
        def one(key):
            wanted = Rows("future", gamma)
            batch = replays.gather(ring, replays.sample(ring, key, count, window, wanted), wanted, 1.0)
            return batch.state, batch.goal / 2

        return jax.vmap(one)(keys)

    rows, goals = (np.asarray(x, int).reshape(-1, 2) for x in draw(jax.random.split(jax.random.key(0), draws)))
    oldest = inserts * unroll - capacity
    starts = range(oldest, inserts * unroll - window + 1)
    expected: dict[tuple[int, int, int], float] = {}
    for environment in range(environments):
        for start in starts:
            for time in range(start, start + window):
                later = [
                    t
                    for t in range(time, start + window)
                    if trajectory[t, environment] == trajectory[time, environment]
                ]
                for goal, share in zip(later, _truncated_geometric(len(later), gamma), strict=True):
                    key = (environment, time, goal)
                    expected[key] = expected.get(key, 0) + share / len(starts) / window / environments
    found = dict.fromkeys(expected, 0)
    for (time, environment), (goal, _) in zip(rows.tolist(), goals.tolist(), strict=True):
        found[environment, time, goal] += 1  # a KeyError means a pair that must never be drawn
    frequency = np.array(list(found.values()))
    probability = np.array(list(expected.values()))
    assert probability.sum() == pytest.approx(1)
    # Rows of one sample share their windows: the mean stays exact, the variance is close to the multinomial one.
    assert chisquare(frequency, probability * frequency.sum()).pvalue > 1e-3
    assert frequency.min() > 0


def test_a_buffer_not_yet_full_gives_no_unwritten_row():
    trajectory = np.zeros((6, 2), int)
    ring = _filled(trajectory, 30, 2)
    draw = functools.partial(replays.sample, ring, count=8, window=4, rows=Rows("future", 0.9))
    indices = jax.jit(jax.vmap(lambda key: draw(key)))(jax.random.split(jax.random.key(0), 200))
    for times in (indices.time, indices.goal_time):
        assert int(times.max()) == 5  # the newest row occurs
        assert int(times.min()) == 0


def test_memory_is_linear_in_the_window():
    window, environments, count = 997, 3, 64
    ring = _empty(2 * window, environments)
    draw = functools.partial(replays.sample, count=count, window=window, rows=Rows("future", 0.99))
    jaxpr = jax.make_jaxpr(draw)(ring, jax.random.key(0))
    sizes = [variable.aval.size for variable in _variables(jaxpr.jaxpr) if hasattr(variable.aval, "size")]
    assert max(sizes) <= 2 * window * environments * 2
    assert len(sizes) > 20


def _variables(jaxpr):
    for equation in jaxpr.eqns:
        yield from equation.outvars
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from _variables(inner)
