"""What lies in examples/ runs as it stands."""

import ast
import runpy
from pathlib import Path

import altair as alt
import nbformat
import numpy as np
import pytest

import crlviz
from analyses.common import runs
from analyses.pages import figures, paper
from crlviz import statistics
from crlviz.interchange import inspection

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.usefixtures("optimized")


@pytest.mark.slow
def test_first_look(tmp_path, capsys):
    script = runpy.run_path(str(EXAMPLES / "first_look.py"))
    script["main"](tmp_path / "look.svg")
    said = capsys.readouterr().out
    assert "depth 4: reaches" in said
    assert "depth 16: reaches" in said
    assert (tmp_path / "look.svg").stat().st_size > 10_000


@pytest.mark.parametrize("depth", [pytest.param(4, marks=pytest.mark.slow), 16])
def test_shipped_agents_reach_most_goals(depth):
    agent = crlviz.load(EXAMPLES / f"depth{depth}")
    assert agent.facts["depth"] == depth
    maze = agent.env.maze
    goals = maze.xy(maze.goals)
    # A policy that does not learn stays near the start: it reaches a goal or two.
    assert crlviz.rollout(agent, len(goals), goals=goals).success.any("time").mean() > 0.6


@pytest.mark.slow
def test_the_shipped_ant_walks_to_the_next_cell():
    """4 m away, with another start position each time; a body that does not walk stays at the start."""
    agent = crlviz.load(EXAMPLES / "ant")
    goals = np.tile(agent.env.maze.xy([(1, 2)]), (8, 1))
    assert crlviz.rollout(agent, 8, goals=goals, length=250).success.any("time").mean() > 0.6


@pytest.mark.slow
def test_the_shipped_humanoid_reaches_goals_before_it_falls():
    """At the goals of its training, 1 to 5 m away; a humanoid that cannot step falls at the start."""
    states = crlviz.rollout(crlviz.load(EXAMPLES / "humanoid"), 64, length=120)
    assert states.success.any("time").mean() > 0.5


@pytest.mark.slow
def test_the_shipped_sweep_is_whole_and_feeds_every_figure_that_crlviz_draws():
    paths = runs.find([EXAMPLES / name for name in ("runs", "learners", "offline", "collectors")])
    faults = [fault for path in paths for _, fault in inspection.check(path) if fault]
    assert not faults
    lacking = {
        figure.number
        for figure in figures.FIGURES
        if not figure.lacks and all(figure.missing(group) for group in paper.group(paths))
    }
    assert lacking == {"15", "table 2"}  # of quasimetric and of hyperspherical networks
    assert len(paths) == 54 + 60 + 20 + 18


def test_the_shipped_swimmers_are_whole_and_feed_figure_3():
    paths = runs.find([EXAMPLES / "swimmers"])
    assert not [fault for path in paths for _, fault in inspection.check(path) if fault]
    (group,) = paper.group(paths)
    (figure,) = figures.choose("3")
    assert not figure.missing(group)
    assert [agent.facts["depth"] for agent in group.over_depth] == [4, 4, 4, 8, 8, 8, 16, 16, 16]


@pytest.mark.slow
def test_the_shipped_swimmers_swim_at_depth_16_alone():
    """A body that does not swim reaches the few goals that lie at its start."""
    for depth, least, most in ((4, 0, 0.1), (16, 0.25, 1)):
        agent = crlviz.load(EXAMPLES / "swimmers" / f"depth{depth}-width32-seed0")
        assert least <= crlviz.rollout(agent, 64).success.any("time").mean() <= most


@pytest.mark.slow
def test_the_tour(monkeypatch):
    """The notebook from top to bottom as Jupyter runs it, and every chart that it shows drawn."""
    monkeypatch.chdir(EXAMPLES)
    notebook = nbformat.read("tour.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in code), "outputs are large and soon old: store the notebook without them"
    names: dict = {}
    drawn = 0
    for cell in code:
        *statements, last = ast.parse(cell.source).body
        exec(compile(ast.Module(statements, []), "tour.ipynb", "exec"), names)
        assert isinstance(last, ast.Expr)  # what the cell shows
        shown = eval(compile(ast.Expression(last.value), "tour.ipynb", "eval"), names)
        if isinstance(shown, alt.TopLevelMixin):
            assert shown.to_dict()["datasets"]
            drawn += 1
    assert drawn == 7


def test_the_shipped_runs_from_random_actions_do_what_the_guide_says():
    """Contrastive RL gets from random actions what exploring gets it, and more than cloning does."""
    dataset = runs.collect([EXAMPLES / "offline"])
    scores = {}
    for of_run in (dataset.isel(run=index) for index in range(dataset.sizes["run"])):
        kind = "online" if of_run["dataset"].item() == "none" else of_run.algorithm.item()
        scores.setdefault((kind, int(of_run.depth)), []).append(float(of_run.score_success))
    assert {key: len(values) for key, values in scores.items()} == dict.fromkeys(
        [("crl", 4), ("crl", 16), ("gcbc", 4), ("gcbc", 16), ("online", 4)], 4
    )
    assert statistics.compare(scores["crl", 4], scores["online", 4], 1, 1.0).verdict == 0
    for depth in (4, 16):
        assert statistics.compare(scores["crl", depth], scores["gcbc", depth], 3, 1.0).verdict == 1
