"""The script that searches for a world in which depth pays, and the report of its results."""

import dataclasses
import runpy
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.sparse.csgraph import connected_components
from scipy.special import logsumexp

from crlviz.envs import mazes
from crlviz.networks.config import STARTS
from tests.helpers.toys import TOY
from training.config import from_options, schedule
from training.trainer import build

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPT = runpy.run_path(str(EXAMPLES / "where_depth_pays.py"))
FIRST_UPDATES = runpy.run_path(str(EXAMPLES / "where_depth_pays" / "first_updates.py"))
REPORT = runpy.run_path(str(EXAMPLES / "where_depth_pays" / "report.py"))


def test_a_perfect_maze_has_one_way_between_any_two_cells():
    maze = mazes.Maze(SCRIPT["perfect_maze"](5))
    cells = np.array(maze.free)
    neighbors = abs(cells[:, None] - cells[None]).sum(-1) == 1
    assert connected_components(neighbors)[0] == 1
    assert neighbors.sum() // 2 == len(cells) - 1  # a tree
    assert len(cells) == 2 * 5 * 5 - 1
    assert {*maze.starts, *maze.goals} == set(maze.free)


def test_the_runs_follow_the_protocol(tmp_path):
    """Seeds of the confirming runs are fresh, each has all arms, and all arms of a world are evaluated as often."""
    seeds: dict[str, set[int]] = {}
    epochs: dict[str, set[int]] = {}
    for name in ("SCREEN", "CONFIRM", "LATER", "STARTS"):
        for arm in SCRIPT[name]:
            for cell in SCRIPT["cells"](arm, tmp_path):
                seeds.setdefault(f"{name} {arm.depth} {arm.width} {arm.start}", set()).add(cell.config.seed)
                epochs.setdefault(arm.world, set()).add(schedule(cell.config).steps_per_epoch)
                assert cell.total == cell.config.env_steps
    assert all(len(lengths) == 1 for lengths in epochs.values())
    assert epochs["swimmer"] == {12}
    confirming = seeds["CONFIRM 16 32 quiet"]
    assert len(confirming) >= 8
    assert confirming == seeds["CONFIRM 4 32 quiet"] == seeds["CONFIRM 4 64 quiet"]
    assert all(found <= confirming for name, found in seeds.items() if name.startswith("CONFIRM"))
    assert not any(found & confirming for name, found in seeds.items() if not name.startswith("CONFIRM"))


def test_a_command_repeats_the_runs_of_other_starts(tmp_path):
    """The kept rows are the evaluations that its runs make, and each first update has a start to repeat it."""
    kept = pd.read_csv(EXAMPLES / "where_depth_pays" / "starts.csv")
    assert list(kept.columns) == list(SCRIPT["COLUMNS"])
    arms = {arm.start: arm for arm in SCRIPT["BATCHES"]["starts"]}
    assert set(kept.start) == arms.keys()
    for start, rows in kept.groupby("start"):
        arm, (cell,) = arms[start], SCRIPT["cells"](arms[start], tmp_path)
        assert (cell.config.actor.start, cell.config.critic.start) == (start, start)
        assert {(arm.world, arm.depth, arm.width, cell.config.seed)} == {
            *zip(rows.world, rows.depth, rows.width, rows.seed, strict=True)
        }
        plan = schedule(cell.config)
        steps = [plan.steps_per_epoch * epoch for epoch in range(arm.evaluations + 1)]
        assert rows.env_steps.tolist() == [plan.env_steps(step) for step in steps]
        assert rows.gradient_steps.tolist() == [plan.gradient_steps(step) for step in steps]
    updates = pd.read_csv(EXAMPLES / "where_depth_pays" / "first_updates.csv")
    cases = {(depth, start) for depth in FIRST_UPDATES["DEPTHS"] for start in STARTS}
    assert {*zip(updates.depth, updates.start, strict=True)} == cases
    assert len(updates) == len(cases) * FIRST_UPDATES["UPDATES"]


@pytest.mark.slow
def test_first_updates_against_the_losses_by_hand():
    """The critic's: InfoNCE of the distances from phi to psi, with 0.1 times the squared log-sum-exp."""
    found = FIRST_UPDATES["first_updates"]("norm_quiet_heads", 4, width=8, updates=2)
    assert list(found.columns) == list(pd.read_csv(EXAMPLES / "where_depth_pays" / "first_updates.csv").columns)
    settings = [f"{network}.start=norm_quiet_heads" for network in ("actor", "critic")]
    config = from_options("swimmer", None, {"depth": 4, "width": 8}, settings)
    algorithm = build(config).algorithm
    batch = next(FIRST_UPDATES["batches"](algorithm, config.batch_size))
    params = jax.jit(algorithm.init)(jax.random.key(0)).critic
    phi = algorithm.critic.phi(params, batch.state, batch.action)
    logits = -np.linalg.norm(phi[:, None] - algorithm.critic.psi(params, batch.goal)[None], axis=-1)
    total = logsumexp(logits, axis=1)
    assert found.critic_loss[0] == pytest.approx(np.mean(total - np.diag(logits) + 0.1 * total**2), rel=1e-4)
    assert found.entropy[0] == pytest.approx(2.0, abs=0.2)
    assert found["update"].tolist() == [1, 2]
    assert found.critic_loss[1] != found.critic_loss[0]


@pytest.mark.slow
def test_a_failed_run_and_one_cut_short_lose_nothing(tmp_path, monkeypatch):
    Arm, World = SCRIPT["Arm"], SCRIPT["World"]
    toy = TOY | {"evaluations": 2}
    more = {name: value for name, value in toy.items() if not name.endswith((".width", "env_steps"))}
    SCRIPT["WORLDS"] |= {
        "toy": World("point_u_maze", settings=more),
        "diverging": World("point_u_maze", settings=more | {"crl.learning_rate": 1e30}),
        "endless": World("point_u_maze", settings=more | {"evaluations": 100_000}),
    }
    toy_arm = Arm("toy", 4, 8, env_steps=280, seeds="0")
    arms = [
        dataclasses.replace(toy_arm, world="endless", env_steps=400_000_000),
        dataclasses.replace(toy_arm, world="diverging"),
        toy_arm,
    ]
    write, over = SCRIPT["write_results"], []  # the seconds are over when the toy run is complete

    def written(runs, path):
        over.extend(cell for arm, cell in runs if arm == toy_arm and cell.done == cell.total)
        return write(runs, path)

    monkeypatch.setitem(SCRIPT["run"].__globals__, "write_results", written)
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 300 * bool(over))
    monkeypatch.setitem(SCRIPT["run"].__globals__, "time", clock)
    results = pd.read_csv(SCRIPT["run"](arms, 2, 300, tmp_path))
    complete = results.groupby("world").complete.first().to_dict()
    assert complete.pop("diverging", 0) == 0  # it may have had its evaluation before the first update
    assert complete == {"toy": 1, "endless": 0}
    assert results[results.world == "toy"].env_steps.max() == 280
    assert (results.parameters > 0).all()


def curves(depth, width, seed, success, seconds, complete=1):
    """A run with an evaluation every 100 steps, ``seconds`` apart."""
    count = np.arange(len(success))
    facts = {"world": "toy", "depth": depth, "width": width, "start": "quiet", "seed": seed, "parameters": 9}
    columns = {"env_steps": 100 * count, "gradient_steps": 10 * count, "train_seconds": seconds * count}
    return pd.DataFrame(facts | {"complete": complete} | columns | {"success": success, "time_at_goal": 0.0})


def rising(count, best):
    return np.minimum(np.arange(count) / 10, best)


def test_scores_by_hand():
    """Deep: 11 evaluations to step 1,000, 4 s apart. Shallow: 1 s apart, carried on to 40 s."""
    runs = pd.concat(
        part
        for seed in range(8)
        for part in (
            curves(16, 32, seed, rising(11, 0.9) + seed / 1000, 4),
            curves(4, 32, seed, rising(41, 0.3) + seed / 1000, 1),
            curves(4, 64, seed, rising(21, 0.9) + seed / 1000, 2, complete=seed != 3),
            curves(8, 32, seed, rising(11, 0), 2),
            curves(16, 32, seed, rising(11, 0), 4).assign(start="paper"),
        )
    )
    found = REPORT["comparisons"](runs)
    offsets = np.arange(8) / 1000
    last_five = np.mean([0.6, 0.7, 0.8, 0.9, 0.9])
    deep, shallow, verdict = found["as many updates"]
    assert deep == pytest.approx(last_five + offsets)
    assert shallow == pytest.approx(0.3 + offsets)
    assert verdict.verdict == 1
    assert verdict.comparisons == 4
    assert found["as many seconds"][1] == pytest.approx(0.3 + offsets)
    # The run that was cut short had reached the deep runs' steps; it counts there.
    assert found["as many parameters"][1] == pytest.approx(last_five + offsets)
    assert found["as many parameters"][2].verdict == 0
    # At 2 s an evaluation, it goes on to step 2,000.
    assert found["as many parameters and seconds"][1] == pytest.approx(0.9 + offsets)
    assert "after as many updates and after as many seconds" in REPORT["headline"](runs)
    # Costs are those of the last evaluation within the budget: step 1,000, or 40 s.
    assert REPORT["budgets"](runs).splitlines()[2:] == [
        "| depth 16, width 32 | 0.78 | 0.78 to 0.79 | 8 | 9 | 100 | 40 |",
        "| depth 4, width 32: as many updates | 0.30 | 0.30 to 0.31 | 8 | 9 | 100 | 10 |",
        "| depth 4, width 64: as many parameters | 0.78 | 0.78 to 0.79 | 8 | 9 | 100 | 20 |",
        "| depth 4, width 32: as many seconds | 0.30 | 0.30 to 0.31 | 8 | 9 | 400 | 40 |",
        "| depth 4, width 64: as many parameters and seconds | 0.90 | 0.90 to 0.91 | 8 | 9 | 200 | 40 |",
    ]


def test_worlds_that_were_tried_later_claim_nothing():
    """Nothing is said of as many seconds where runs did not train side by side, or depth 4 not for more steps."""
    runs = pd.concat(
        [
            curves(16, 32, 100, rising(11, 0.9), 4),
            curves(4, 32, 100, rising(11, 0.3), 1),
            curves(4, 64, 100, rising(11, 0.5), 2),
            curves(16, 8, 100, rising(11, 0), 4).assign(world="swimmer_u_maze"),
            curves(4, 8, 100, rising(41, 1), 1).assign(world="swimmer_u_maze"),
        ]
    )
    expected = ["| toy | 0.78 | 0.30 | 0.50 |  |  |", "| swimmer_u_maze | 0.00 | 0.80 |  | 1.00 |  |"]
    assert REPORT["worlds"](runs).splitlines()[2:] == expected
    longer = pd.concat([runs, curves(4, 32, 100, rising(41, 0.3), 1)])
    assert REPORT["worlds"](longer).splitlines()[2] == expected[0]


def test_starts_by_hand():
    updates = pd.DataFrame(
        {
            "depth": [16] * 5,
            "start": "zero_quiet_heads",
            "update": range(1, 6),
            "entropy": [2, 1, 0, -1, -9],
            "actor_loss": [3.14, 0, 0, 0, 0],
            "critic_loss": [9420.9, 0, 0, 0, 0],
            "actor_gradient": 0.0,
        }
    )
    runs = curves(16, 32, 100, rising(11, 0.9), 4).assign(start="zero_quiet_heads", world="swimmer")
    runs = pd.concat([runs, runs.assign(world="swimmer_u_maze"), runs.assign(width=64)])
    row = REPORT["starts"](runs, updates).splitlines()[-1]
    assert row == "| `zero_quiet_heads` | 3.1, 9,420.9 | 2.0 1.0 0.0 -1.0 | 0.78 |"


def test_a_run_cut_short_is_bracketed_and_not_in_the_mean():
    runs = pd.concat([curves(4, 32, 0, rising(11, 1), 1), curves(4, 32, 1, rising(6, 1), 1, complete=0)])
    last = REPORT["table"](runs).splitlines()[-1]
    assert "| 0.80 (0.30) | 0.80 |" in last
    assert REPORT["scores"](REPORT["within"](runs, env_steps=1000)) == pytest.approx([0.8])
    assert REPORT["scores"](REPORT["within"](runs, env_steps=500)) == pytest.approx([0.3, 0.3])


def test_the_page_shows_the_results_that_are_kept():
    page = REPORT["PAGE"].read_text(encoding="utf-8")
    runs = [pd.read_csv(EXAMPLES / "where_depth_pays" / name) for name in REPORT["FILES"]]
    between = page.split(REPORT["BEGIN"])[1].split(REPORT["END"])[0]
    assert between.strip() == REPORT["results"](*runs).strip()
    assert REPORT["PAGE"].with_suffix(".png").stat().st_size > 10_000
