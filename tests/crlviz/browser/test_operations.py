"""Every operation that the emitter knows, against jax, over shapes, dtypes and numbers that are not finite."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from crlviz.browser.emitter import emit_together
from tests.helpers import node

RNG = np.random.default_rng(0)
INF, NAN = np.inf, np.nan
ODD = np.float32([0, -0.0, 1, -1, 0.5, -2.5, 1.5, 2.5, 1e-30, 3e38, INF, -INF, NAN, 7.3, -1e6])
PAIRS = tuple(np.float32(side) for side in np.meshgrid(ODD, ODD))
WHOLE = np.int32([0, 1, -1, 7, -7, 2**31 - 1, -(2**31), 31, 32, 33, 12345])
WHOLES = tuple(np.int32(side) for side in np.meshgrid(WHOLE, WHOLE))
UNSIGNED = tuple(side.astype(np.uint32) for side in WHOLES)
TRUTHS = tuple(np.array(side) for side in np.meshgrid([True, False], [True, False]))


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


Case = tuple[Callable[..., Any], tuple[Any, ...]]

UNARY = "sqrt rsqrt cbrt exp exp2 expm1 log log1p logistic erf erfc erf_inv sin cos tan asin acos atan sinh cosh tanh"
UNARY += " asinh acosh atanh neg abs floor ceil sign square is_finite round"
BINARY = "add sub mul div rem pow atan2 max min eq ne lt le gt ge"
OF_WHOLE = "add sub mul max min eq ne lt le gt ge bitwise_and bitwise_or bitwise_xor"
OF_TRUTHS = "bitwise_and bitwise_or bitwise_xor eq ne"
SHIFTS = "shift_left shift_right_logical shift_right_arithmetic"


def loop(x: jax.Array) -> Any:
    """Scans forward and backward with carries that change places, over stacked inputs and outputs, one in another."""

    def inner(c, _):
        return (c[1], c[0] * 0.5), c[0].sum()

    def body(carry, row):
        (a, b), sums = lax.scan(inner, (carry[0] + row, carry[1]), None, length=3)
        return (b, a), (a * row, sums)

    return lax.scan(body, (x[0], -x[0]), x), lax.scan(body, (x[0], x[1]), x[:, ::-1], reverse=True)


# fmt: off
CASES: dict[str, Case] = {
    **{name: (getattr(lax, name), (ODD,)) for name in UNARY.split()},
    **{name: (getattr(lax, name), PAIRS) for name in BINARY.split()},
    **{f"{name}_int": (getattr(lax, name), WHOLES) for name in f"{OF_WHOLE} {SHIFTS} div rem".split()},
    **{f"{name}_uint": (getattr(lax, name), UNSIGNED) for name in f"{OF_WHOLE} {SHIFTS}".split()},
    **{
        f"{name}_bool": (getattr(lax, name), TRUTHS)
        for name in ["bitwise_and", "bitwise_or", "bitwise_xor", "eq", "ne"]
    },
    "not": (lambda a, b: (~a, ~b, -b, jnp.abs(b), jnp.sign(b)), (TRUTHS[0], WHOLE)),
    "round_even": (lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN), (ODD,)),
    "integer_pow": (lambda x, n: (x**2, x**3, x**-1, x**-2, x**5, x**0, n**3), (ODD, WHOLE)),
    "clamp": (lambda x, n: (lax.clamp(np.float32(-1), x, np.float32(2)), jnp.clip(n, -5, 5)), (ODD, WHOLE)),
    "select": (lambda a, x, y: jnp.where(a > 0, x, y), (normal(15, 15), *PAIRS)),
    "select_many": (lambda n, x: lax.select_n(n % 3, x, x * 2, x * 3), (np.arange(6, dtype=np.int32), normal(6))),
    "convert": (
        lambda x, n, u, t: (
            x.astype(int),
            x.astype(bool),
            n.astype(float),
            n.astype(bool),
            u.astype(float),
            t.astype(float),
            t.astype(int),
            n.astype(jnp.uint32),
            u.astype(int),
            n.astype(jnp.int8),
            n.astype(jnp.uint8),
        ),
        (ODD[:-4], WHOLE, WHOLE.view(np.uint32), TRUTHS[0]),
    ),
    "bitcast": (
        lambda x, n: (lax.bitcast_convert_type(x, jnp.int32), lax.bitcast_convert_type(n & 0x7F0FFFFF, jnp.float32)),
        (ODD[:-3], WHOLE),
    ),
    "shapes": (
        lambda x: (
            x[1:, ::2, None],
            x.T,
            x.reshape(2, -1),
            jnp.flip(x, (0, 2)),
            jnp.tile(x, (2, 1, 1)),
            x[..., -1],
            jnp.pad(x, ((1, 2), (0, 0), (0, 1)), constant_values=3),
            lax.pad(x, np.float32(1), ((-1, 2, 1),) * 3),
            jnp.concatenate([x, 2 * x, jnp.ones_like(x)], 1),
            jnp.stack([x, x + 1], 1),
            jnp.split(x, 2, 1),
            jnp.broadcast_to(x[:, :1], x.shape) + x,
            jnp.roll(x, 1, 2),
            x[:0].sum(),
            lax.iota(int, 5) + x[0, 0, 0],
        ),
        (normal(3, 4, 5),),
    ),
    "reduce": (
        lambda x, n, t: [
            f(a, axis)
            for axis in (0, 1, (0, 2), None)
            for f, a in [
                (jnp.sum, x),
                (jnp.prod, x),
                (jnp.max, x),
                (jnp.min, x),
                (jnp.sum, n),
                (jnp.max, n),
                (jnp.min, n),
                (jnp.prod, n),
                (jnp.all, t),
                (jnp.any, t),
                (jnp.sum, t),
            ]
        ],
        (normal(3, 20, 2), RNG.integers(-9, 9, (3, 20, 2)).astype(np.int32), RNG.random((3, 20, 2)) > 0.1),
    ),
    "reduce_odd": (lambda x: [f(x, axis) for f in (jnp.max, jnp.min, jnp.sum) for axis in (0, 1)], (PAIRS[0],)),
    "arg": (lambda x: [f(x, a) for f in (jnp.argmax, jnp.argmin) for a in (0, 1)], (np.trunc(2 * normal(9, 9)),)),
    "cumulative": (
        lambda x, n: (
            jnp.cumsum(x, 0),
            jnp.cumsum(x, 1),
            lax.cumsum(x, 0, reverse=True),
            lax.cumprod(x, 1),
            lax.cummax(x, 0),
            lax.cummin(x, 1),
            lax.cumlogsumexp(x, 0),
            jnp.cumsum(n),
        ),
        (normal(7, 3), WHOLE),
    ),
    "dot": (
        lambda a, b, c, n: (
            a @ b,
            b.T @ a.T,
            a[0] @ b,
            a @ b[:, 0],
            jnp.einsum("bij,bjk->bik", c, c),
            c[0, :3, :3] @ c[1, :3, :2],
            jnp.einsum("bij,bkj->kbi", c, c),
            a[:0] @ b,
            a[:, :0] @ b[:0],
            a[:2, :5] @ b[:5, :3],
            n @ n.T,
        ),
        (normal(9, 33), normal(33, 19), normal(2, 10, 10), RNG.integers(-9, 9, (3, 4)).astype(np.int32)),
    ),
    "dynamic_slice": (
        lambda x, i, j: (
            lax.dynamic_slice(x, (i, j), (2, 3)),
            lax.dynamic_slice(x.T[::2], (j, i), (1, 2)),
            x[i],
            x[:, j],
            x[i, j],
            # The inner one stays inside: XLA merges two slices into one even where it moves the inner one's start.
            lax.dynamic_slice(lax.dynamic_slice(x, (i - 1, 0), (3, 5)), (0, j), (1, 2)) * 2,
            lax.dynamic_update_slice(x, -x[:2, :2], (j, i)),
            x.at[i].set(0),
            x.at[1:3, j].add(x[0, :2]),
        ),
        (normal(6, 5), np.int32(4), np.int32(-2)),
    ),
    "gather": (
        lambda x, n, y: (
            x[n],
            x[:, n],
            x[n, n],
            jnp.take(x, n, 1, mode="fill"),
            jnp.take(x, n, 0, mode="clip"),
            x[n][:, ::-1] + 1,
            jnp.take_along_axis(x, n[None] % 5, 1),
            jax.vmap(lambda row, k: row[k])(y, n),
            (x[n] * 2)[n],
            x[np.array([0, 2, -1])],
            jnp.take(x, np.array([1, 77]), 0),
            x[jnp.stack([n, n])].T,
            jnp.take(WHOLE, n, mode="fill"),
            jnp.concatenate([x[n], x[n]]).sum(0),
            jnp.linalg.norm(x[n], axis=1),
        ),
        (normal(6, 5), np.int32([0, 4, -1, 77, -77]), normal(5, 3)),
    ),
    "scatter": (
        lambda x, n, u: (
            x.at[n].set(u),
            x.at[n].add(u),
            x.at[n, n].multiply(2),
            x.at[n].max(u),
            x.at[n].min(u),
            x.at[:, n].add(1),
            x.at[np.array([0, 0, 2, 0])].add(u[:4]),
            x.at[np.array([1, -1])].set(u[:2]),
            x.at[2, 3].add(u[0, 0]),
            x.at[n].set(u, mode="drop"),
            x.at[n].set(u[:1], mode="clip"),
            jax.vmap(lambda r, k: r.at[k].add(1))(u, n),
            x.at[np.array([1, 77])].multiply(u[:2]),
            jnp.zeros(6, int).at[n].add(1),
        ),
        (normal(6, 5), np.int32([0, 4, -1, 77, 0]), normal(5, 5)),
    ),
    "sort": (
        lambda x, n: (
            jnp.sort(x),
            jnp.argsort(x),
            jnp.sort(PAIRS[0], 0),
            lax.sort((n % 3, x[:11]), num_keys=1),
            lax.sort((n % 3, n), num_keys=2),
            jnp.argsort(-n),
        ),
        (ODD, WHOLE),
    ),
    "scan": (loop, (normal(4, 3),)),
    "while": (
        lambda x: lax.while_loop(lambda c: c[1] < 20, lambda c: (jnp.roll(c[0], 1) * 1.1, c[1] + c[0].size), (x, 0)),
        (normal(3),),
    ),
    "fori": (lambda x, n: lax.fori_loop(0, n, lambda i, c: c.at[i].add(c[i - 1]), x), (normal(5), np.int32(4))),
    "cond": (
        lambda x, n: [
            (lax.cond(n > k, jnp.sin, lambda x: x, x), lax.switch(n + k, [lambda x: x, lambda x: x[::-1], jnp.cos], x))
            for k in (-4, 0, 3)
        ],
        (normal(4), np.int32(1)),
    ),
    "random": (lambda seed: jax.random.normal(jax.random.wrap_key_data(seed), (7,)), (np.uint32([3, 4]),)),
    "split": (
        lambda seed: jax.random.key_data(jax.random.split(jax.random.wrap_key_data(seed), 3)),
        (np.uint32([3, 4]),),
    ),
    "linear": (
        lambda a, b: (jnp.linalg.cholesky(a @ a.T + jnp.eye(4)), jax.scipy.linalg.solve_triangular(a, b, lower=True)),
        (normal(4, 4), normal(4, 2)),
    ),
}
# fmt: on


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """All cases in two processes: what each gives in JavaScript, by name."""
    node.needs_node()
    programs = emit_together(
        "the operations", {name: (function, *inputs) for name, (function, inputs) in CASES.items()}
    )
    folder = tmp_path_factory.mktemp("operations")
    return node.run_all(programs, {name: inputs for name, (_, inputs) in CASES.items()}, folder)


@pytest.mark.parametrize("name", CASES)
def test_an_operation_is_that_of_jax(name, answers):
    function, inputs = CASES[name]
    for expected, got in zip(jax.tree.leaves(jax.jit(function)(*inputs)), answers[name], strict=True):
        assert expected.shape == got.shape
        np.testing.assert_allclose(got, np.asarray(expected).astype(got.dtype), rtol=3e-5, atol=1e-6)
