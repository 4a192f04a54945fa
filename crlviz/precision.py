"""Precision of matrix products.

The setting ``precision`` of a training applies to the matrix products with the kernels of a network's blocks and tail,
and to the two products in the gradient of each. They take nearly all of the time.

All other matrix products are exact in float32 for every value of the setting:

- the stem: its inputs are positions in meters, and bfloat16 rounds 20.06 to 20;
- the heads: an error in an embedding is an error in all logits of a batch;
- logits, their logsumexp, and their gradient: two products nearly cancel there, and their difference is 1 % of either;
- LayerNorm and the sums in its gradient;
- physics, and all functions of an Agent.

Other sums, and optimizers, are float32 on every device.
"""

from contextlib import AbstractContextManager
from typing import Any

import jax

# jax's name for each precision.
PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "BF16_BF16_F32"}

EXACT = jax.lax.Precision.HIGHEST


def exact() -> AbstractContextManager[Any]:
    """Context in which matrix products are exact in float32; accelerators use less by default."""
    return within("float32")


def within(name: str) -> AbstractContextManager[Any]:
    """Context in which matrix products that do not ask for ``EXACT`` use this precision, a key of ``PRECISIONS``."""
    return jax.default_matmul_precision(PRECISIONS[name])
