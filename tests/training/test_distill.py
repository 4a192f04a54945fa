"""Distillation: its losses, who acts, and that a student is an ordinary run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import crlviz as library
from crlviz.algorithms.batches import Batch
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError
from tests.helpers.command import error_of
from tests.helpers.shared_programs import shared
from tests.torture.runs import differences
from training import trainer
from training.distill_command import student_config
from training.loop import distilled
from training.run import building
from training.run.runner import Run


def test_the_divergence_of_gaussians_is_the_integral():
    mean, log_std, other, other_log_std = np.array([[0.3, -1.2], [0.1, 0.4], [-0.5, 0.2], [0.6, -0.3]])
    x = np.linspace(-15, 15, 20_001)[:, None]
    first, second = stats.norm(mean, np.exp(log_std)), stats.norm(other, np.exp(other_log_std))
    expected = np.trapezoid(first.pdf(x) * (first.logpdf(x) - second.logpdf(x)), x, axis=0).sum()
    assert distilled.divergence(mean, log_std, other, other_log_std) == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def config(toy_run):
    return student_config(toy_run, width=12, env_steps=280)


@pytest.fixture(scope="module")
def pupil(config):
    """The updates of a student, and a learner."""
    algorithm = building.build(config).algorithm
    return algorithm, jax.jit(algorithm.init)(jax.random.key(3))


@pytest.fixture(scope="module")
def batch():
    state, action, goal = (
        jax.random.normal(jax.random.key(number), (6, size)) for number, size in enumerate((4, 2, 2))
    )
    return Batch(state, jnp.tanh(action), goal)


def test_the_targets_are_the_teachers_q_of_all_pairs(toy_agent, batch):
    values = jax.jit(lambda: distilled.values_of(toy_agent.algorithm, toy_agent.params, batch))()
    expected = [[toy_agent.q(s, a, g) for g in batch.goal] for s, a in zip(batch.state, batch.action, strict=True)]
    np.testing.assert_allclose(values, np.array(expected), atol=1e-4)


@pytest.mark.slow
def test_a_student_that_is_its_teacher_has_nothing_to_learn(toy_run, pupil, batch):
    twin = building.build(student_config(toy_run, env_steps=280)).algorithm
    learner = jax.jit(twin.init)(jax.random.key(3)).replace(params=twin.teacher.params)
    gradient, metrics = jax.jit(twin.gradients)(learner, None, batch)
    assert max(float(metrics[name]) for name in ("actor_loss", "critic_loss", "action_error")) < 1e-6
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-4
    algorithm, other = pupil
    update, before = jax.jit(algorithm.update), None
    for _ in range(60):
        other, metrics = update(other, None, batch)
        before = before or metrics
    for name, share in (("actor_loss", 0.9), ("critic_loss", 0.5), ("action_error", 0.9)):
        assert float(metrics[name]) < share * float(before[name])


@pytest.mark.slow
def test_the_teacher_acts_in_the_first_half(pupil, toy_agent):
    algorithm, learner = pupil
    observation, keys = jax.random.normal(jax.random.key(5), (5, 6)), jax.random.split(jax.random.key(7))
    actions = jax.jit(algorithm.act)(algorithm.acting(learner), observation, jax.random.key(7))
    act = jax.jit(algorithm.student.act)
    student = act(learner.params, observation[2:], keys[1])
    np.testing.assert_allclose(actions[:2], toy_agent.act(observation[:2], keys[0]), atol=1e-6)
    np.testing.assert_allclose(actions[2:], student, atol=1e-6)
    evaluated = jax.jit(algorithm.act)(algorithm.networks(learner), observation)
    np.testing.assert_allclose(evaluated, act(learner.params, observation), atol=1e-6)


@pytest.fixture(scope="module")
def student(config, tmp_path_factory):
    with shared():
        return trainer.train(config, tmp_path_factory.mktemp("students") / "run", progress=False)


@pytest.mark.slow
def test_a_student_is_an_ordinary_run(student, toy_run, crlviz, tmp_path):
    content = RunDirectory(student).read_config()
    assert content["config"]["teacher"] == {"path": str(toy_run), "depth": 4}
    assert content["algorithm"] == "crl"
    agent = library.load(student)
    assert set(agent.params) == {"actor", "critic"}
    assert (agent.facts["width"], agent.facts["teacher.depth"]) == (12, 4)
    assert "teacher.path" not in agent.facts
    assert {"critic_loss", "actor_loss", "action_error"} < set(RunDirectory(student).read_metrics()[-1])
    code, _, err = crlviz("export", student, "--out", tmp_path / "student.onnx")
    assert code == 0, err


def test_a_student_that_was_killed_ends_as_one_that_was_not(config, student, tmp_path, monkeypatch):
    real = Run.advance

    def die(self):
        if self.step == 3:
            raise MemoryError("as if killed")
        real(self)

    with shared(), monkeypatch.context() as patch:
        patch.setattr(Run, "advance", die)
        with pytest.raises(MemoryError):
            trainer.train(config, tmp_path / "run", progress=False)
    with shared():
        trainer.resume(tmp_path / "run", progress=False)
    assert differences(tmp_path / "run", student) == []


def test_mistakes(config, crlviz, tmp_path, toy_run):
    assert "there is no" in error_of(crlviz("distill", tmp_path / "none", "--out", tmp_path / "run"), 1)
    arguments = ("distill", toy_run, "--depth", "5", "--out", tmp_path / "run")
    assert "depth" in error_of(crlviz(*arguments), 2)
    gone = dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, path=str(tmp_path / "gone")))
    with pytest.raises(CrlvizError, match=r"there is no .*gone"):
        building.build(gone)
