"""Configs: parsing, changing and refusing settings, and the schedule that follows from them."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crlviz import envs
from crlviz.errors import CrlvizError, UsageError
from tests.helpers.toys import toy_config
from training import config as configs
from training.config import PRESETS, TrainConfig, from_options, load, replace
from training.schedule import schedule

CONFIG = TrainConfig(env="point_u_maze")


def test_defaults_are_the_papers():
    assert (CONFIG.num_envs, CONFIG.unroll, CONFIG.updates, CONFIG.batch_size) == (512, 62, 800, 512)
    assert (CONFIG.gamma, CONFIG.replay_steps, CONFIG.window) == (0.99, 10_000, 1_000)
    assert (CONFIG.actor.depth, CONFIG.critic.width) == (4, 256)
    crl = CONFIG.crl
    assert (crl.learning_rate, crl.temperature_learning_rate, crl.initial_temperature) == (3e-4, 3e-4, 1.0)
    assert (crl.entropy_per_dimension, crl.logsumexp_penalty) == (-0.5, 0.1)


def test_defaults_of_the_other_learners_are_the_benchmarks():
    sac, td3 = CONFIG.sac, CONFIG.td3
    assert (sac.learning_rate, sac.temperature_learning_rate, sac.initial_temperature) == (1e-4, 3e-4, 1.0)
    assert (td3.learning_rate, td3.policy_delay, td3.target_noise, td3.explore_noise) == (3e-4, 2, 0.2, 0.4)
    for shared in (sac, td3):
        assert (shared.discount, shared.tau, shared.her_goals, shared.her_share) == (0.9, 0.005, "final", 1.0)
    assert (CONFIG.gcbc.learning_rate, CONFIG.gcsl.learning_rate) == (3e-4, 5e-4)


def test_networks_of_the_benchmark_can_be_asked_for():
    """A residual network cannot have two hidden layers; the kind is set with the depth."""
    settings = [f"{name}.kind=mlp" for name in ("actor", "critic")]
    config = from_options("point_u_maze", None, {"depth": 2, "algorithm": "td3"}, settings)
    assert (config.actor.depth, config.critic.kind) == (2, "mlp")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_give_valid_configs(name):
    config = replace(CONFIG, configs.preset(name))
    assert schedule(config).epochs > 1
    for setting, value in PRESETS[name].items():
        assert _get(config, setting) == value


def test_a_config_of_an_older_crlviz_begins_as_the_paper():
    settings = dataclasses.asdict(from_options("point_u_maze"))
    assert settings["actor"].pop("start") == settings["critic"].pop("start") == "quiet"
    older = load(settings)
    assert older.actor.start == older.critic.start == "paper"


def test_light_bodies_start_from_the_laptop_preset_with_their_own_settings():
    assert from_options("point_u_maze") == replace(CONFIG, PRESETS["laptop"])
    swimmer = from_options("swimmer_u_maze")
    assert swimmer == from_options("swimmer_u_maze", "laptop")
    assert (swimmer.num_envs, swimmer.batch_size, swimmer.actor.width) == (256, 128, PRESETS["laptop"]["actor.width"])
    assert from_options("swimmer", "laptop", {"num_envs": 32}).num_envs == 32
    assert from_options("swimmer", "paper").num_envs == TrainConfig(env="").num_envs
    assert from_options("ant") == from_options("ant", "paper")
    for name, body in envs.BODIES.items():
        if body.laptop is not None:
            assert schedule(from_options(f"{name}_u_maze" if body.cell_size else name)).epochs > 1


def test_the_paper_preset_keeps_goals():
    assert not replace(CONFIG, configs.preset("paper")).redraw_goals


def test_options_of_the_environment():
    config = replace(CONFIG, {"env_options.physics_step": "0.003", "env_options.backend": "spring"})
    assert config.env_options == {"physics_step": 0.003, "backend": "spring"}
    assert replace(config, {"env_options.backend": "mjx"}).env_options == {"physics_step": 0.003, "backend": "mjx"}
    assert hash(config) is not None  # a static argument of jitted functions
    with pytest.raises(UsageError, match="env_options"):
        replace(CONFIG, {"env_options": "spring"})


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(UsageError) as error:
        configs.preset("papr")
    assert all(name in str(error.value) for name in ("'papr'", *PRESETS))


def _get(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("env_steps", "1e6", 1_000_000),
        ("env_steps", "1_000", 1000),
        ("seed", "-3", -3),
        ("seed", "9007199254740993", 9007199254740993),  # more digits than a float holds
        ("gamma", "0.95", 0.95),
        ("gamma", "1", 1.0),
        ("redraw_goals", "false", False),
        ("redraw_goals", "True", True),
        ("eval_env", "point_u_maze_eval", "point_u_maze_eval"),
        ("actor.depth", "16", 16),
        ("critic.layer_norm", "FALSE", False),
        ("critic.activation", "relu", "relu"),
        ("crl.learning_rate", "1e-3", 1e-3),
    ],
)
def test_text_is_parsed_as_the_settings_type(name, text, value):
    changed = _get(replace(CONFIG, {name: text}), name)
    assert changed == value
    assert type(changed) is type(_get(CONFIG, name))


@pytest.mark.parametrize("names", [("actor.depth", "actor.tail"), ("actor.tail", "actor.depth")])
def test_settings_are_checked_together_after_all_are_set(names):
    texts = {"actor.depth": "5", "actor.tail": "1"}
    changed = replace(CONFIG, {name: texts[name] for name in names})
    assert (changed.actor.depth, changed.actor.tail) == (5, 1)
    typed = configs.from_options("point_u_maze", settings=[f"{name}={texts[name]}" for name in names])
    assert typed.actor == dataclasses.replace(typed.critic, depth=5, tail=1)
    with pytest.raises(UsageError, match="depth 5"):
        replace(CONFIG, {"actor.depth": "5"})


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("env_steps", "many", ["env_steps", "'many'"]),
        ("env_steps", "1.5", ["env_steps", "'1.5'"]),
        ("env_steps", "inf", ["env_steps", "'inf'"]),
        ("env_steps", "", ["env_steps"]),
        ("env_steps", "nan", ["env_steps"]),
        ("redraw_goals", "yes", ["redraw_goals", "true or false", "'yes'"]),
        ("gamma", "high", ["gamma", "'high'"]),
        ("critic.depth", "deep", ["critic.depth", "'deep'"]),
        ("critic.layer_norm", "1", ["critic.layer_norm", "true or false"]),
        ("depth", "4", ["'depth'", "critic.depth", "actor.depth"]),
        ("critic", "4", ["'critic'", "critic.depth"]),
        ("gamma.x", "4", ["'gamma.x'", "gamma"]),
        ("critic.deepness", "4", ["'critic.deepness'", "depth"]),
        ("", "4", ["''"]),
        ("critic.depth", "6", ["depth 6", "4 or 8"]),
    ],
)
def test_bad_settings_get_one_sentence(name, text, words):
    with pytest.raises(UsageError) as error:
        replace(CONFIG, {name: text})
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_names_lists_every_setting():
    names = configs.names(CONFIG)
    assert {"env", "gamma", "actor.depth", "critic.residual", "crl.learning_rate"} <= set(names)
    assert not {"actor", "critic", "crl"} & set(names)
    for name in names:
        assert replace(CONFIG, {name: _get(CONFIG, name)}) == CONFIG


def test_replace_does_not_change_the_original():
    changed = replace(CONFIG, {"critic.depth": 8, "actor.width": 32, "seed": 5})
    assert (changed.critic.depth, changed.actor.depth, changed.actor.width, changed.seed) == (8, 4, 32, 5)
    assert TrainConfig(env="point_u_maze") == CONFIG
    assert dataclasses.replace(changed.critic, depth=4) == CONFIG.critic


# ---- the schedule


def test_the_toy_schedule_by_hand():
    # 7 unrolls of 4 x 10 steps: 3 fill the window of 30, the other 4 make 2 epochs of 2.
    config = toy_config()
    plan = schedule(config)
    assert (plan.prefill_unrolls, plan.epochs, plan.steps_per_epoch, plan.replay_capacity) == (3, 2, 2, 60)
    assert plan.steps == 4
    assert [plan.env_steps(step) for step in (0, 2, 4)] == [4 * 10 * 3, 4 * 10 * 5, 4 * 10 * 7]
    assert [plan.gradient_steps(step) for step in (0, 2, 4)] == [0, 6, 12]


@given(
    num_envs=st.integers(1, 20),
    unroll=st.integers(1, 40),
    window=st.integers(1, 60),
    replay_steps=st.integers(60, 200),
    env_steps=st.integers(1, 30_000),
    evaluations=st.integers(1, 30),
)
def test_schedules_cover_what_was_asked(num_envs, unroll, window, replay_steps, env_steps, evaluations):
    config = toy_config(
        num_envs=num_envs,
        unroll=unroll,
        window=window,
        replay_steps=replay_steps,
        env_steps=env_steps,
        evaluations=evaluations,
        batch_size=2,
        updates=1,
    )
    if window * num_envs < 2:
        with pytest.raises(UsageError, match="batch_size"):
            schedule(config)
        return
    plan = schedule(config)
    assert window <= plan.prefill_unrolls * unroll < window + unroll
    assert replay_steps <= plan.replay_capacity < replay_steps + unroll
    assert plan.replay_capacity % unroll == 0
    assert 1 <= plan.epochs <= evaluations
    total = plan.env_steps(plan.steps)
    assert total >= env_steps
    # Less than an epoch more than asked for, unless the prefill alone is more.
    step = num_envs * unroll
    least = (plan.prefill_unrolls + 1) * step
    assert total <= max(least, env_steps + plan.steps_per_epoch * step)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 10_000}, ["batch_size", "10,000", "120 rows", "4 environments", "30 steps"]),
        ({"batch_size": 1}, ["batch_size is 1", "at least 2"]),
        ({"window": 61}, ["window is 61", "60", "replay_steps"]),
        ({"num_envs": 0}, ["num_envs is 0", "at least 1"]),
        ({"unroll": 0}, ["unroll is 0"]),
        ({"updates": -1}, ["updates is -1"]),
        ({"window": 0}, ["window is 0"]),
        ({"env_steps": 0}, ["env_steps is 0"]),
        ({"evaluations": 0}, ["evaluations is 0"]),
        ({"eval_episodes": 0}, ["eval_episodes is 0"]),
        ({"gamma": 0.0}, ["gamma is 0.0"]),
        ({"gamma": 1.01}, ["gamma is 1.01"]),
        ({"gamma": "nan"}, ["gamma is nan"]),
        ({"episode_length": -5}, ["episode_length is -5"]),
        ({"replay_steps": -5}, ["replay"]),
    ],
)
def test_invalid_settings_are_refused(changes, words):
    with pytest.raises(UsageError) as error:
        schedule(toy_config(**changes))
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_a_config_survives_json():
    config = toy_config(layout=("###", "#r#"), crl__learning_rate=1, save_replay=False)
    assert load(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert load({"env": "humanoid"}) == TrainConfig(env="humanoid")  # as an older crlviz wrote it


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"env": "a", "gama": 1.0}, "no setting is called 'gama'"),
        ({"env": "a", "actor": {"deep": 4}}, "no setting is called 'actor.deep'"),
        ({"env": "a", "gamma": "0.9"}, "gamma is '0.9', not a float"),
        ({"env": "a", "num_envs": True}, "num_envs is True, not a int"),
        ({"env": 1}, "env is 1, not a str"),
        ({"env": "a", "actor": 4}, "actor is 4"),
        ({"env": "a", "actor": {"depth": 6}}, "depth 6 is not"),
    ],
)
def test_a_config_with_other_fields_or_types_is_refused(settings, words):
    with pytest.raises(CrlvizError, match=r"config\.json is damaged or from another version of crlviz") as error:
        load(settings)
    assert words in str(error.value)
