"""Detection of divergence: the first bad update is found, and it and all later ones are skipped."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz.algorithms.crl import CRL
from tests.helpers.shared_programs import toy_programs
from tests.helpers.toys import toy_config
from training.loop import divergence
from training.run.building import build

WATCHED = divergence.watched(CRL.losses)
GOOD = {name: jnp.array(1.0) for name in CRL.losses}
LATE = 4  # with 3 updates in a training step: the second update of the second step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Poisoned(CRL):
    """Update number ``LATE`` (from 0) has a bad value of one quantity; later updates are good again."""

    quantity: jax.Array  # its index in WATCHED
    value: jax.Array

    def gradients(self, learner, *batch):
        gradients, metrics = super().gradients(learner, *batch)
        late = learner.actor_optimizer[0].count == LATE
        for name in metrics.keys() & set(WATCHED):
            bad = late & (WATCHED.index(name) == self.quantity)
            metrics[name] = jnp.where(bad, self.value, metrics[name])
        return gradients, metrics


class Frozen(CRL):
    """Does nothing from update ``LATE`` on: the expected result of ``Poisoned``."""

    def step(self, learner, gradients, skip):
        new = super().step(learner, gradients)
        late = learner.actor_optimizer[0].count >= LATE
        return jax.tree.map(lambda old, new: jnp.where(late, old, new), learner, new)


@partial(jax.jit, static_argnums=0)
def _learn(algorithm: type[CRL], state, attributes):
    """The state after the updates of a training step by another algorithm, and its divergence."""
    loop = build(toy_config())
    own = algorithm(*(getattr(loop.algorithm, field.name) for field in dataclasses.fields(CRL)), **attributes)
    after, _, diverged = dataclasses.replace(loop, algorithm=own).learn(jax.tree.map(lambda leaf: leaf[0], state))
    return jax.tree.map(lambda leaf: leaf[None], (after, diverged))


def _after(algorithm: type[CRL], **attributes):
    """The state after two training steps, and the divergence of each step; the other programs are the toy run's."""
    programs = toy_programs()
    state, found = programs.start([0], [0]), []
    for _ in range(2):
        state = programs.collect(state, programs.reset_envs(state.key))
        state, diverged = _learn(algorithm, state, attributes)
        found.append(jax.tree.map(lambda leaf: leaf[0], diverged))
    return state, found


@pytest.mark.parametrize(
    ("quantity", "value"), [("actor_loss", np.nan), ("critic_gradient", np.inf), ("critic_loss", -2e6)]
)
def test_the_first_bad_update_is_found_and_all_from_it_on_are_skipped(quantity, value):
    state, (before, diverged) = _after(Poisoned, quantity=WATCHED.index(quantity), value=value)
    assert not before.found
    assert diverged.found
    assert (int(diverged.update), WATCHED[int(diverged.quantity)]) == (LATE - 3, quantity)
    np.testing.assert_equal(float(diverged.value), value)
    expected = _after(Frozen)[0].learner
    assert int(expected.actor_optimizer[0].count[0]) == LATE
    for a, b in zip(jax.tree.leaves(state.learner), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # one more update would move a parameter by 3e-4


def test_a_loss_within_its_bound_and_a_large_gradient_are_no_divergence():
    for changes in ({"critic_loss": 9e5}, {"critic_gradient": 1e18}, {"actor_loss": -9e5}):
        metrics = GOOD | {name: jnp.array(value) for name, value in changes.items()}
        assert not divergence.watch(divergence.none(), jnp.array(0), metrics, jnp.ones(3), CRL.losses, 1e6).found


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_parameter_that_is_not_finite_is_found_and_the_first_divergence_stays(value):
    params = {"a": jnp.ones(3), "b": jnp.array([[0.0, value]])}
    first = divergence.watch(divergence.none(), jnp.array(7), GOOD, params, CRL.losses, 1e6)
    assert first.found
    assert WATCHED[int(first.quantity)] == "parameter_norm"
    later = divergence.watch(first, jnp.array(8), GOOD | {"critic_loss": jnp.array(jnp.nan)}, params, CRL.losses, 1e6)
    assert (int(later.update), int(later.quantity)) == (7, int(first.quantity))


def test_the_message_names_update_quantity_value_and_the_papers_remedy_for_a_deep_actor():
    def message(name: str, depth: int) -> str:
        index = jnp.array(WATCHED.index(name))
        return str(
            divergence.divergence_error(
                divergence.Divergence(jnp.array(True), jnp.array(4), index, jnp.array(2.5e7)), CRL.losses, 1000, depth
            )
        )

    assert message("actor_loss", 64) == "actor_loss became 2.5e+07 in update 1,005"
    assert "--actor-depth 512" in message("actor_gradient", 1024)
    assert "--actor-depth" not in message("actor_loss", 512)
    assert "--actor-depth" not in message("critic_loss", 1024)
