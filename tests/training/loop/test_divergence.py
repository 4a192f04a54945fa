"""The guard: which update is the first bad one, and that nothing after it counts."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz.algorithms.crl import CRL
from tests.helpers.toys import begun, stepped, toy_config
from training.loop import divergence
from training.run.compiled import build

GOOD = {name: jnp.array(1.0) for name in divergence.WATCHED[:-1]}
LATE = 4  # the toy does 3 updates a training step: the second step's second one


class Poisoned(CRL):
    """Its update number ``LATE`` (from 0) has a quantity that is not as it should be; later ones are good again."""

    quantity = "actor_loss"
    value = jnp.nan

    def gradients(self, learner, *batch):
        gradients, metrics = super().gradients(learner, *batch)
        late = learner.actor_optimizer[0].count == LATE
        metrics[self.quantity] = jnp.where(late, self.value, metrics[self.quantity])
        return gradients, metrics


class Frozen(CRL):
    """From update ``LATE`` on it changes nothing: what the guard must make of ``Poisoned``."""

    def step(self, learner, gradients, skip):
        new = super().step(learner, gradients)
        late = learner.actor_optimizer[0].count >= LATE
        return jax.tree.map(lambda old, new: jnp.where(late, old, new), learner, new)


@cache
def _begun():
    """A loop, and the state that its run begins with."""
    loop = build(toy_config())
    return loop, jax.jit(partial(begun, loop))(jax.random.key(0))


@cache
def _after(algorithm: type[CRL], steps: int, **attributes):
    """The state and what the guard found after some training steps."""
    loop, state = _begun()
    own = algorithm(*(getattr(loop.algorithm, field.name) for field in dataclasses.fields(CRL)))
    for name, value in attributes.items():
        object.__setattr__(own, name, value)
    loop = dataclasses.replace(loop, algorithm=own)
    step = jax.jit(partial(stepped, loop))
    found = []
    for _ in range(steps):
        state, _, trouble = step(state)
        found.append(trouble)
    return state, found


@pytest.mark.parametrize(
    ("quantity", "value"), [("actor_loss", np.nan), ("critic_gradient", np.inf), ("critic_loss", -2e6)]
)
def test_the_first_bad_update_is_told_and_nothing_after_it_counts(quantity, value):
    state, (before, trouble) = _after(Poisoned, 2, quantity=quantity, value=value)
    assert not before.found
    assert trouble.found
    assert (int(trouble.update), divergence.WATCHED[int(trouble.quantity)]) == (LATE - 3, quantity)
    np.testing.assert_equal(float(trouble.value), value)
    expected = _after(Frozen, 2)[0].learner
    assert int(expected.actor_optimizer[0].count) == LATE
    for a, b in zip(jax.tree.leaves(state.learner), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # one update more moves a parameter by 3e-4


def test_a_loss_within_its_bound_and_a_large_gradient_are_no_trouble():
    for changes in ({"critic_loss": 9e5}, {"critic_gradient": 1e18}, {"actor_loss": -9e5}):
        metrics = GOOD | {name: jnp.array(value) for name, value in changes.items()}
        assert not divergence.watch(divergence.none(), jnp.array(0), metrics, jnp.ones(3), 1e6).found


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_parameter_that_is_not_finite_is_found_and_the_first_trouble_stays(value):
    params = {"a": jnp.ones(3), "b": jnp.array([[0.0, value]])}
    first = divergence.watch(divergence.none(), jnp.array(7), GOOD, params, 1e6)
    assert first.found
    assert divergence.WATCHED[int(first.quantity)] == "parameter_norm"
    later = divergence.watch(first, jnp.array(8), GOOD | {"critic_loss": jnp.array(jnp.nan)}, params, 1e6)
    assert (int(later.update), int(later.quantity)) == (7, int(first.quantity))


def test_the_message_names_update_quantity_and_value_and_the_papers_remedy_where_it_helps():
    def message(name: str, depth: int) -> str:
        index = jnp.array(divergence.WATCHED.index(name))
        return str(
            divergence.divergence_error(
                divergence.Divergence(jnp.array(True), jnp.array(4), index, jnp.array(2.5e7)), 1000, depth
            )
        )

    assert message("actor_loss", 64) == "actor_loss became 2.5e+07 in update 1,005"
    assert "--actor-depth 512" in message("actor_gradient", 1024)
    assert "--actor-depth" not in message("actor_loss", 512)
    assert "--actor-depth" not in message("critic_loss", 1024)
