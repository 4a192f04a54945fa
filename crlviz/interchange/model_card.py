"""A model card for an exported agent: a README.md as the Hugging Face hub shows it. A plain file; nothing is uploaded.

Everything that comes from a run's files is escaped: in the front matter as JSON strings, which YAML reads, in Markdown
as code.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from crlviz import __version__
from crlviz.algorithms import registry
from crlviz.checkpoints.metrics_table import LAST
from crlviz.checkpoints.run_directory import KEEPING, RunDirectory, runs_in
from crlviz.errors import CrlvizError, UsageError
from crlviz.escaping import printable
from crlviz.networks.residual import parameter_count

if TYPE_CHECKING:
    from crlviz.agent import Agent

NAME = "README.md"
_MARK = "library_name: crlviz"  # identifies a card that may be overwritten
_SETTINGS = ("gamma", "num_envs", "unroll", "updates", "replay_steps", "window", "explore", "precision")
Scores = tuple[float, float]  # success (share of episodes) and time at goal (steps)


def path_beside(exported: Path) -> Path:
    """Where the card of an exported file belongs.

    Raises:
      UsageError: another README.md is there.
    """
    path = exported.parent / NAME
    if path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace")[:1000]:
        raise UsageError(f"{path} is not a model card of crlviz and stays as it is; export into another directory")
    return path


def write(agent: "Agent", exported: Path) -> str:
    """The card as Markdown.

    Args:
      agent: that was exported.
      exported: the .safetensors or .onnx file. A file of the other kind with the same name beside it is listed too.
    """
    scores = seeds_scores(agent)
    parts = [_front_matter(agent, scores), _what(agent), _scores(agent, scores), *_loading(agent, exported)]
    return "\n\n".join([*parts, _limits(scores)]) + "\n"


def seeds_scores(agent: "Agent") -> dict[int, Scores]:
    """Seed -> scores at the agent's environment steps, of its run and of sibling runs that differ in the seed alone.

    A score is the mean of the last five evaluations up to there. Empty without a metrics.csv, as of an imported run.
    """
    own = agent.source.parent.parent
    found: dict[int, Scores] = {}
    for run in [own, *(other for other in runs_in(own.parent) if other != own)]:
        try:
            directory = RunDirectory(run)
            config = directory.read_config()
            if _without_seed(config) == _without_seed(RunDirectory(own).read_config()):
                rows = [row for row in directory.read_metrics() if int(row["env_steps"]) <= agent.env_steps]
                if rows and int(rows[-1]["env_steps"]) == agent.env_steps:
                    columns = ([float(row[name]) for row in rows[-LAST:]] for name in ("success", "time_at_goal"))
                    success, at_goal = map(fmean, columns)
                    found.setdefault(int(config["config"]["seed"]), (success, at_goal))
        except (CrlvizError, OSError, KeyError, ValueError):
            continue  # a damaged neighbor is none of the card's business
    return found


def _without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: value for name, value in config["config"].items() if name not in ("seed", *KEEPING)}
    return settings | {"algorithm": config["algorithm"]}


def _front_matter(agent: "Agent", scores: Mapping[int, Scores]) -> str:
    name, env = _yaml(_title(agent)), _yaml(agent.env.id)
    tags = ["reinforcement-learning", "goal-conditioned", "jax", agent.algorithm.name, agent.env.id]
    lines = ["---", _MARK, "pipeline_tag: reinforcement-learning", "tags:", *(f"- {_yaml(tag)}" for tag in tags)]
    if (seed := agent.config["seed"]) in scores:
        lines += ["model-index:", f"- name: {name}", "  results:", "  - task:", "      type: reinforcement-learning"]
        lines += ["    dataset:", f"      name: {env}", f"      type: {env}", "    metrics:"]
        for metric, value in zip(("success", "time_at_goal"), scores[seed], strict=True):
            lines += [f"    - type: {metric}", f"      value: {value:.4g}", "      verified: false"]
    return "\n".join([*lines, "---"])


def _title(agent: "Agent") -> str:
    return f"{agent.algorithm.name} on {agent.env.id}, depth {agent.facts['depth']}"


def _what(agent: "Agent") -> str:
    env, config = agent.env, agent.config
    updates = "unknown" if agent.gradient_steps is None else f"{agent.gradient_steps:,}"
    rows = [
        ("algorithm", _code(agent.algorithm.name)),
        ("environment", _code(env.id)),
        *((f"option {name}", _code(value)) for name, value in agent.config.get("env_options", {}).items()),
        ("state, goal, action", f"{env.state_dim}, {env.goal_dim}, {env.action_size} numbers"),
        ("success", f"within {env.goal_distance:g} m of the goal"),
        ("episode", f"{config.get('episode_length') or env.episode_length} steps of {env.dt:g} s"),
        *((name, _shape(shape)) for name, shape in agent.shapes.items()),
        ("parameters", f"{parameter_count(agent.params):,}"),
        ("trained for", f"{agent.env_steps:,} environment steps, {updates} updates of {config['batch_size']} rows"),
        ("seed", str(config["seed"])),
        *((name.replace("_", " "), _code(config[name])) for name in _SETTINGS if name in config),
        *(
            (name.replace("_", " "), _code(value))
            for name, value in config.get(registry.section(agent.algorithm.name), {}).items()
        ),
    ]
    lines = [
        f"# {_text(_title(agent))}",
        "",
        f"A goal-reaching policy, trained in simulation. Exported by crlviz {__version__}.",
    ]
    lines += ["", "| | |", "| --- | --- |", *(f"| {_text(name)} | {value} |" for name, value in rows)]
    if layout := config["layout"]:
        lines += ["", "The maze:", "", *(f"    {printable(row)}" for row in layout)]
    return "\n".join(lines)


def _shape(shape: Any) -> str:
    kind = "an MLP" if shape.kind == "mlp" else "residual"
    lacks = "" if shape.ablation == "full network" else f", {shape.ablation}"
    lacks += ", LayerNorm before the heads" if shape.norm_before_heads else ""
    return _code(f"{kind}, depth {shape.depth}, width {shape.width}, {shape.activation}{lacks}")


def _scores(agent: "Agent", scores: Mapping[int, Scores]) -> str:
    if not scores:
        return "## Scores\n\nNone are known: the run has no learning curve."
    lines = ["## Scores", "", f"Means of the last {LAST} evaluations up to these environment steps, by seed.", ""]
    lines += ["| seed | goals reached | steps at the goal |", "| --- | --- | --- |"]
    for seed, (success, at_goal) in sorted(scores.items()):
        name = f"**{seed}** (this agent)" if seed == agent.config["seed"] else str(seed)
        lines.append(f"| {name} | {success:.3f} | {at_goal:.1f} |")
    if len(scores) > 1:
        success, at_goal = (fmean(column) for column in zip(*scores.values(), strict=True))
        lines.append(f"| mean | {success:.3f} | {at_goal:.1f} |")
    return "\n".join(lines)


def _loading(agent: "Agent", exported: Path) -> Iterator[str]:
    yield "## Use"
    for ending, snippet in ((".safetensors", _safetensors_snippet), (".onnx", _onnx_snippet)):
        path = exported.with_suffix(ending)
        if path == exported or path.exists():
            yield f"From {_code(path.name)}:\n\n```python\n{snippet(agent, json.dumps(path.name))}\n```"


def _safetensors_snippet(agent: "Agent", name: str) -> str:
    section = registry.section(agent.algorithm.name)
    return f"""import json

import numpy as np
from crlviz.algorithms import registry
from crlviz.algorithms.batches import Sizes
from crlviz.networks.config import NetworkConfig
from flax.traverse_util import unflatten_dict
from safetensors import safe_open

with safe_open({name}, "numpy") as file:
    arrays = {{name: file.get_tensor(name) for name in file.keys()}}
    about = file.metadata()
config, sizes = json.loads(about["config"]), Sizes(**json.loads(about["sizes"]))
algorithm = registry.build(
    config["algorithm"],
    registry.of(config["algorithm"]).Config(**config.get({json.dumps(section)}, {{}})),
    NetworkConfig(**config["actor"]),
    NetworkConfig(**config["critic"]),
    sizes,
    gamma=config.get("gamma", 1.0),
)
observation = np.zeros((1, sizes.state + sizes.goal), np.float32)  # the state, then the goal
action = algorithm.act(unflatten_dict(arrays, sep="/"), observation)"""


def _onnx_snippet(agent: "Agent", name: str) -> str:
    return f"""import numpy as np
import onnxruntime

actor = onnxruntime.InferenceSession({name})
observation = np.zeros((1, {agent.env.observation_size}), np.float32)  # the state, then the goal
action, mean, log_std = actor.run(None, {{"observation": observation}})"""


def _limits(scores: Mapping[int, Scores]) -> str:
    seeds = {0: "Nothing is known of its scores.", 1: "Scores are of one seed; others may differ much."}
    return "\n".join(
        [
            "## Limits",
            "",
            "- It was trained only in the simulated environment above, with its starts and goals. It was never tested "
            "on hardware.",
            "- It may silently miss goals outside its training range.",
            f"- {seeds.get(len(scores), 'Seeds differ: the table shows by how much.')}",
            "- Its action is the policy's mean; in training actions were drawn around it.",
        ]
    )


def _yaml(text: object) -> str:
    return json.dumps(printable(text))


def _code(value: object) -> str:
    """A value as inline code in a cell of a table, where nothing in it is Markdown or HTML."""
    text = printable(str(value).lower() if isinstance(value, bool) else value).replace("`", "'").replace("|", "\\|")
    return f"`{text}`" if text.strip() else ""


def _text(value: object) -> str:
    """A value as text, with what is special in Markdown and HTML escaped."""
    escaped = printable(value).replace("&", "&amp;").replace("<", "&lt;")
    return "".join("\\" + letter if letter in "\\`*_[]|#!" else letter for letter in escaped)


__all__ = ["NAME", "path_beside", "seeds_scores", "write"]
