"""Episodes in OGBench's own environments, for agents trained on its data sets without an environment of crlviz."""

from typing import TYPE_CHECKING, Any

import numpy as np

from crlviz.errors import CrlvizError, UsageError

if TYPE_CHECKING:
    from crlviz.agent import Agent


def run(agent: "Agent", episodes: int, length: int | None, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run the deterministic policy, episode after episode; OGBench's tasks take turns, and success ends an episode.

    Args:
      agent: its config names a data set of OGBench.
      episodes: their number.
      length: most steps of an episode; None: the environment's.
      seed: of the first reset; each episode has the next one.

    Returns:
      Observations at the start [episodes, state], numbers of the tasks [episodes, 1] from 1, and which steps are at
      the goal [length, episodes].

    Raises:
      CrlvizError: OGBench is not installed, or cannot run here.
      UsageError: OGBench has no such environment, or it has other observations than the data.
    """
    env = _environment(agent.facts["env"])
    space, size = env.observation_space.shape, agent.sizes.state
    if space != (size,):
        raise UsageError(f"{agent.source} takes states of {size} numbers; OGBench's environment gives {list(space)}")
    count, length = env.unwrapped.num_tasks, length or env.spec.max_episode_steps
    at_goal, starts = np.zeros((length, episodes), bool), []
    tasks = 1 + np.arange(episodes) % count
    for episode, task in enumerate(tasks):
        np.random.seed(seed + episode)  # noqa: NPY002  (OGBench's mazes draw starts from numpy's global generator)
        state, info = env.reset(seed=seed + episode, options={"task_id": int(task)})
        starts.append(state)
        goal = np.asarray(info["goal"])[list(agent.config["dataset"]["goal_indices"])]
        for step in range(length):
            action = np.asarray(agent.act(np.concatenate([state, goal])))
            state, _, ended, cut, info = env.step(action)
            at_goal[step, episode] = bool(info["success"])
            if ended or cut:
                break
    env.close()
    return np.array(starts, np.float32), tasks[:, None].astype(np.float32), at_goal


def _environment(name: str) -> Any:
    try:
        import ogbench
    except ImportError as error:
        raise CrlvizError(
            f"episodes in the environment of {name} need OGBench ({error}): pip install 'crlviz[ogbench]'"
        ) from None
    try:
        return ogbench.make_env_and_datasets(name, env_only=True)
    except Exception as error:  # gymnasium, OGBench and MuJoCo raise errors of many classes
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f"OGBench has no environment for {name[:100]!r} ({reason})") from None
