"""A collector and learners that train from its buffer alone (paper figure 8)."""

import dataclasses
import functools
import itertools
import shutil
import time

import jax
import numpy as np
import pytest

import crlviz as library
from analyses.common import runs
from crlviz.checkpoints import atomic_files
from crlviz.checkpoints.run_directory import RunDirectory, settings_digest
from crlviz.errors import CrlvizError
from tests.helpers.command import error_of
from tests.helpers.shared_programs import of_program, shared, toy_programs
from tests.helpers.toys import TOY, toy_config
from tests.torture.runs import differences, finish, start, wait_until_training
from training import collectors
from training.loop import buffer as replays
from training.run import building, fed_by_collector
from training.run.fed_by_collector import FedPrograms

pytestmark = pytest.mark.slow  # a collector and two learners train

FAMILY = ("learner-depth4", "learner-depth8", "collector")
REAL = fed_by_collector.programs


@functools.cache
def _programs(learners, collector, choices):
    return REAL(learners, collector, choices)


def _cached(learners, collector, choices, devices):
    """``fed_by_collector.programs``, compiled once in this process."""
    return _programs(tuple(map(of_program, learners)), of_program(collector), tuple(choices))


@pytest.fixture(autouse=True, scope="module")
def programs():
    with shared(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fed_by_collector, "programs", _cached)
        yield


def _train(out, **changes):
    return collectors.train(toy_config(**changes), [4, 8], {0: out}, progress=False)


@pytest.fixture(scope="module")
def fed(programs, tmp_path_factory):
    """The folder of a collector of depth 4 and its learners of depths 4 and 8."""
    folder = tmp_path_factory.mktemp("fed") / "fed"
    assert _train(folder) == [folder / name for name in FAMILY]
    return folder


def _all_differences(folder, reference):
    return [text for name in FAMILY for text in differences(folder / name, reference / name)]


def test_the_collector_is_the_run_that_it_would_be_alone(fed, toy_run):
    assert differences(fed / "collector", toy_run) == []
    assert differences(fed / "learner-depth4", toy_run) != []  # a learner of the same depth is not a copy of it


@pytest.mark.parametrize("depth", [4, 8])
def test_a_learner_learns_from_the_batches_of_its_collector(fed, depth):
    """Against updates one by one, on rows gathered from the collector's buffer with the keys of its own updates."""
    collector, config = toy_programs(), toy_config()
    (fed_config,) = collectors.learner_configs(config, [depth])
    algorithm = building.build(fed_config).algorithm
    learner = algorithm.init(jax.random.fold_in(jax.random.split(jax.random.key(0))[0], depth))
    update, state = jax.jit(algorithm.update), collector.start([0], [0])
    for _ in range(config.schedule.steps):
        state = collector.collected(state)
        replay = jax.tree.map(lambda leaf: leaf[0], state.replay)
        _, sample_key, update_key = jax.random.split(state.key[0], 3)
        rows = algorithm.rows
        indices = replays.sample(replay, sample_key, config.updates * config.batch_size, config.window, rows)
        batches = replays.gather(replay, indices, rows, collector.loop.env.goal_distance)
        for index, key in enumerate(jax.random.split(update_key, config.updates)):
            part = slice(index * config.batch_size, (index + 1) * config.batch_size)
            learner, _ = update(learner, key, jax.tree.map(lambda leaf, part=part: leaf[part], batches))
        state, _, _ = collector.learn(state)
    agent = library.load(fed / f"learner-depth{depth}")
    expected = jax.tree.leaves(algorithm.networks(learner))
    for mine, truth in zip(jax.tree.leaves(agent.params), expected, strict=True):
        np.testing.assert_allclose(mine, truth, atol=1e-5)


def test_what_is_recorded(fed):
    contents = {name: RunDirectory(fed / name).read_config() for name in FAMILY}
    assert contents["collector"]["learners"] == ["../learner-depth4", "../learner-depth8"]
    origin = {"path": "../collector", "depth": 4, "settings": settings_digest(contents["collector"])}
    for name in FAMILY[:2]:
        assert contents[name]["collector"] == origin
        assert contents[name]["config"]["collector_depth"] == 4
    assert contents["learner-depth8"]["cost"]["parameters"] > contents["learner-depth4"]["cost"]["parameters"]
    dataset = runs.collect([fed])
    assert dataset.collector_depth.values.tolist() == [0, 4, 4]
    assert [text for text in dataset.group.values if "collector_depth 4" in text] == dataset.group.values.tolist()[1:]


# They save twice, each time the state and the checkpoint of three runs, the collector's last.
@pytest.mark.parametrize("number", [0, 3, 5, 10])
def test_a_kill_at_any_moment_of_saving_changes_nothing(fed, tmp_path, monkeypatch, number):
    folder, real, calls = tmp_path / "fed", atomic_files.directory, itertools.count()

    def directory(path):
        if next(calls) >= number:
            raise MemoryError("as if killed")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, "directory", directory)
        with pytest.raises(MemoryError):
            _train(folder)
    collectors.resume([folder / "collector"], progress=False)
    assert _all_differences(folder, fed) == []


def test_without_a_last_state_and_longer(fed, tmp_path):
    folder = tmp_path / "fed"
    _train(folder, keep_state=False)
    assert not list(folder.rglob("state/*"))
    assert RunDirectory(folder / "collector").finished()
    longer = tmp_path / "longer"
    _train(longer, env_steps=200, evaluations=1)
    collectors.resume([longer / "collector"], {"env_steps": 280}, progress=False)
    assert _all_differences(longer, fed) == []


def _diverging(monkeypatch, slot, at):
    """From training step ``at`` on, report a divergence of one slot."""
    real, calls = FedPrograms.advance, itertools.count()

    def advance(self, state):
        state, losses, diverged = real(self, state)
        if next(calls) >= at:
            found = np.arange(len(diverged.found)) == slot
            diverged = dataclasses.replace(diverged, found=found)
        return state, losses, diverged

    monkeypatch.setattr(FedPrograms, "advance", advance)


def test_a_learner_that_diverges_does_not_stop_the_others(fed, tmp_path, monkeypatch):
    folder = tmp_path / "fed"
    with monkeypatch.context() as patch:
        _diverging(patch, 0, 3)
        with pytest.raises(CrlvizError, match=r"1 of 3 runs failed\n.*learner-depth4: critic"):
            _train(folder)
    for name in FAMILY[1:]:
        assert differences(folder / name, fed / name) == []
    stopped = RunDirectory(folder / "learner-depth4")
    assert stopped.checkpoint_steps() == [200]
    assert not stopped.finished()
    with pytest.raises(CrlvizError, match="learner-depth4: it stopped before its collector"):
        collectors.resume([folder / "collector"], progress=False)
    with pytest.raises(CrlvizError, match="learner-depth4: it stopped before its collector"):
        collectors.resume([folder / "collector"], {"env_steps": 360}, progress=False)
    assert [RunDirectory(folder / name).finished(360) for name in FAMILY] == [False, True, True]


def test_a_collector_that_diverges_stops_its_learners(tmp_path, monkeypatch):
    _diverging(monkeypatch, 2, 3)
    with pytest.raises(CrlvizError, match="3 of 3 runs failed") as error:
        _train(tmp_path / "fed")
    assert str(error.value).count("it stopped because its collector did") == 2
    assert [RunDirectory(tmp_path / "fed" / name).checkpoint_steps() for name in FAMILY] == [[200]] * 3


def test_the_command(crlviz, tmp_path, fed, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    toy = [f"--set={name}={value}" for name, value in TOY.items()]
    command = ["train", "point_u_maze", "--preset", "paper", *toy, "--set=redraw_goals=true", "--learners", "4,8"]
    code, out, _ = crlviz(*command, "--seed", "0-1", "--out", tmp_path / "seeds")
    assert code == 0
    assert _all_differences(tmp_path / "seeds" / "seed0", fed) == []
    assert str(tmp_path / "seeds" / "seed1" / "learner-depth8") in out
    code, out, _ = crlviz("train", "--resume", tmp_path / "seeds")
    assert (code, out.count("is finished already")) == (0, 6)
    assert "learner-depth8" in crlviz("ls", tmp_path / "seeds", "--where", "collector_depth=4")[1]
    for arguments, sentence in {
        (*command, "--out", tmp_path / "seeds" / "seed0"): "exists already",
        (*command[:-1], "4,deep"): "--learners takes depths separated by commas, such as 4,16, not '4,deep'",
        (*command, "--on-nan", "rewind"): "--on-nan rewind would change the data of all that learn from one buffer",
        (*command, "--watch"): "--watch keeps the page of one run",
        (*command[:-2], "--set=collector_depth=4"): "collector_depth is set by crlviz train --learners",
        ("train", "--resume", fed / "learner-depth4"): f"resume all: crlviz train --resume {fed}",
        ("train", "--resume", fed, "--learners", "4"): "--learners cannot be given beside it",
    }.items():
        assert sentence in error_of(crlviz(*arguments), 2)


def test_learners_that_are_gone_or_without_a_collector(fed, tmp_path, crlviz):
    folder = tmp_path / "fed"
    shutil.copytree(fed, folder)
    shutil.rmtree(folder / "learner-depth4")
    assert "learner-depth4, which was removed" in error_of(crlviz("train", "--resume", folder), 1)
    shutil.rmtree(folder / "collector")
    assert "which was never started or was removed" in error_of(crlviz("train", "--resume", folder), 1)


def test_a_process_killed_while_it_trains(tmp_path):
    folders = [tmp_path / name for name in ("killed", "whole")]
    for folder, kills in zip(folders, (2, 0), strict=True):
        for seconds in [*range(1, kills + 1), None]:
            began = time.time()
            process = start(folder, *([] if (folder / "collector" / "config.json").exists() else ["--learners", "4,8"]))
            if seconds:
                assert wait_until_training(process, folder / "collector", began)
                time.sleep(seconds)
                process.kill()
            code, words = finish(process)
        assert code == 0, words
    assert _all_differences(*folders) == []
