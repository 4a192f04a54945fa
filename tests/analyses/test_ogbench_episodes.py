"""Episodes in OGBench's own environment, against OGBench itself."""

from types import SimpleNamespace

import numpy as np
import pytest

from analyses import ogbench_episodes
from crlviz.algorithms.batches import Sizes
from crlviz.errors import UsageError

NAME = "pointmaze-medium-navigate-v0"


def _agent(act, name=NAME, size=2):
    config = {"dataset": {"goal_indices": list(range(size))}}
    return SimpleNamespace(act=act, facts={"env": name}, sizes=Sizes(size, 2, size), config=config, source="here")


def test_tasks_take_turns_and_a_success_is_ogbenchs():
    ogbench = pytest.importorskip("ogbench")
    asked = []

    def toward(observation):
        asked.append(observation)
        return np.clip(observation[2:] - observation[:2], -1, 1)

    starts, tasks, at_goal = ogbench_episodes.run(_agent(toward), 6, 30, seed=3)
    assert tasks.ravel().tolist() == [1, 2, 3, 4, 5, 1]
    env = ogbench.make_env_and_datasets(NAME, env_only=True)
    calls = iter(asked)
    for episode, task in enumerate(tasks.ravel()):
        np.random.seed(3 + episode)  # noqa: NPY002
        state, info = env.reset(seed=3 + episode, options={"task_id": int(task)})
        np.testing.assert_allclose(starts[episode], state, rtol=1e-6)
        goal = info["goal"]
        for step in range(30):
            np.testing.assert_allclose(next(calls), np.concatenate([state, goal]))
            state, _, ended, _, info = env.step(np.clip(goal - state, -1, 1))
            assert at_goal[step, episode] == bool(info["success"])
            if ended:
                break
    assert next(calls, None) is None


def test_unknown_names_and_other_observations_are_refused():
    pytest.importorskip("ogbench")
    with pytest.raises(UsageError, match="OGBench has no environment for 'nothing-v0'"):
        ogbench_episodes.run(_agent(None, "nothing-v0"), 1, 1, 0)
    with pytest.raises(UsageError, match=r"takes states of 3 numbers; OGBench's environment gives \[2\]"):
        ogbench_episodes.run(_agent(None, size=3), 1, 1, 0)
