"""Runs that diverge: they stop, or rewind to the last saved state with another key."""

import csv
import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from crlviz.algorithms.crl import CRL
from crlviz.checkpoints.run_directory import RunDirectory
from tests.helpers.shared_programs import REAL, of_program
from tests.helpers.toys import toy_config
from tests.torture.runs import differences
from training import trainer
from training.loop import divergence
from training.run import building, compiled


@functools.cache
def _compiled(algorithm, config, *on):
    """The programs of a config with this algorithm, which ``building.build`` must put in."""
    return REAL(config, *on)


class Poisoned(CRL):
    """From its eighth update on, about half of the keys give a NaN loss."""

    always = False

    def gradients(self, learner, key, *batch):
        gradients, metrics = super().gradients(learner, key, *batch)
        late = learner.actor_optimizer[0].count >= 7
        bad = late & (self.always | (jax.random.key_data(key)[0] % 2 == 0))
        return gradients, metrics | {"critic_loss": jnp.where(bad, jnp.nan, metrics["critic_loss"])}


class AlwaysPoisoned(Poisoned):
    always = True


@pytest.fixture
def poison(monkeypatch):
    real = building.build

    def arrange(algorithm):
        def build(config, *on):
            loop = real(config, *on)
            parts = [getattr(loop.algorithm, field.name) for field in dataclasses.fields(CRL)]
            return dataclasses.replace(loop, algorithm=algorithm(*parts))

        monkeypatch.setattr(compiled, "build", build)
        monkeypatch.setattr(compiled, "compiled", lambda config, *on: _compiled(algorithm, of_program(config), *on))

    return arrange


@pytest.mark.slow
def test_divergence_stops_the_run_and_names_the_last_good_checkpoint(toy_run, tmp_path, poison):
    poison(AlwaysPoisoned)
    run = tmp_path / "run"
    with pytest.raises(divergence.DivergenceError, match="critic_loss became nan in update 8; the run stops") as error:
        trainer.train(toy_config(), run, progress=False)
    assert error.value.exit_code == 1
    assert f"last good checkpoint: {run}/checkpoints/200" in str(error.value)
    assert RunDirectory(run).checkpoint_steps() == [200]
    for name in ("actor", "critic"):
        good, mine = (each / "checkpoints" / "200" / f"{name}.safetensors" for each in (toy_run, run))
        assert good.stat().st_size == mine.stat().st_size


@pytest.mark.slow
def test_rewinding_tries_other_keys_and_stops_after_the_last_rewind(tmp_path, poison, capsys):
    poison(AlwaysPoisoned)
    with pytest.raises(divergence.DivergenceError, match="stops after 2 rewinds"):
        trainer.train(toy_config(on_nan="rewind", rewinds=2), tmp_path / "run", progress=False)
    output = capsys.readouterr().err
    assert output.count("going back to environment step 200 with another key") == 2


def test_rewinding_passes_a_divergence_that_another_key_avoids(tmp_path, poison, capsys, killed):
    poison(Poisoned)
    # Each of five updates diverges with probability 1/2: many rewinds, and the same ones every time.
    config = {"on_nan": "rewind", "rewinds": 1000}
    complete = trainer.train(toy_config(**config), tmp_path / "complete", progress=False)
    rewinds = capsys.readouterr().err.count("with another key")
    assert rewinds > 0
    assert trainer.finished(complete)
    with open(complete / "metrics.csv", newline="", encoding="utf-8") as file:
        assert [int(row["env_steps"]) for row in csv.DictReader(file)] == [120, 200, 280]
    # Killed after a rewind, it does the same rewinds again.
    run = killed(tmp_path / "run", 3, **config)
    trainer.resume(run, progress=False)
    assert differences(run, complete) == []


@pytest.mark.slow
def test_divergence_before_the_first_state_restarts_the_run(tmp_path, poison, monkeypatch, capsys):
    poison(AlwaysPoisoned)
    with pytest.raises(divergence.DivergenceError, match="last good checkpoint: none yet"):
        trainer.train(toy_config(on_nan="rewind", rewinds=1, evaluations=1), tmp_path / "run", progress=False)
    assert "going back to environment step 120 with another key (1 of 1)" in capsys.readouterr().err
    assert RunDirectory(tmp_path / "run").newest_state() is None
