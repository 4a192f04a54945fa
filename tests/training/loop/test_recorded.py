"""Batches of a data set: which rows and goals are drawn, against enumerations in numpy and OGBench's closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz.algorithms.batches import Rows, Shares, Sizes, shapes
from crlviz.errors import UsageError
from tests.helpers.recorded import pushed
from training.loop import recorded
from training.loop.recorded import Recorded

LENGTHS = [3, 1, 7, 12]  # transitions
COUNT = 60_000


@pytest.fixture(scope="module")
def data():
    made = pushed(LENGTHS)
    padding = np.full((5, made.state.shape[1]), np.nan, np.float32)  # rows that must never be drawn
    state = np.concatenate([made.state, padding])
    action = np.concatenate([made.action, padding[:, :2]])
    return Recorded(*map(jnp.asarray, (state, action)), jnp.asarray(made.ends, jnp.int32))


def _all_rows():
    """(row, last row of its trajectory) of every transition."""
    first, found = 0, []
    for length in LENGTHS:
        found += [(first + index, first + length) for index in range(length)]
        first += length + 1
    return found


def test_transitions_are_numbered_over_ragged_trajectories(data):
    assert int(data.transitions) == sum(LENGTHS)
    rows = np.stack(recorded.rows_of(data, jnp.arange(sum(LENGTHS))), -1)
    np.testing.assert_array_equal(rows, _all_rows())


def _frequencies(data, shares, row, last):
    """Shares [rows] of the goals that are drawn for one row."""
    ask = jax.jit(lambda key: recorded.goal_rows(data, key, jnp.full(COUNT, row), jnp.full(COUNT, last), shares))
    return np.bincount(ask(jax.random.key(3)), minlength=len(data.state)) / COUNT


def _geometric(row, last, gamma, count):
    """min(t + k, last), k geometric: what lies beyond the end falls on the last row."""
    expected = np.zeros(count)
    for k in range(1, 400):
        expected[min(row + k, last)] += (1 - gamma) * gamma ** (k - 1)
    return expected / expected.sum()


def _uniform(row, last, count):
    """round(x min(t + 1, last) + (1 - x) last) over a fine grid of x."""
    x = (np.arange(200_000) + 0.5) / 200_000
    drawn = np.round(x * min(row + 1, last) + (1 - x) * last).astype(int)
    return np.bincount(drawn, minlength=count) / len(x)


@pytest.mark.parametrize(("row", "last"), [_all_rows()[0], _all_rows()[3], _all_rows()[12], _all_rows()[-1]])
def test_later_goals_have_ogbenchs_distribution(data, row, last):
    count = len(data.state)
    found = _frequencies(data, Shares(0, 1, 0, 0.8), row, last)
    np.testing.assert_allclose(found, _geometric(row, last, 0.8, count), atol=0.008)
    np.testing.assert_allclose(_frequencies(data, Shares(0, 1, 0), row, last), _uniform(row, last, count), atol=0.008)


def test_goals_are_mixed_by_their_shares(data):
    """Of row 14 of the last trajectory: itself, later ones and any transition's."""
    count, (row, last) = len(data.state), _all_rows()[13]
    anywhere = np.zeros(count)
    anywhere[[row for row, _ in _all_rows()]] = 1 / sum(LENGTHS)
    expected = 0.5 * _geometric(row, last, 0.9, count) + 0.3 * anywhere
    expected[row] += 0.2
    np.testing.assert_allclose(_frequencies(data, Shares(0.2, 0.5, 0.3, 0.9), row, last), expected, atol=0.008)
    np.testing.assert_allclose(_frequencies(data, Shares(0, 0, 1), row, last), anywhere, atol=0.008)


def test_a_batch_holds_what_its_rows_ask_for(data):
    rows = Rows("recorded", transitions=True, pairs=True, value=Shares(0.4, 0.3, 0.3, 0.9), actor=Shares(0, 1, 0))
    drawn = recorded.sample(data, jax.random.key(0), 512, rows)
    batch = recorded.gather(data, drawn, rows, (0, 1))
    assert jax.tree.map(jnp.shape, batch) == jax.tree.map(jnp.shape, shapes(rows, Sizes(4, 2, 2), 512))
    made, valid = pushed(LENGTHS), {row for row, _ in _all_rows()}
    assert set(np.asarray(drawn.row).tolist()) == valid
    np.testing.assert_array_equal(batch.state, made.state[drawn.row])
    np.testing.assert_array_equal(batch.action, made.action[drawn.row])
    np.testing.assert_array_equal(batch.next_state, made.state[drawn.row + 1])
    np.testing.assert_array_equal(batch.goal, made.state[drawn.goal][:, :2])
    np.testing.assert_array_equal(batch.goal_state, made.state[drawn.goal])
    np.testing.assert_array_equal(batch.actor_goal, made.state[drawn.actor_goal][:, :2])
    np.testing.assert_array_equal(batch.actor_goal_state, made.state[drawn.actor_goal])
    there = np.asarray(drawn.goal) == np.asarray(drawn.row)
    assert 0.3 < there.mean() < 0.6
    np.testing.assert_array_equal(batch.reward, np.where(there, 0, -1))
    np.testing.assert_array_equal(batch.discount, np.where(there, 0, 1))
    assert batch.truncation is None


def test_shares_that_do_not_sum_to_one_are_refused():
    with pytest.raises(UsageError, match=r"shares of current, trajectory and random goals are 0\.5/0\.6/0; they must"):
        Shares(0.5, 0.6, 0)
    with pytest.raises(UsageError, match="recorded goals, and no others, take shares"):
        Rows("recorded")
