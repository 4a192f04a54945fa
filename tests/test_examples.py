"""What lies in examples/ runs as it stands."""

import runpy
from pathlib import Path

import pytest

import crlviz

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_first_look(tmp_path, capsys):
    script = runpy.run_path(str(EXAMPLES / "first_look.py"))
    script["main"](tmp_path / "look.svg")
    said = capsys.readouterr().out
    assert "depth 4: reaches" in said
    assert "depth 16: reaches" in said
    assert (tmp_path / "look.svg").stat().st_size > 10_000


@pytest.mark.parametrize("depth", [4, 16])
def test_shipped_agents_reach_most_goals(depth):
    agent = crlviz.load(EXAMPLES / f"depth{depth}")
    assert agent.facts["depth"] == depth
    maze = agent.env.maze
    goals = maze.xy(maze.goals)
    # A policy that does not learn stays near the start: it reaches a goal or two.
    assert crlviz.rollout(agent, len(goals), goals=goals).success.any("time").mean() > 0.6
