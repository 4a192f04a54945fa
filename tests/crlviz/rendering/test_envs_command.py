"""The table of environments agrees with what ``make`` builds."""

import pytest

from crlviz import envs
from crlviz.envs.physics import PhysicsEnv
from crlviz.envs.point import PointMaze
from crlviz.rendering.envs_command import table


@pytest.mark.slow
def test_rows_agree_with_what_is_built():
    rows = table()
    assert [row["id"] for row in rows] == envs.ids()
    for row in rows:
        env = envs.make(row["id"])
        assert row == {
            "id": env.id,
            "state": env.state_dim,
            "goal": env.goal_dim,
            "action": env.action_size,
            "physics": env.backend,
            "threshold": env.goal_distance,
            "episode": env.episode_length,
            "goals": len(env.maze.goals) if "maze" in env.id else None,
            "paper": env.id in envs.PAPER,
        }
        # The arms' two fingers share one action; every other actuator has its own.
        if isinstance(env, PhysicsEnv) and not env.id.startswith("arm_"):
            assert len(env.control_range) == env.action_size


def test_the_table_builds_no_environment(monkeypatch):
    def build(*_, **__):
        pytest.fail("an environment was built")

    monkeypatch.setattr(PhysicsEnv, "__init__", build)
    monkeypatch.setattr(PointMaze, "__init__", build)
    with pytest.raises(pytest.fail.Exception):
        envs.make("ant")
    assert len(table()) == len(envs.ids())


def test_the_papers_tasks_are_listed():
    assert len(envs.PAPER) == 10
    assert set(envs.ids()) >= envs.PAPER
