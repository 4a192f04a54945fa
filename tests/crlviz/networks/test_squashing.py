"""The change of a density by tanh, against numpy in float64: value, gradient, and what saturation does to both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import Actor
from crlviz.networks.squashing import log_slope


def _stable(raw):
    return log_slope(raw, jnp.tanh(raw), "stable")


def test_the_stable_form_is_the_logarithm_of_the_slope_of_tanh():
    """1 - tanh(u)^2 = 1 / cosh(u)^2, whose logarithm numpy computes in float64 up to |u| = 700."""
    raw = np.linspace(-80, 80, 2001)
    expected = -2 * np.log(np.cosh(raw))
    np.testing.assert_allclose(jax.jit(_stable)(raw.astype(np.float32)), expected, rtol=1e-6, atol=1e-6)
    slope = jax.jit(jax.vmap(jax.grad(_stable)))(raw.astype(np.float32))
    np.testing.assert_allclose(slope, -2 * np.tanh(raw), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("raw", [-50.0, 50.0])
def test_the_gradient_points_back_from_saturation(raw):
    """Entropy falls with |u|, so log p rises: its gradient has the sign of u. The paper's form has none there."""

    def log_prob(mean, form):
        actor = Actor(NetworkConfig(4, 4), 1, 1, log_prob=form)
        return actor.sample_of(mean, jnp.zeros(1), jnp.zeros(1))[1]

    mean = jnp.full(1, raw)
    assert float(jax.grad(log_prob)(mean, "stable")[0]) == pytest.approx(2 * np.sign(raw))
    assert float(jax.grad(log_prob)(mean, "paper")[0]) == 0


def test_both_forms_agree_where_tanh_is_not_saturated():
    raw = jnp.linspace(-2, 2, 41)
    np.testing.assert_allclose(log_slope(raw, jnp.tanh(raw), "paper"), _stable(raw), atol=2e-5)


def test_a_density_on_the_actions_has_mass_1():
    """exp(log p) integrated over actions, by the midpoint rule in the raw action."""
    actor = Actor(NetworkConfig(4, 4), 1, 1, log_prob="stable")
    mean, log_std = 0.7, -0.3
    edges = np.linspace(-6, 6, 4001)
    raw = (edges[1:] + edges[:-1]) / 2
    noise = ((raw - mean) / np.exp(log_std))[:, None].astype(np.float32)
    _, log_prob = actor.sample_of(jnp.full(1, mean), jnp.full(1, log_std), noise)
    mass = np.sum(np.exp(np.asarray(log_prob, float)) * np.diff(np.tanh(edges)))
    assert mass == pytest.approx(1, abs=1e-4)
