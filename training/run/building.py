"""Build what a config names: environment, algorithm with its networks, and the loop that trains them."""

from typing import TYPE_CHECKING, Any

from crlviz import envs
from crlviz.algorithms import registry
from crlviz.algorithms.base import Algorithm
from crlviz.algorithms.batches import Sizes
from crlviz.envs.base import GoalEnv
from crlviz.errors import UsageError
from training.config import TrainConfig
from training.loop import distilled
from training.loop.dataset_loop import DatasetLoop
from training.loop.train_loop import Loop
from training.sharding import ONE, Devices

if TYPE_CHECKING:
    from crlviz.networks.fused_trunk import FusedTrunk


def build(config: TrainConfig, devices: Devices = ONE, trunk: "FusedTrunk | None" = None) -> Any:
    """Check a config and build its loop: environment, networks and algorithm. Compiles nothing.

    It is a ``Loop``, or on a data set a ``DatasetLoop``.

    ``trunk``: the kernels of the fused path; None: the plain path.

    Raises:
      UsageError: unknown environment, settings that contradict each other, or that do not divide over the devices.
    """
    counts, data = config.schedule, config.dataset
    devices.check(0 if data.path else config.num_envs, config.batch_size)
    env = envs.make(config.env, layout=config.layout or None, **config.env_options) if config.env else None
    length = config.episode_length or (env.episode_length if env else 0)
    method = algorithm(config, env, devices, trunk)
    if data.path:
        rows = data.replaced(method.recorded)
        return DatasetLoop(config, counts, method, devices, rows, data.goal_indices, env, length)
    assert env
    return Loop(config, counts, method, devices, env, length)


def algorithm(
    config: TrainConfig, env: GoalEnv | None, devices: Devices = ONE, trunk: "FusedTrunk | None" = None
) -> Algorithm:
    """The algorithm of a config, with networks of the sizes of the environment, or without one of the data set.

    Raises:
      UsageError: an error of ``registry.build``, or environment and data set differ.
    """
    data = config.dataset
    sizes = Sizes(data.state, data.action, len(data.goal_indices))
    if env:
        own = Sizes(env.state_dim, env.action_size, env.goal_dim)
        if data.path and (own != sizes or env.goal_indices != data.goal_indices):
            raise UsageError(
                f"{data.path} has states of {sizes.state} numbers, actions of {sizes.action} and goals at "
                f"{list(data.goal_indices)}; {env.id} has {own.state}, {own.action} and {list(env.goal_indices)}"
            )
        sizes = own
    method = registry.build(
        config.algorithm,
        config.own,
        config.actor,
        config.critic,
        sizes,
        gamma=config.gamma,
        replicate=devices.replicate,
        trunk=trunk,
    )
    return distilled.of(method, config) if config.teacher.path else method


def evaluation_env(loop: Any) -> Any:
    """The environment of the evaluations; None: a data set's run has none.

    Raises:
      UsageError: it has another body than the one that is trained.
    """
    config = loop.config
    if loop.env is None or not config.eval_env or config.eval_env == config.env:
        return loop.env
    env = envs.make(config.eval_env, **config.env_options)
    if (env.state_dim, env.goal_dim, env.action_size) != (loop.env.state_dim, loop.env.goal_dim, loop.env.action_size):
        raise UsageError(
            f"{config.eval_env} differs from {config.env} in its observations or actions; evaluate with the same body"
        )
    return env
