"""Energies against loops over numbers in float64, and against values recorded from JaxGCRL's code."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz.algorithms.energies import ENERGIES, IQE_GROUP, MRN_GROUPS

RECORDED = np.load(Path(__file__).parents[2] / "data" / "losses" / "contrastive.npz")
QUASIMETRICS = [name for name, energy in ENERGIES.items() if energy.quasimetric]


def _mrn(x: np.ndarray, y: np.ndarray) -> float:
    groups = []
    for u, v in zip(np.split(x, MRN_GROUPS), np.split(y, MRN_GROUPS), strict=True):
        half = len(u) // 2
        groups.append(max(0, *(u - v)[:half]) + np.linalg.norm((u - v)[half:]))
    return -float(np.mean(groups))


def _union(intervals: list[tuple[float, float]]) -> float:
    """The length of a union of intervals, counted over the pieces between all end points."""
    ends = sorted({end for interval in intervals for end in interval})
    return sum(b - a for a, b in itertools.pairwise(ends) if any(low <= a and b <= high for low, high in intervals))


def _iqe(x: np.ndarray, y: np.ndarray) -> float:
    count = len(x) // IQE_GROUP
    lengths = [
        _union([(a, max(a, b)) for a, b in zip(u, v, strict=True)])
        for u, v in zip(np.split(x, count), np.split(y, count), strict=True)
    ]
    return -float(np.mean(lengths) + np.max(lengths)) / 2


DEFINITIONS = {
    "norm": lambda x, y: -np.linalg.norm(x - y),
    "l2": lambda x, y: -np.sum((x - y) ** 2),
    "l1": lambda x, y: -np.abs(x - y).sum(),
    "dot": lambda x, y: x @ y,
    "cosine": lambda x, y: x @ y / np.linalg.norm(x) / np.linalg.norm(y),
    "mrn": _mrn,
    "iqe": _iqe,
}


def _embeddings(rows: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.random.default_rng(seed).normal(size=(2, rows, 64)).astype(np.float32)
    return 1.5 * x, y + 0.3


@pytest.mark.parametrize("name", ENERGIES)
def test_an_energy_of_pairs_and_rows_against_its_definition(name):
    """20 goals are not a multiple of the columns that are computed at once."""
    x, y = _embeddings()
    expected = np.array([[DEFINITIONS[name](a, b) for b in y.astype(float)] for a in x.astype(float)])
    size = np.abs(expected).max()
    np.testing.assert_allclose(jax.jit(ENERGIES[name].of_pairs)(x, y), expected, rtol=1e-5, atol=1e-6 * size)
    rows = jax.jit(ENERGIES[name].of_rows)
    np.testing.assert_allclose(rows(x, y), np.diagonal(expected), rtol=1e-5, atol=1e-6 * size)
    np.testing.assert_allclose(rows(x[:, None], y[None]), expected, rtol=1e-5, atol=1e-6 * size)


@pytest.mark.parametrize("name", ENERGIES)
def test_gradients_of_pairs_are_those_of_rows(name):
    """Automatic differentiation of all rows at once is the truth for the hand-written and the rematerialized ones."""
    x, y = _embeddings(9, seed=1)
    weights = np.random.default_rng(2).normal(size=(9, 9)).astype(np.float32)
    pairs, rows = ENERGIES[name].of_pairs, ENERGIES[name].of_rows
    ours = jax.jit(jax.grad(lambda x, y: jnp.sum(weights * pairs(x, y)), argnums=(0, 1)))(x, y)
    plain = jax.jit(jax.grad(lambda x, y: jnp.sum(weights * rows(x[:, None], y[None])), argnums=(0, 1)))(x, y)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("name", ENERGIES)
def test_gradients_are_finite_at_coinciding_and_zero_embeddings(name):
    for x in (np.ones((4, 64), np.float32), np.zeros((4, 64), np.float32)):
        for form in (ENERGIES[name].of_pairs, ENERGIES[name].of_rows):
            gradients = jax.jit(jax.grad(lambda x, y, form=form: form(x, y).sum(), argnums=(0, 1)))(x, x)
            assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", QUASIMETRICS)
def test_a_quasimetric_obeys_its_axioms(name):
    x, y, z = np.random.default_rng(3).normal(size=(3, 500, 64)).astype(np.float32)
    distance = jax.jit(lambda x, y: -ENERGIES[name].of_rows(x, y))
    np.testing.assert_allclose(distance(x, x), 0, atol=1e-6)
    assert np.min(distance(x, y)) > 0
    assert np.min(distance(x, y) + distance(y, z) - distance(x, z)) > -1e-4
    asymmetry = np.abs(distance(x, y) - distance(y, x)).max()
    assert (asymmetry > 0.01) == (name in ("mrn", "iqe"))


@pytest.mark.parametrize("name", ["norm", "l2", "dot"])
def test_energies_are_those_of_jaxgcrl(name):
    recorded, ours = RECORDED[f"energy_{name}"], ENERGIES[name].of_rows(RECORDED["phi"], RECORDED["psi"])
    np.testing.assert_allclose(ours, recorded, rtol=1e-5, atol=1e-5)


def test_the_cosine_is_of_each_pair_and_not_of_the_whole_batch():
    """JaxGCRL divides by the norms of the whole arrays, which makes its cosines 1 / B of what they are."""
    phi, psi = RECORDED["phi"], RECORDED["psi"]
    cosine = np.asarray(ENERGIES["cosine"].of_rows(phi, psi))
    lengths = np.linalg.norm(phi, axis=1) * np.linalg.norm(psi, axis=1)
    slip = cosine * lengths / np.linalg.norm(phi) / np.linalg.norm(psi)
    np.testing.assert_allclose(slip, RECORDED["energy_cosine"], atol=1e-6)
    assert np.abs(cosine).max() <= 1
    assert np.abs(cosine).max() > 5 * np.abs(slip).max()
