"""The settings of runs on data sets, by the kind of their environment, as OGBench publishes them.

``bc_weight`` is OGBench's alpha. Data sets of crlviz's environments use the settings of the nearest kind.
"""

import functools
import re
from typing import TYPE_CHECKING, Any

from crlviz.algorithms import registry
from training.dataset_config import DatasetConfig
from training.presets import preset_of

if TYPE_CHECKING:
    from training.config import TrainConfig

_OGBENCH = re.compile(r"(pointmaze|antmaze|humanoidmaze|antsoccer|cube|scene|puzzle|powderworld)-.*")
_KINDS = {"cube": "manipulation", "scene": "manipulation", "puzzle": "manipulation"}
_BODIES = {"point": "pointmaze", "humanoid": "humanoidmaze", "ant_ball": "antsoccer", "arm": "manipulation"}

# bc_weight by section, kind of environment and kind of data set; "" is any other.
_WEIGHTS: dict[str, dict[str, dict[str, float]]] = {
    "crl": {
        "pointmaze": {"": 0.03},
        "antmaze": {"": 0.1, "explore": 0.003},
        "humanoidmaze": {"": 0.1},
        "antsoccer": {"": 0.3},
        "manipulation": {"": 3.0, "noisy": 0.1},
        "powderworld": {"": 3.0},
    },
    "qrl": {
        "pointmaze": {"": 0.0003},
        "antmaze": {"": 0.003, "explore": 0.001},
        "humanoidmaze": {"": 0.001},
        "antsoccer": {"": 0.003},
        "manipulation": {"": 0.3, "noisy": 0.03},
        "powderworld": {"": 3.0},
    },
    "gciql": {
        "pointmaze": {"": 0.003},
        "antmaze": {"": 0.3, "explore": 0.01},
        "humanoidmaze": {"": 0.1},
        "antsoccer": {"": 0.1},
        "manipulation": {"": 1.0, "noisy": 0.03},
        "powderworld": {"": 3.0},
    },
}
_LARGE = {
    "actor.width": 512,
    "critic.width": 512,
    "batch_size": 1024,
    "updates": 1000,
    "gradient_steps": 1_000_000,
    "evaluations": 10,
}
_SMALL = {"batch_size": 256, "updates": 250, "gradient_steps": 20_000, "evaluations": 10}


def kind_of(data: DatasetConfig) -> tuple[str, str]:
    """The kinds of the environment and of the data set, such as antmaze and explore; random actions explore."""
    name = data.name
    if found := _OGBENCH.fullmatch(name):
        words = name.split("-")
        other = next((word for word in ("stitch", "explore", "noisy") if word in words), "")
        return _KINDS.get(found[1], found[1]), other
    return next((kind for body, kind in _BODIES.items() if name.startswith(body)), "antmaze"), "explore" * data.random


def settings(data: DatasetConfig, algorithm: str, preset: str) -> dict[str, Any]:
    """The settings of a preset that a data set changes, by dotted name.

    Args:
      data: the data set.
      algorithm: the learner.
      preset: the preset that the run starts from.
    """
    section, (environment, kind) = registry.section(algorithm), kind_of(data)
    published, config = bool(_OGBENCH.fullmatch(data.name)), registry.of(algorithm).Config
    changes: dict[str, Any] = {} if preset == "smoke" else dict(_LARGE if preset == "paper" else _SMALL)
    if preset == "smoke":
        changes = {"gradient_steps": 200, "evaluations": 2}
    if environment == "humanoidmaze" or "-giant-" in data.name:
        changes["gamma"] = 0.995
    if section in _WEIGHTS:
        changes[f"{section}.bc_weight"] = _WEIGHTS[section][environment].get(kind, _WEIGHTS[section][environment][""])
    if section == "crl":
        changes["crl.actor_loss"] = "awr" if environment == "powderworld" else "ddpgbc"
        # bc_weight is tuned for OGBench's critic, so the two come together.
        ogbench = {"crl.critics": 2, "crl.loss": "binary", "crl.energy": "dot", "crl.softmax_temperature": 8.0}
        changes |= ogbench | {"crl.logsumexp_penalty": 0.0} if published else {}
    if section == "qrl" and preset == "paper":
        changes["qrl.latent"] = 512
    if hasattr(config, "policy"):
        changes[f"{section}.policy"] = "gaussian"
    shares = {"stitch": "0/0.5/0.5", "explore": "0/0/1"}
    if kind in shares and section in _WEIGHTS:
        changes["dataset.actor_goals"] = shares[kind]
    return changes


def told(config: "TrainConfig", preset: str | None) -> str:
    """A line for the user: the data set, and what these settings are in the run."""
    data = config.dataset
    names = settings(data, config.algorithm, preset_of(preset, config.env))
    listed = ", ".join(f"{name}={functools.reduce(getattr, name.split('.'), config)}" for name in names)
    kind = " ".join(filter(None, kind_of(data)))
    return f"{data.path}: {data.rows:,} rows, {data.trajectories:,} trajectories of {data.name}; {kind}: {listed}"
