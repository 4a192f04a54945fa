"""Plans, against the runs they predict."""

import csv
import dataclasses
import json
import re

import jax
import pytest
from click.testing import CliRunner

from crlviz.cli import cli
from crlviz.networks.residual import parameter_count
from tests.helpers.measured import MEASURED
from tests.helpers.shared_programs import toy_programs
from tests.helpers.toys import toy_config
from training.bench import plan as plans
from training.run import saved_state as states

SMALL = ["point_u_maze", "--preset", "smoke", "--width", "16", "--depth", "8"]


@pytest.fixture(scope="module")
def plan() -> plans.Plan:
    return plans.compute(toy_config())


@pytest.mark.slow
def test_memory_of_the_state_equals_the_arguments_of_the_compiled_step(plan):
    memory = plan.memory
    state = memory.parameters + memory.optimizer + memory.replay + memory.environments
    assert state == pytest.approx(toy_programs().learn.memory_analysis().argument_size_in_bytes, abs=64)  # a random key
    assert memory.shared  # on a CPU
    assert memory.total == state + max(memory.collecting, memory.learning, memory.evaluation) + memory.saving
    assert dataclasses.replace(memory, shared=False).total == memory.total - memory.saving


@pytest.mark.slow
def test_the_saved_copy_has_the_predicted_size(plan):
    programs = toy_programs()
    copied = states.snapshot(programs.start([0], [0]))
    assert plan.memory.saving == sum(leaf.nbytes for leaf in jax.tree.leaves(copied))


def test_counts_equal_those_of_the_run(plan, toy_run):
    with (toy_run / "metrics.csv").open() as file:
        *_, last = csv.DictReader(file)
    assert plan.env_steps == int(last["env_steps"])
    assert plan.updates == int(last["gradient_steps"])
    learner = jax.eval_shape(toy_programs().loop.algorithm.init, jax.random.key(0))
    assert plan.parameters == parameter_count((learner.actor, learner.critic))
    arrays = sum(leaf.size * 4 for leaf in jax.tree.leaves((learner.actor, learner.critic))) * len(
        list(toy_run.glob("checkpoints/*"))
    )
    assert plan.checkpoint_bytes == arrays


def test_hours_are_counts_divided_by_rates(plan):
    updating, stepping = plan.hours(plans.Rates(updates=2.0, env_steps=100.0, source=""))
    assert updating == pytest.approx(plan.updates / 2 / 3600)
    assert stepping == pytest.approx((plan.env_steps + plan.evaluation_steps) / 100 / 3600)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "part", "name"),
    [
        ({"replay_steps": 6000}, "replay", "save_replay"),
        ({"replay_steps": 6000, "save_replay": False}, "replay", "replay_steps"),
        (
            {"batch_size": 120, "actor__depth": 16, "critic__depth": 16, "save_replay": False},
            "learning",
            "batch_size",
        ),
        ({"eval_episodes": 4096, "save_replay": False}, "evaluation", "eval_episodes"),
        (
            {"num_envs": 1024, "unroll": 30, "replay_steps": 30, "actor__width": 64, "save_replay": False},
            "collecting",
            "num_envs",
        ),
    ],
)
def test_a_run_fits_with_the_suggested_setting(changes, part, name):
    config = toy_config(**changes)
    memory = plans.compute(config).memory
    limit = memory.total - getattr(memory, part) // 3
    advice = plans.knob(config, memory, limit)
    suggestion = re.match(r"(?:--set |--)([a-z_-]+)[ =](\w+)", advice)
    assert suggestion, advice
    assert suggestion[1].replace("-", "_") == name
    value = False if name == "save_replay" else int(suggestion[2])
    assert plans.compute(dataclasses.replace(config, **{name: value})).memory.total <= limit


def test_a_run_that_fits_gets_no_suggestion(plan):
    assert plans.knob(toy_config(), plan.memory, plan.memory.total) == ""


def test_without_a_setting_that_fits_the_plan_says_so(plan):
    assert plans.knob(toy_config(), plan.memory, 10.0).startswith("no single setting is enough")


@pytest.mark.slow
def test_the_command_predicts_hours_and_says_whether_the_run_fits(tmp_path):
    benchmark = tmp_path / "toy.json"
    benchmark.write_text(json.dumps(MEASURED))
    fits = CliRunner().invoke(cli, ["plan", *SMALL, "--rates", str(benchmark)]).output
    assert "updates/s" in fits
    assert "500 environment steps/s" in fits
    assert "by crlviz bench on toy accelerator, from 2 other sizes" in fits
    assert fits.rstrip().endswith("It fits.")
    too_large = CliRunner().invoke(cli, ["plan", *SMALL, "--no-measure", "--memory", "0.0001"]).output
    assert "It will not fit: " in too_large
    assert "updates/s" not in too_large
