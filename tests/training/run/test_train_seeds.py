"""Several seeds of one config: each run equals the one trained alone, whatever happens to the others."""

import csv
import itertools
import json
import shutil
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crlviz
from crlviz import cli
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError, UsageError
from tests.helpers.toys import TOY, send, toy_config
from tests.torture.runs import TIMES, differences
from training import config as configs
from training import trainer
from training.run import compiled, signals
from training.run.programs import Programs
from training.run.runner import Run


@pytest.fixture
def at_once(monkeypatch):
    """Make this CPU train several runs at once, as an accelerator does."""
    monkeypatch.setattr(compiled, "at_once", lambda: True)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """Seeds 0 to 2, trained at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "at_once", lambda: True)
        return train(tmp_path_factory.mktemp("group"), range(3))


@pytest.fixture
def interrupted(monkeypatch):
    """Send SIGTERM right before the given training step, counted over all groups."""

    def arrange(number):
        real, done = Run.advance, []

        def step(self):
            done.append(self.step)
            if len(done) == number + 1:
                send(signal.SIGTERM)
            real(self)

        monkeypatch.setattr(Run, "advance", step)

    return arrange


def train(folder, seeds, config=None):
    outs = {seed: folder / f"seed{seed}" for seed in seeds}
    assert trainer.train_seeds(config or toy_config(), outs, progress=False) == list(outs.values())
    return folder


def rows(run):
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def parameters(run):
    return jax.tree.leaves(crlviz.load(run).params)


# ---- one after the other, as on a CPU


def test_in_turn_each_run_equals_the_one_trained_alone_bit_for_bit(toy_run, tmp_path, programs):
    alone = trainer.train(toy_config(seed=5), tmp_path / "alone", progress=False)
    before = programs.cache_info().misses
    train(tmp_path / "both", (0, 5))
    assert programs.cache_info().misses - before <= 1  # one program for both
    assert differences(tmp_path / "both" / "seed0", toy_run) == []
    assert differences(tmp_path / "both" / "seed5", alone) == []
    content = RunDirectory(tmp_path / "both" / "seed5").read_config()
    assert content["config"] == RunDirectory(alone).read_config()["config"]
    assert content["together"] == [5]  # nothing else was trained at the same time


def test_in_turn_a_signal_loses_nothing(toy_run, tmp_path, interrupted, capsys):
    """Sent while the second of three trains: the first is finished, the third has not begun."""
    runs = [tmp_path / f"seed{seed}" for seed in (3, 0, 4)]
    interrupted(5)
    with pytest.raises(signals.Stopped, match=f"go on with: crlviz train --resume {tmp_path}$") as stopped:
        trainer.train_seeds(toy_config(), dict(zip((3, 0, 4), runs, strict=True)), again=[tmp_path], progress=False)
    assert stopped.value.exit_code == 143
    assert [trainer.finished(run) for run in runs] == [True, False, False]
    assert [path.name for path in (runs[1] / "state").iterdir()] == ["200"]
    first = (runs[0] / "metrics.csv").stat().st_mtime_ns
    trainer.resume_seeds(runs, progress=False)
    assert all(map(trainer.finished, runs))
    assert differences(runs[1], toy_run) == []
    assert (runs[0] / "metrics.csv").stat().st_mtime_ns == first


def test_in_turn_a_failed_run_does_not_affect_the_others(toy_run, tmp_path, monkeypatch, capsys):
    plant(monkeypatch, seed=3)
    with pytest.raises(CrlvizError) as error:
        train(tmp_path, (3, 0))
    first, *own = str(error.value).splitlines()
    assert first == "1 of 2 runs failed"
    assert own[0].startswith(f"{tmp_path}/seed3: critic_loss became nan in update 1; the run stops")
    assert differences(tmp_path / "seed0", toy_run) == []


# ---- at once, as on an accelerator


@dataclass(eq=False)
class Counted:
    """Stands in for a ``SeedRun`` in ``Run.advance``; diverges in the given training step."""

    diverges_in: int | None = None
    error: CrlvizError | None = None
    number, total, path = 0, 100, "here"
    shares: list[float] = field(default_factory=list)

    def advance(self, losses, diverged, seconds):
        if len(self.shares) == self.diverges_in:
            raise CrlvizError("not finite")
        self.shares.append(seconds)


def test_at_once_a_diverged_run_gets_no_share_of_the_time(monkeypatch):
    seed_runs = [Counted(), Counted(diverges_in=1), Counted()]
    run = Run(seed_runs, None, 0.0, [], progress=False)
    run._slots = seed_runs
    run._programs = SimpleNamespace(advance=lambda state: (state, {}, ()), share=partial(Programs.share, None))
    clock = itertools.count(step=6.0)  # each training step takes six seconds
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    for _ in range(3):
        run.advance()
    assert [seed_run.shares for seed_run in seed_runs] == [[2.0, 2.0, 3.0], [2.0], [2.0, 2.0, 3.0]]


def plant(monkeypatch, seed, times=1):
    """Start the critic of one seed with NaN parameters."""
    real, done = Run.load, []

    def load(self):
        real(self)
        slot = next((slot for slot, seed_run in enumerate(self._slots) if seed_run.config.seed == seed), None)
        if slot is not None and len(done) < times:
            done.append(slot)
            critic = jax.tree.map(lambda leaf: leaf.at[slot].set(jnp.nan), self._state.learner.critic)
            self._state = self._state.replace(learner=self._state.learner.replace(critic=critic))

    monkeypatch.setattr(Run, "load", load)


@pytest.mark.slow
def test_at_once_each_run_is_close_to_the_one_trained_alone(group, toy_run):
    for mine, other in zip(parameters(group / "seed0"), parameters(toy_run), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)
    for mine, other in zip(rows(group / "seed0"), rows(toy_run), strict=True):
        assert mine.keys() == other.keys()
        for name in mine:
            if mine[name]:
                assert float(mine[name]) == pytest.approx(float(other[name]), rel=1e-3, abs=1e-3)
    others = [rows(group / f"seed{seed}")[-1] for seed in range(3)]
    assert len({row["critic_loss"] for row in others}) == 3
    assert [RunDirectory(group / f"seed{seed}").read_config()["together"] for seed in range(3)] == [[0, 1, 2]] * 3


@pytest.mark.slow
def test_at_once_each_run_counts_an_equal_share_of_the_seconds(group):
    seconds = []
    for seed in range(3):
        with open(group / f"seed{seed}" / "metrics.csv", newline="", encoding="utf-8") as file:
            last = list(csv.DictReader(file))[-1]
        seconds.append(float(last["train_seconds"]))
        assert float(last["wall_seconds"]) > 3 * seconds[-1]
    assert len(set(seconds)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_at_once_a_signal_saves_all(group, tmp_path, at_once, interrupted, number):
    interrupted(number)
    with pytest.raises(signals.Stopped):
        train(tmp_path, range(3))
    runs = [tmp_path / f"seed{seed}" for seed in range(3)]
    assert [[path.name for path in (run / "state").iterdir()] for run in runs] == [[str(160 + 40 * number)]] * 3
    trainer.resume_seeds(runs, progress=False)
    assert [differences(run, group / run.name) for run in runs] == [[], [], []]
    assert RunDirectory(runs[0]).read_config()["resumed"][0]["together"] == [0, 1, 2]


@pytest.mark.slow
def test_at_once_runs_resume_with_those_at_the_same_step(group, tmp_path, at_once, interrupted, capsys):
    """Seeds 0 and 2 are at the same step and seed 1 has not started: two groups, and a warning."""
    interrupted(2)
    with pytest.raises(signals.Stopped):
        train(tmp_path, range(3))
    shutil.rmtree(tmp_path / "seed1" / "state")
    shutil.rmtree(tmp_path / "seed1" / "checkpoints")
    runs = [tmp_path / f"seed{seed}" for seed in range(3)]
    trainer.resume_seeds(runs, progress=False)
    together = [RunDirectory(run).read_config()["resumed"][0]["together"] for run in runs]
    assert together == [[0, 2], [1], [0, 2]]
    output = capsys.readouterr().err
    assert f"{runs[1]} was trained in a group of 3 and continues in a group of 1" in output
    for run in runs:
        for mine, other in zip(parameters(run), parameters(group / run.name), strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-4)


@pytest.mark.slow
def test_at_once_a_diverged_run_drops_out(group, tmp_path, at_once, monkeypatch, capsys):
    plant(monkeypatch, seed=1)
    with pytest.raises(CrlvizError, match="1 of 3 runs failed"):
        train(tmp_path, range(3))
    assert f"{tmp_path / 'seed1'}: critic_loss became nan in update 1; the others continue" in capsys.readouterr().err
    assert RunDirectory(tmp_path / "seed1").checkpoint_steps() == []
    for seed in (0, 2):
        assert differences(tmp_path / f"seed{seed}", group / f"seed{seed}") == []


@pytest.mark.slow
def test_at_once_a_rewound_run_continues_after_the_others(group, tmp_path, at_once, monkeypatch, capsys):
    plant(monkeypatch, seed=1)
    train(tmp_path, range(3), toy_config(on_nan="rewind"))
    assert "going back to environment step 120 with another key (1 of 3)" in capsys.readouterr().err
    assert trainer.finished(tmp_path / "seed1")
    assert rows(tmp_path / "seed1") != rows(group / "seed1")
    for seed in (0, 2):
        assert differences(tmp_path / f"seed{seed}", group / f"seed{seed}") == []


@pytest.mark.slow
def test_at_once_a_removed_directory_does_not_affect_the_others(group, tmp_path, at_once, monkeypatch):
    real = Run.advance

    def step(self):
        if self.step == 1:
            shutil.rmtree(tmp_path / "seed2")
        real(self)

    monkeypatch.setattr(Run, "advance", step)
    with pytest.raises(CrlvizError, match=r"1 of 3 runs failed\n.*seed2: cannot write .*seed2.*No such file"):
        train(tmp_path, range(3))
    for seed in (0, 1):
        assert differences(tmp_path / f"seed{seed}", group / f"seed{seed}") == []


@pytest.mark.slow
def test_a_group_too_large_for_the_memory_is_halved_until_it_fits(at_once, monkeypatch, capsys):
    sizes = {slots: compiled.compiled(toy_config(), slots).memory for slots in (1, 3)}
    # The state of a slot is a good part of its memory.
    assert 1.5 * sizes[1] < sizes[3] < 6 * sizes[1]
    monkeypatch.setattr(compiled, "memory", lambda: sizes[3] - 1)
    compile_slots = compiled.compile_for(toy_config())
    assert compile_slots(3).slots == 2
    assert "3 seeds at once take" in capsys.readouterr().err
    monkeypatch.setattr(compiled, "memory", lambda: 1)
    assert compiled.compile_for(toy_config())(3).slots == 1
    assert capsys.readouterr().err.count("; training") == 2
    monkeypatch.setattr(compiled, "memory", lambda: None)
    assert compiled.compile_for(toy_config())(3).slots == 3


# ---- refusals, and the command


def test_an_existing_run_refuses_the_whole_group(toy_run, tmp_path):
    shutil.copytree(toy_run, tmp_path / "seed1")
    with pytest.raises(UsageError, match=f"{tmp_path / 'seed1'} exists already"):
        train(tmp_path, (0, 1))
    assert not (tmp_path / "seed0").exists()


def test_runs_with_different_settings_are_not_resumed_together(tmp_path):
    runs = [tmp_path / "a", tmp_path / "b"]
    for run, config in zip(runs, (toy_config(), toy_config(gamma=0.9, seed=1)), strict=True):
        RunDirectory(run).write_config(configs.content(config))
    with pytest.raises(UsageError, match=r"a and .*b differ in more than their seed \(gamma\)"):
        trainer.resume_seeds(runs, progress=False)


def test_a_damaged_state_does_not_affect_the_others(toy_run, tmp_path, interrupted):
    runs = [tmp_path / "seed0", tmp_path / "seed1"]
    for seed in (0, 1):
        interrupted(0)
        with pytest.raises(signals.Stopped):
            train(tmp_path, [seed])
    (runs[1] / "state" / "160" / "state.safetensors").write_bytes(b"")
    with pytest.raises(CrlvizError, match=r"1 of 2 runs failed\n.*seed1.*state.safetensors is damaged"):
        trainer.resume_seeds(runs, progress=False)
    assert differences(runs[0], toy_run) == []


# The options of the toy config, whose programs are already compiled.
TYPED = ["--preset=paper", "--set=redraw_goals=true", *(f"--set={name}={value}" for name, value in TOY.items())]


def test_the_command_trains_and_resumes_seeds(tmp_path, monkeypatch, capsys, interrupted):
    def crlviz_train(*arguments):
        monkeypatch.setattr("sys.argv", ["crlviz", "train", *map(str, arguments)])
        cli.main()
        return capsys.readouterr().out

    out = tmp_path / "runs"
    interrupted(0)
    with pytest.raises(SystemExit):
        crlviz_train("point_u_maze", *TYPED, "--seed", "3,9-10", "--out", out)
    assert capsys.readouterr().err.strip().endswith(f"go on with: crlviz train --resume {out}")
    names = ["seed3", "seed9", "seed10"]
    assert crlviz_train("--resume", out) == "".join(f"wrote {out / name}\n" for name in names)
    assert crlviz_train("--resume", out) == "".join(f"{out / name} is finished already\n" for name in names)
    config = json.loads((out / "seed9" / "config.json").read_text())
    assert config["config"]["seed"] == 9
    assert config["command"][:3] == ["crlviz", "train", "point_u_maze"]
    named = [tmp_path / f"mine-{seed}-run" for seed in (0, 1)]
    output = crlviz_train("point_u_maze", *TYPED, "--seed", "0,1", "--out", tmp_path / "mine-{seed}-run")
    assert output == f"wrote {named[0]}, {named[1]}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seed", "1", "--seeds", "0-1"], "--seed takes several seeds, such as 0-4; leave --seeds out"),
        (["--seed", "a,b"], "--seed takes whole numbers separated by commas, or a range such as 0-4, not 'a,b'"),
        (["--seed", "0,,1"], "--seed takes values with commas between"),
        (["--seed", "0-1", "--watch"], "--watch keeps the page of one run"),
    ],
)
def test_mistakes_with_seeds(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.setattr("sys.argv", ["crlviz", "train", "point_u_maze", "--out", str(tmp_path / "runs"), *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
