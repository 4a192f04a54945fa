"""What did students of ``crlviz distill`` keep of their teachers? Success, behaviors, Q, and what they cost."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
import click
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

from analyses.behavior.descriptors import describe
from analyses.behavior.naming import NAMES, ORDER, behavior, with_current_names
from analyses.common import outputs
from analyses.heatmap import heatmap_pictures, q_map
from crlviz import charts, datasets, jax_config, statistics
from crlviz.algorithms.base import HasQ
from crlviz.errors import CrlvizError, UsageError
from crlviz.networks import flops
from crlviz.networks.residual import parameter_count
from crlviz.options import check_count
from crlviz.rollouts import rollout

if TYPE_CHECKING:
    from crlviz.agent import Agent

ENOUGH = 0.9  # share of the teacher's success that a student should keep
_BATCH = 256  # observations that the speed is measured with
_REPEATS = 200
_SIZE = 230  # pixels of a panel
HOW_TO_READ = (
    "A small mark is a seed, a large one their mean; 16 x 32 is depth 16, width 32. A student has the seed of its "
    "teacher, and all have the same episodes. The line is 90 % of the teachers' mean success. Bars of behaviors are "
    "shares of episodes. FLOPs and speed are the actor's; speed is that of this machine's CPU, with "
    f"{_BATCH} observations at once."
)
# What is measured, by variable: its long name and its unit.
MEASURES = {
    "success": ("share of episodes that reach their goal", "1"),
    "time_at_goal": ("time at goal, mean over episodes", "steps"),
    "parameters": ("parameters of all networks", "1"),
    "flops": ("FLOPs of an action, matrix products", "1"),
    "actions_per_second": (f"actions a second on a CPU, {_BATCH} at once", "1/s"),
    "network_depth": ("depth of the actor", "1"),
    "network_width": ("width of the actor", "1"),
}


@jax_config.with_fixed_settings
def compute(students: Sequence["Agent"], *, episodes: int = 128, seed: int = 0) -> xr.Dataset:
    """Run new episodes of students and of their teachers, from the same starts and goals, and measure their cost.

    Args:
      students: of ``crlviz distill``, in one environment; their teachers must not have been moved.
      episodes: number of episodes of each agent.
      seed: of starts and goals.

    Returns:
      Dataset over the factors in which the agents differ: ``MEASURES``, and the ``share`` of episodes of each
        ``behavior``. ``teacher`` is the path of a student's teacher, empty for a teacher; ``source`` is the agent's own
        path. In a maze the Dataset also has the variables of ``q_map.compute`` for one goal.

    Raises:
      UsageError: no episodes, an agent that is not a student, or students of several environments.
      CrlvizError: a teacher cannot be read.
    """
    check_count(episodes, "episodes")
    agents = [*_teachers(students).values(), *students]
    if len({agent.env.id for agent in agents}) > 1:
        raise UsageError("these students act in several environments; compare those of one")
    parts = [_compute_one(agent, episodes, seed) for agent in agents]
    attrs = {"env": datasets.env_names(agents), "episodes": episodes, "seed": seed, charts.HELP: HOW_TO_READ}
    dataset = datasets.combine(agents, parts, xr.Dataset(attrs=attrs))
    if agents[0].env.maze is None or not all(isinstance(agent.algorithm, HasQ) for agent in agents):
        return dataset
    maps = q_map.compute(agents, q_map.default_goals(agents[0])[:1])
    merged = dataset.merge(maps, compat="override", join="exact", combine_attrs="override")
    return merged.assign_attrs(maps.attrs | dataset.attrs)


def _teachers(students: Sequence["Agent"]) -> dict[str, "Agent"]:
    """The teachers of students, by the paths that these name."""
    from crlviz.agent import load

    found: dict[str, Agent] = {}
    for student in students:
        path = _teacher(student)
        if not path:
            raise UsageError(f"{student.source} is not a student of crlviz distill")
        if path not in found:
            try:
                found[path] = load(path)
            except CrlvizError as error:
                raise CrlvizError(f"the teacher of {student.source} cannot be read: {error}") from None
    return found


def _teacher(agent: "Agent") -> str:
    """The path of an agent's teacher; empty if it has none."""
    return str(agent.config.get("teacher", {}).get("path", ""))


def _compute_one(agent: "Agent", episodes: int, seed: int) -> xr.Dataset:
    runs = rollout(agent, episodes, seed=seed, env=agent.eval_env)
    described = describe(agent.eval_env, runs)
    names = [behavior({str(k): float(v[i]) for k, v in described.items()}) for i in range(episodes)]
    at_goal = (runs.success.values > 0) & runs.alive.values
    shape = agent.shapes["actor"]
    values = (
        float(at_goal.any(1).mean()),
        float(at_goal.sum(1).mean()),
        parameter_count(agent.params),
        _flops(agent),
        _speed(agent),
        shape.depth,
        shape.width,
    )
    told = {name: {"long_name": long_name, "units": units} for name, (long_name, units) in MEASURES.items()}
    measured: dict[str, Any] = {name: ((), value, told[name]) for name, value in zip(MEASURES, values, strict=True)}
    shares = [np.mean([name == known for name in names]) for known in NAMES]
    return xr.Dataset(
        measured
        | {
            "share": ("behavior", shares, {"long_name": "share of episodes", "units": "1"}),
            "teacher": ((), _teacher(agent), {"long_name": "path of the teacher", "units": "1"}),
        },
        coords={"behavior": NAMES, "source": str(agent.source)},
    )


def _flops(agent: "Agent") -> int:
    """FLOPs of the matrix products of one action."""
    observation = jax.ShapeDtypeStruct((1, agent.env.observation_size), jnp.float32)
    plain = agent.algorithm.plain
    return flops.count(lambda params, rows: plain.act(params, rows), agent.params, observation)


def _speed(agent: "Agent") -> float:
    """Deterministic actions a second on a CPU, of the fastest batch: other programs can only slow one down."""
    cpu = jax.devices("cpu")[0]
    params, rows = jax.device_put((agent.params, np.zeros((_BATCH, agent.env.observation_size), np.float32)), cpu)
    act = jax.jit(agent.algorithm.act)
    act(params, rows).block_until_ready()
    best = np.inf
    for _ in range(_REPEATS):
        start = time.perf_counter()
        act(params, rows).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return float(_BATCH / best)


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """A row for each agent: ``group`` (role, depth and width), ``role``, ``source``, ``teacher`` and ``MEASURES``."""
    rows = []
    for _, _, part in datasets.each(dataset):
        row = {name: part[name].item() for name in (*MEASURES, "teacher", "source")}
        role = "student" if row["teacher"] else "teacher"
        group = f"{role} {row['network_depth']:.0f} x {row['network_width']:.0f}"
        rows.append({"group": group, "role": role} | row)
    order = ["role", "network_depth", "network_width"]
    return pd.DataFrame(rows).sort_values(order, ascending=[False, True, False], kind="stable", ignore_index=True)


def kept(rows: pd.DataFrame) -> dict[str, tuple[float, statistics.Comparison]]:
    """For each group of students the share of the teachers' success, and success against ``ENOUGH`` of it.

    The comparison is of each student with its own teacher, and corrected for the number of groups.
    """
    students = rows[rows.role == "student"]
    own = rows[rows.role == "teacher"].set_index("source").success
    by_path = {path: score for source, score in own.items() for path in students.teacher if _same(source, path)}
    found = {}
    for group, part in students.groupby("group", sort=False):
        teachers = part.teacher.map(by_path)
        beyond = (part.success - ENOUGH * teachers).to_numpy()
        compared = statistics.compare(beyond, np.zeros(len(beyond)), students.group.nunique(), 1.0)
        found[str(group)] = (float(part.success.mean() / teachers.mean()) if teachers.mean() else np.nan, compared)
    return found


def _same(source: str, path: str) -> bool:
    """Whether the path of a checkpoint is at a path, which names it or its run."""
    return source == path or Path(source).is_relative_to(path)


def claim(dataset: xr.Dataset) -> str:
    """How much of their teachers' success the students keep, and whether it is at least ``ENOUGH``."""
    rows = table(dataset)
    teachers, sentences = rows[rows.role == "teacher"].success.mean(), []
    for group, (share, compared) in kept(rows).items():
        depth, width = group.removeprefix("student ").split(" x ")
        said = f"depth {depth}, width {width} keeps {share:.0%} of its teacher's success"
        if compared.seeds < statistics.FEWEST:
            sentences.append(said)
            continue
        low, high = (ENOUGH + bound / teachers for bound in (compared.low, compared.high))
        verdict = {1: f"at least {ENOUGH:.0%}", -1: f"less than {ENOUGH:.0%}", 0: f"{ENOUGH:.0%} is not decided"}
        sentences.append(f"{said} ({verdict[compared.verdict]}: 95 % interval {max(low, 0):.0%} to {high:.0%})")
    text = "; ".join(sentences).replace("%", " %").replace("  %", " %")
    return text[:1].upper() + text[1:]


@charts.self_contained
def plot(dataset: xr.Dataset) -> alt.TopLevelMixin:
    """Draw success, time at goal, behaviors and cost of teachers and students; in a maze also Q.

    Args:
      dataset: from ``compute``, or read back from netCDF.
    """
    dataset = with_current_names(dataset)
    rows = table(dataset)
    groups = list(dict.fromkeys(rows.group))
    means = rows.groupby("group", sort=False).mean(numeric_only=True)
    line = ENOUGH * rows[rows.role == "teacher"].success.mean()
    upper = charts.row(
        _scores(rows, "success", "goals reached (share)", groups, line),
        _scores(rows, "time_at_goal", "time at goal (steps)", groups),
        _behaviors(dataset, rows, groups),
    ).resolve_scale(color="independent")
    lower = charts.row(
        *(
            _costs(means, name, title, groups)
            for name, title in (
                ("parameters", "parameters"),
                ("flops", "FLOPs of an action"),
                ("actions_per_second", "actions a second"),
            )
        )
    )
    pictures = [upper, lower]
    if "q" in dataset:
        parts = {part.source.item(): part for _, _, part in datasets.each(dataset)}
        own = {group: [parts[source] for source in rows[rows.group == group].source] for group in groups}
        pictures.append(heatmap_pictures.maps(dataset, "own", _SIZE, False, own))
    picture = alt.vconcat(*pictures, spacing=34).resolve_scale(color="independent", shape="independent")
    counts = rows.groupby("group").size().tolist()
    return charts.claimed(picture, claim(dataset), f"{dataset.env}; {charts.seed_note(counts)}", HOW_TO_READ)


def _x(groups: Sequence[str]) -> alt.X:
    return alt.X("group:N", sort=list(groups), title=None, axis=alt.Axis(labelAngle=-30, grid=False))


def _color(groups: Sequence[str]) -> alt.Color:
    """Groups by their depth."""
    shades = [charts.depth_color(float(group.split()[1])) for group in groups]
    return alt.Color("group:N", scale=alt.Scale(domain=list(groups), range=shades), legend=None)


def _scores(rows: pd.DataFrame, name: str, title: str, groups: Sequence[str], line: float = 0.0) -> Any:
    """A score of each agent by group, with a line."""
    values = rows.groupby("group", sort=False)[name].apply(list)
    data = pd.DataFrame({"group": values.index, "values": values.values})
    data["value"] = data["values"].map(np.mean)
    top = 1.0 if name == "success" else max(1.0, 1.05 * rows[name].max())
    height = alt.Y("value:Q", title=title, scale=alt.Scale(domain=[0, top]))
    rule = alt.Chart(pd.DataFrame({"value": [line]})).mark_rule(strokeDash=[4, 3]).encode(y=height) if line else None
    marks = charts.seed_marks(data, height, tooltip=["group", "value"], x=_x(groups), color=_color(groups))
    return charts.layers(rule, *marks).properties(width=_SIZE, height=_SIZE)


def _behaviors(dataset: xr.Dataset, rows: pd.DataFrame, groups: Sequence[str]) -> Any:
    """The mean share of each behavior by group, as stacked bars."""
    group_of = dict(zip(rows.source, rows.group, strict=True))
    shares: list[dict[str, Any]] = [
        {"group": group_of[part.source.item()], "behavior": name, "share": part.share.sel(behavior=name).item()}
        for _, _, part in datasets.each(dataset)
        for name in NAMES
    ]
    data = pd.DataFrame(shares).groupby(["group", "behavior"], as_index=False).mean()
    data = data[data.share > 0]
    data["rank"] = data.behavior.map({rule.name: rank for rank, rule in enumerate(ORDER)})
    seen = [rule for rule in ORDER if rule.name in set(data.behavior)]
    scale = alt.Scale(domain=[rule.name for rule in seen], range=[rule.color for rule in seen])
    bars = alt.Chart(data).mark_bar(size=34)
    return bars.encode(
        x=_x(groups),
        y=alt.Y("share:Q", title="episodes (share)", scale=alt.Scale(domain=[0, 1])),
        color=alt.Color("behavior:N", scale=scale, legend=charts.legend(columns=1, orient="right")),
        order=alt.Order("rank:Q"),
        tooltip=["group", "behavior", alt.Tooltip("share:Q", format=".0%")],
    ).properties(width=_SIZE, height=_SIZE)


def _costs(means: pd.DataFrame, name: str, title: str, groups: Sequence[str]) -> Any:
    """A cost by group, as bars with numbers."""
    data = means[[name]].rename(columns={name: "value"}).reset_index()
    top = 1.12 * data.value.max()
    height = alt.Y("value:Q", title=title, axis=charts.number_axis(tickCount=4), scale=alt.Scale(domain=[0, top]))
    bars = alt.Chart(data).mark_bar(size=34).encode(x=_x(groups), y=height, color=_color(groups))
    words = alt.Chart(data).mark_text(dy=-7).encode(x=_x(groups), y=height, text=alt.Text("value:Q", format=".3~s"))
    return charts.layers(bars, words).properties(width=_SIZE, height=0.6 * _SIZE)


@click.command()
@outputs.checkpoints
@outputs.out("kept.html")
@click.option("--episodes", type=int, default=128, show_default=True, help="Episodes of each agent.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of starts and goals.")
def command(checkpoints: Sequence[Path], out: Sequence[Path], episodes: int, seed: int) -> None:
    """Show what students of crlviz distill kept of their teachers: success, behaviors, Q, and what they cost.

    Give several seeds of teachers and students for a claim. Teachers are read from the paths in the students' configs.

    \b
    Example: crlviz kept runs/students --out kept.html --out kept.nc
    """
    from crlviz.agent import load_all

    outputs.check(out)
    dataset = compute(load_all(checkpoints), episodes=episodes, seed=seed)
    rows = table(dataset)
    click.echo(rows[["group", *list(MEASURES)[:5]]].to_string(index=False, float_format="%.4g"))
    click.echo(claim(dataset))
    outputs.write(out, dataset, lambda: plot(dataset))


__all__ = ["MEASURES", "claim", "command", "compute", "kept", "plot", "table"]
