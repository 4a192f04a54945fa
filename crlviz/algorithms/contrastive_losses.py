"""Losses of a contrastive critic, of logits f [B, B]: rows are state-actions, columns goals, positives the diagonal.

    forward     InfoNCE over goals: mean of LSE_j f_ij - f_ii                     of the paper
    backward    InfoNCE over state-actions: mean of LSE_i f_ij - f_jj
    symmetric   their sum
    binary      mean over all pairs of the sigmoid cross entropy of f with the identity as labels
    flat        mean of exp(c_i - sg c_i) with c_i = LSE_j (f_ij - f_ii)          FlatNCE; its value is always 1
    flat_backward   the same down columns
    fb          mean of -f_ii + sum over j != i of f_ij^2 / (2 (B - 1))           forward-backward representations
    dpo         mean of -log sigmoid(f_ii - f_ij)
    ipo         mean of (f_ii - f_ij - 1)^2
    sppo        mean of (f_ij - t_ij)^2, t = 1 on the diagonal, where it counts B times, and -1 off it

LSE: log-sum-exp; sg: no gradient. All are of JaxGCRL, the benchmark that the paper builds on; forward, backward,
symmetric and binary of its present version (where binary is the mean of -sigmoid(f), without labels, by a slip), the
others of older ones. To each is added penalty * mean_i of (LSE_j f_ij)^2 (see ``contrastive_loss``).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _forward(logits: jax.Array, positive: jax.Array, over_goals: jax.Array) -> jax.Array:
    return -jnp.mean(positive - over_goals)


def _backward(logits: jax.Array, positive: jax.Array, over_goals: jax.Array) -> jax.Array:
    return -jnp.mean(positive - jax.nn.logsumexp(logits, axis=0))


def _symmetric(*arguments: jax.Array) -> jax.Array:
    return _forward(*arguments) + _backward(*arguments)


def _binary(logits: jax.Array, positive: jax.Array, over_goals: jax.Array) -> jax.Array:
    return optax.sigmoid_binary_cross_entropy(logits, jnp.eye(len(logits))).mean()


def _flat(logits: jax.Array, positive: jax.Array, over_goals: jax.Array) -> jax.Array:
    contrast = over_goals - positive
    return jnp.mean(jnp.exp(contrast - jax.lax.stop_gradient(contrast)))


def _flat_backward(logits: jax.Array, positive: jax.Array, over_goals: jax.Array) -> jax.Array:
    return _flat(logits, positive, jax.nn.logsumexp(logits, axis=0))


def _fb(logits: jax.Array, positive: jax.Array, over_goals: jax.Array) -> jax.Array:
    negatives = logits * (1 - jnp.eye(len(logits)))
    return jnp.mean(-positive + 0.5 * jnp.sum(negatives**2, axis=1) / (len(logits) - 1))


def _dpo(logits: jax.Array, positive: jax.Array, over_goals: jax.Array) -> jax.Array:
    return -jnp.mean(jax.nn.log_sigmoid(positive[:, None] - logits))


def _ipo(logits: jax.Array, positive: jax.Array, over_goals: jax.Array) -> jax.Array:
    return jnp.mean((positive[:, None] - logits - 1) ** 2)


def _sppo(logits: jax.Array, positive: jax.Array, over_goals: jax.Array) -> jax.Array:
    same = jnp.eye(len(logits))
    return jnp.mean((logits - (2 * same - 1)) ** 2 * (1 + (len(logits) - 1) * same))


LOSSES: dict[str, Loss] = {
    "forward": _forward,
    "backward": _backward,
    "symmetric": _symmetric,
    "binary": _binary,
    "flat": _flat,
    "flat_backward": _flat_backward,
    "fb": _fb,
    "dpo": _dpo,
    "ipo": _ipo,
    "sppo": _sppo,
}

# Those whose best logits are the log of a ratio of densities, up to a constant for each row or column.
RATIO_LOSSES = ("forward", "backward", "symmetric", "binary", "flat", "flat_backward")


def contrastive_loss(loss: str, logits: jax.Array, penalty: float) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of this name, of logits [B, B], plus ``penalty`` * mean of logsumexp^2 over goals.

    Returns:
      The loss [], and metrics of the batch: accuracy (share of rows whose largest logit is the positive), mean positive
      and mean negative logit.
    """
    count = logits.shape[0]
    # The gradient of jnp.diagonal is a scatter inside a conditional, for which several devices exchange indices.
    positive = jnp.where(jnp.eye(count, dtype=bool), logits, 0).sum(axis=1)
    normalizer = jax.nn.logsumexp(logits, axis=1)
    value = LOSSES[loss](logits, positive, normalizer)
    value += penalty * jnp.mean((normalizer + 1e-6) ** 2)
    return value, {
        "accuracy": jnp.mean(jnp.argmax(logits, axis=1) == jnp.arange(count)),
        "logits_positive": positive.mean(),
        "logits_negative": (logits.sum() - positive.sum()) / (count * (count - 1)),
    }
