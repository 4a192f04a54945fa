"""How exact are matrix products, where an accelerator can be quicker with less?

Two kinds of them may be shortened, and by what a training's ``precision`` says: the products with the kernels of a
network's blocks and tail, and the two products in the gradient of each. That is where nearly all time goes.

All else is exact in float32 whatever that says:

- the stem's products: its inputs are positions in meters, and bfloat16 takes 20.06 for 20;
- the heads': an error in an embedding is an error in all of a batch's logits;
- logits and the log of their summed exponentials, and the gradient of logits, where what is left of two products is a
  hundredth of either;
- LayerNorm, its sums in the gradient too;
- physics, and what an Agent is asked.

Sums that are no matrix products, and optimizers, are float32 on every device.
"""

from contextlib import AbstractContextManager
from typing import Any

import jax

# What jax calls each precision.
PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "BF16_BF16_F32"}

EXACT = jax.lax.Precision.HIGHEST


def exact() -> AbstractContextManager[Any]:
    """Within it, matrix products are exact in float32, which accelerators otherwise shorten on their own account."""
    return within("float32")


def within(name: str) -> AbstractContextManager[Any]:
    """Within it, matrix products that do not ask for ``EXACT`` have a precision of ``PRECISIONS``."""
    return jax.default_matmul_precision(PRECISIONS[name])
