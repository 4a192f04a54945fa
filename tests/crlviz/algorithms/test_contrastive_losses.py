"""Losses against sums over numbers in float64, and against values and gradients recorded from JaxGCRL's code."""

from pathlib import Path

import jax
import numpy as np
import pytest

from crlviz.algorithms.contrastive_losses import LOSSES, contrastive_loss
from crlviz.algorithms.energies import ENERGIES

RECORDED = np.load(Path(__file__).parents[2] / "data" / "losses" / "contrastive.npz")
PENALTY = 0.1


def _lse(values: np.ndarray) -> float:
    return float(np.log(np.sum(np.exp(values - values.max()))) + values.max())


def _sigmoid(value: float) -> float:
    return 1 / (1 + np.exp(-value))


def _forward(f):
    return np.mean([_lse(row) - row[i] for i, row in enumerate(f)])


def _fb(f):
    negatives = [sum(f[i, j] ** 2 for j in range(len(f)) if j != i) for i in range(len(f))]
    return np.mean([-f[i, i] + negatives[i] / 2 / (len(f) - 1) for i in range(len(f))])


def _over_pairs(term):
    """The mean over all pairs of term(f_ij, f_ii, whether i = j)."""
    return lambda f: np.mean([[term(f[i, j], f[i, i], i == j) for j in range(len(f))] for i in range(len(f))])


def _sppo(f):
    squares = [(f[i, j] - (1 if i == j else -1)) ** 2 * (len(f) if i == j else 1) for i, j in np.ndindex(f.shape)]
    return np.mean(squares)


DEFINITIONS = {
    "forward": _forward,
    "backward": lambda f: _forward(f.T),
    "symmetric": lambda f: _forward(f) + _forward(f.T),
    "binary": _over_pairs(lambda f, _, same: -np.log(_sigmoid(f) if same else 1 - _sigmoid(f))),
    "fb": _fb,
    "dpo": _over_pairs(lambda f, positive, _: -np.log(_sigmoid(positive - f))),
    "ipo": _over_pairs(lambda f, positive, _: (positive - f - 1) ** 2),
    "sppo": _sppo,
}


def _logits(seed: int = 0) -> np.ndarray:
    return 2 * np.random.default_rng(seed).normal(size=(6, 6)).astype(np.float32)


def _value_and_gradient(loss: str, logits: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
    value, gradient = jax.jit(jax.value_and_grad(lambda f: contrastive_loss(loss, f, penalty)[0]))(logits)
    return float(value), np.asarray(gradient)


@pytest.mark.parametrize("loss", DEFINITIONS)
def test_a_loss_and_its_gradient_against_the_definition(loss):
    logits = _logits()

    def truth(f):
        return DEFINITIONS[loss](f) + PENALTY * np.mean([(_lse(row) + 1e-6) ** 2 for row in f])

    value, gradient = _value_and_gradient(loss, logits, PENALTY)
    assert value == pytest.approx(truth(logits.astype(float)), rel=1e-5)
    for place in np.ndindex(logits.shape):
        step = np.zeros(logits.shape)
        step[place] = 1e-5
        slope = (truth(logits + step) - truth(logits - step)) / 2e-5
        assert gradient[place] == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("backward", [False, True])
def test_flat_nce_has_the_gradient_of_the_logarithm_of_its_contrast(backward):
    """The gradient of exp(c - sg c) is that of c, which is InfoNCE: only the value differs, and rounds better."""
    logits = _logits(1)
    value, gradient = _value_and_gradient("flat_backward" if backward else "flat", logits, 0.0)
    assert value == 1
    _, expected = _value_and_gradient("backward" if backward else "forward", logits, 0.0)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert np.abs(gradient).max() > 0.01


def test_every_loss_has_a_definition_here():
    assert LOSSES.keys() == DEFINITIONS.keys() | {"flat", "flat_backward"}


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite_at_logits_of_a_deep_start(loss):
    """Embeddings of a deep network start some hundreds apart."""
    value, gradient = _value_and_gradient(loss, -300 * np.abs(_logits(2)), PENALTY)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("energy", ["norm", "l2", "dot"])
@pytest.mark.parametrize(("loss", "name"), [("forward", "fwd"), ("backward", "bwd"), ("symmetric", "sym")])
def test_losses_and_gradients_are_those_of_jaxgcrl(energy, loss, name):
    def of_embeddings(phi, psi):
        return contrastive_loss(loss, ENERGIES[energy].of_pairs(phi, psi), PENALTY)[0]

    values = jax.jit(jax.value_and_grad(of_embeddings, argnums=(0, 1)))(RECORDED["phi"], RECORDED["psi"])
    value, gradients = values
    assert float(value) == pytest.approx(float(RECORDED[f"loss_{energy}_{name}_infonce"]), rel=1e-5)
    for embedding, gradient in zip(("phi", "psi"), gradients, strict=True):
        recorded = RECORDED[f"d{embedding}_{energy}_{name}_infonce"]
        np.testing.assert_allclose(gradient, recorded, atol=1e-5 * max(1, np.abs(recorded).max()))


def test_binary_nce_has_labels_and_jaxgcrls_has_none():
    logits = np.asarray(ENERGIES["norm"].of_pairs(RECORDED["phi"], RECORDED["psi"]), float)
    penalty = PENALTY * np.mean([(_lse(row) + 1e-6) ** 2 for row in logits])
    slip = penalty - np.mean(_sigmoid(logits))
    assert slip == pytest.approx(float(RECORDED["loss_norm_binary_nce"]), rel=1e-5)
    ours = float(contrastive_loss("binary", logits.astype(np.float32), PENALTY)[0])
    assert ours == pytest.approx(DEFINITIONS["binary"](logits) + penalty, rel=1e-5)
    assert abs(ours - slip) > 0.1
