"""Training a run from a config to a run directory."""

import csv
import dataclasses
import importlib.metadata
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from crlviz import checkpoints, envs
from crlviz.errors import CrlvizError, UsageError
from crlviz.networks import Actor, Critic
from crlviz.rollouts import evaluate
from training.config import TrainConfig, schedule
from training.crl import CRL
from training.loop import Loop

# Columns of metrics.csv; losses are means over the updates since the row before.
METRICS = (
    "env_steps",
    "gradient_steps",
    "wall_seconds",
    "train_seconds",
    "time_at_goal",
    "success",
    "success_easy",
    "distance",
    "episode_steps",
    "critic_loss",
    "actor_loss",
    "alpha_loss",
    "alpha",
    "entropy",
    "accuracy",
    "logits_positive",
    "logits_negative",
    "env_steps_per_second",
    "updates_per_second",
)
_PACKAGES = ("crlviz", "jax", "jaxlib", "flax", "optax", "brax", "mujoco", "mujoco-mjx", "numpy")


def build(config: TrainConfig) -> Loop:
    """The loop of a config: environment, networks and algorithm, checked and ready to compile.

    Raises:
      UsageError: unknown environment, or settings that do not fit each other.
    """
    counts = schedule(config)
    env = envs.make(config.env, layout=config.layout or None, **config.env_options)
    actor = Actor(config.actor, env.observation_size, env.action_size)
    critic = Critic(config.critic, env.state_dim, env.action_size, env.goal_dim)
    return Loop(config, counts, env, CRL(config.crl, actor, critic), config.episode_length or env.episode_length)


def train(config: TrainConfig, out: str | Path, *, command: Sequence[str] = (), progress: bool | None = None) -> Path:
    """Train, evaluate and save.

    Args:
      config: the run.
      out: the run directory, which must not exist yet or be empty.
      command: kept in config.json: what was typed.
      progress: show a bar; None: where there is a terminal.

    Returns:
      The run directory.

    Raises:
      UsageError: a wrong setting or an existing run, before anything is computed.
      CrlvizError: a loss is no longer finite; the last good checkpoint stays.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already; give a new directory to --out")
    loop = build(config)
    eval_env = _evaluation_env(config, loop)
    began = time.perf_counter()
    init_key, eval_key = jax.random.split(jax.random.key(config.seed))
    state = jax.jit(loop.init)(init_key)
    epoch = jax.jit(loop.epoch, donate_argnums=0).lower(state).compile()

    @jax.jit
    def measure(params, key):
        def policy(observation, _):
            return loop.algorithm.actor.mean_action(params, observation)

        return evaluate(eval_env, policy, key, config.eval_episodes, loop.episode_length)

    # Written after compiling, so that what fails or is stopped before it began leaves nothing behind.
    checkpoints.write_config(
        out,
        {
            "algorithm": "crl",
            "config": dataclasses.asdict(config),
            "versions": {name: _version(name) for name in _PACKAGES} | {"python": sys.version.split()[0]},
            "device": str(jax.devices()[0].device_kind),
            "command": list(command),
        },
    )

    counts, train_seconds = loop.schedule, 0.0
    total = counts.env_steps(config, counts.epochs)
    bar = tqdm(total=total, unit="step", unit_scale=True, disable=None if progress is None else not progress)
    with open(out / "metrics.csv", "w", newline="", encoding="utf-8") as file, bar:
        table = csv.DictWriter(file, METRICS)
        table.writeheader()
        for index in range(counts.epochs + 1):
            row: dict[str, Any] = {}
            if index:
                start = time.perf_counter()
                state, losses = jax.block_until_ready(epoch(state))
                seconds = time.perf_counter() - start
                train_seconds += seconds
                row = {name: float(value) for name, value in losses.items()}
                row["updates_per_second"] = counts.steps_per_epoch * config.updates / seconds
                row["env_steps_per_second"] = counts.steps_per_epoch * config.unroll * config.num_envs / seconds
            env_steps, gradient_steps = counts.env_steps(config, index), counts.gradient_steps(config, index)
            scores = measure(state.learner.actor, jax.random.fold_in(eval_key, index))
            row |= {name: float(value) for name, value in scores.items()}
            # The losses were measured before the last update, so what would be saved is looked at too.
            finite = bool(_all_finite((state.learner.actor, state.learner.critic)))
            _stop_if_not_finite(row | {"a network parameter": 0.0 if finite else math.nan}, out, env_steps)
            row |= {
                "env_steps": env_steps,
                "gradient_steps": gradient_steps,
                "wall_seconds": time.perf_counter() - began,
                "train_seconds": train_seconds,
            }
            if index:
                networks = {"actor": state.learner.actor, "critic": state.learner.critic}
                checkpoints.write(out, env_steps, gradient_steps, jax.device_get(networks))
            table.writerow({name: _short(value) for name, value in row.items()})
            file.flush()
            bar.update(env_steps - bar.n)
            bar.set_postfix_str(_caption(row))
    return out


def _evaluation_env(config: TrainConfig, loop: Loop) -> Any:
    if not config.eval_env or config.eval_env == config.env:
        return loop.env
    env = envs.make(config.eval_env, **config.env_options)
    if (env.state_dim, env.goal_dim, env.action_size) != (loop.env.state_dim, loop.env.goal_dim, loop.env.action_size):
        raise UsageError(
            f"{config.eval_env} has other observations or actions than {config.env}; evaluate on a like body"
        )
    return env


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    """Whether every number in a tree of arrays is finite."""
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def _stop_if_not_finite(numbers: Mapping[str, float], out: Path, env_steps: int) -> None:
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise CrlvizError(
                f"{name} became {value} before environment step {env_steps:,}; the run stops, and the checkpoints "
                f"before it stay in {out / 'checkpoints'}"
            )


def _caption(row: Mapping[str, Any]) -> str:
    updates = f"{row['updates_per_second']:.0f} updates/s, " if "updates_per_second" in row else ""
    return f"{updates}success {row['success']:.2f}, time at goal {row['time_at_goal']:.0f}"


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
