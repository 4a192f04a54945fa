"""The facts that distinguish agents in tables, legends and data sets."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flax.traverse_util import flatten_dict

from crlviz import envs
from crlviz.algorithms import registry

if TYPE_CHECKING:
    from crlviz.agent import Agent

# Defaults for settings that configs of older runs lack. Networks, environments and algorithms have their own defaults.
_DEFAULTS: dict[str, Any] = {"precision": "float32", "collector_depth": 0, "teacher": {"depth": 0}}
# Settings that the named facts already cover.
_COVERED = re.compile(
    r"algorithm|env|seed|batch_size|env_steps|gradient_steps|teacher\.path|"
    r"(actor|critic)\.(depth|width|layer_norm|sphere|activation|residual|kind)"
)


def of(agent: "Agent") -> dict[str, Any]:
    """The named facts of an agent, then its other settings (``Agent.facts``)."""
    config, shapes = agent.config, agent.shapes
    actor = shapes["actor"]
    critic = shapes.get("critic", actor)
    networks = critic.ablation, actor.ablation
    return {
        "algorithm": agent.algorithm.name,
        "env": config["env"] or config["dataset"]["name"],
        "depth": critic.depth,
        "width": critic.width,
        "actor_depth": actor.depth,
        "actor_width": actor.width,
        "network": networks[0] if networks[0] == networks[1] else "critic {}, actor {}".format(*networks),
        "batch_size": config["batch_size"],
        "seed": config["seed"],
        "env_steps": agent.env_steps,
    } | _settings(agent)


def _settings(agent: "Agent") -> dict[str, Any]:
    """The settings that the named facts do not cover."""
    config = _DEFAULTS | agent.config
    config |= {name: asdict(shape) for name, shape in agent.shapes.items()}
    section = registry.section(agent.algorithm.name)
    config[section] = asdict(agent.algorithm.config) | dict(config.get(section, {}))
    config["env_options"] = (envs.options(config["env"]) if config["env"] else {}) | config.get("env_options", {})
    config["dataset"] = "none"
    if data := agent.config.get("dataset"):
        # Two files of one environment are two tasks; their paths are not settings.
        told = {"dataset": f"{data['name']}-{data['sha256'][:6]}"}
        told |= {f"dataset.{name}": data[name] for name in ("value_goals", "actor_goals", "block_rows")}
        config |= told
    config["eval_env"] = "" if config["eval_env"] == config["env"] else config["eval_env"]
    config["layout"] = _layout_name(config["layout"])
    flat = {name: value for name, value in flatten_dict(config, sep=".").items() if not _COVERED.fullmatch(name)}
    return {name: value if isinstance(value, bool | int | float) else str(value) for name, value in flat.items()}


def _layout_name(layout: Sequence[str]) -> str:
    """A short unique name for a custom maze: its size and the first digits of its checksum."""
    if not layout:
        return ""
    return f"{len(layout)}x{len(layout[0])}-{hashlib.sha256('/'.join(layout).encode()).hexdigest()[:6]}"
