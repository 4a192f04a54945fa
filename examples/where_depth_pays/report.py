"""Write the tables and the picture of the search for a world in which depth pays, from the results kept here.

    python examples/where_depth_pays/report.py

The protocol and the runs are in ``examples/where_depth_pays.py``. With a row for each evaluation, ``screen.csv`` holds
the candidates, ``confirm.csv`` the confirming runs, ``later.csv`` the worlds that were tried after them and
``starts.csv`` other starts of the networks. ``first_updates.csv``, written by ``first_updates.py``, has a row for each
of the first updates from each start. The picture and the part of the page between its two markers are made of them.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import altair as alt
import pandas as pd

from crlviz import charts
from crlviz.checkpoints import atomic_files
from crlviz.statistics import Comparison, compare

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "explanation" / "where-depth-pays.md"
BEGIN, END = "<!-- results -->\n", "<!-- end of results -->\n"
LAST = 5  # evaluations whose mean success is a run's score
DEEP, SHALLOW, START = 16, 4, "quiet"  # what is compared
SIDE_BY_SIDE = ("swimmer_u_maze",)  # of the worlds in later.csv
_AGAIN = """\
python examples/where_depth_pays.py starts --jobs 1 --seconds 3600 --out runs/starts
python examples/where_depth_pays/first_updates.py --out runs/first_updates.csv"""
_FIRST = ("losses", "entropy")  # of the first updates
FILES = ("confirm.csv", "screen.csv", "later.csv", "starts.csv", "first_updates.csv")  # the arguments of ``results``
ARM = ["world", "depth", "width", "start"]  # what the runs of an arm have in common


def score(run: pd.DataFrame) -> float:
    """Mean success of the last five evaluations of a run."""
    return float(run.success.tail(LAST).mean())


def within(runs: pd.DataFrame, env_steps: float = math.inf, seconds: float = math.inf) -> list[pd.DataFrame]:
    """The evaluations within a budget of each run that used all of it or all its own steps, one table a seed."""
    return [
        run[(run.env_steps <= env_steps) & (run.train_seconds <= seconds)]
        for _, run in runs.groupby("seed")
        if run.complete.all() or run.env_steps.max() >= env_steps or run.train_seconds.max() >= seconds
    ]


def scores(runs: list[pd.DataFrame]) -> list[float]:
    """``score`` of each run."""
    return [score(run) for run in runs]


def arms(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The arms of a table of runs, by name: deep ones first, then by width."""
    for (world, depth, width, start), arm in sorted(runs.groupby(ARM), key=lambda a: (a[0][0], -a[0][1], a[0][2])):
        yield f"{world}, depth {depth}, width {width}, start {start}", arm


def controls(runs: pd.DataFrame) -> tuple[list[pd.DataFrame], dict[str, list[pd.DataFrame]]]:
    """Runs of depth 16 in a world, and those of depth 4 within the budget of each comparison of the protocol.

    A comparison whose runs of depth 4 are no longer than those of depth 16 has none.
    """
    runs = runs[runs.start == START]
    deep, shallow = runs[runs.depth == DEEP], runs[runs.depth == SHALLOW]
    width, budget = int(deep.width.iloc[0]), int(deep.env_steps.max())
    seconds = float(deep[(deep.complete == 1) & (deep.env_steps == budget)].train_seconds.mean())
    narrow, wide = shallow[shallow.width == width], shallow[shallow.width > width]
    longer = [arm if arm.env_steps.max() > budget else arm[:0] for arm in (narrow, wide)]
    return within(deep), {
        "as many updates": within(narrow, budget),
        "as many parameters": within(wide, budget),
        "as many seconds": within(longer[0], seconds=seconds),
        "as many parameters and seconds": within(longer[1], seconds=seconds),
    }


def comparisons(runs: pd.DataFrame) -> dict[str, tuple[list[float], list[float], Comparison]]:
    """Scores of depth 16 and of depth 4 in each comparison of the protocol, and the verdict."""
    deep, groups = controls(runs)
    own, others = scores(deep), {name: scores(shallow) for name, shallow in groups.items()}
    return {name: (own, other, compare(own, other, len(groups), largest=1)) for name, other in others.items()}


def verdicts(runs: pd.DataFrame) -> str:
    """A row for each comparison: scores of the seeds, and what may be said."""
    lines = ["| depth 4 has | depth 16, each seed | depth 4, each seed | verdict |", "| --- | --- | --- | --- |"]
    for name, (deep, shallow, verdict) in comparisons(runs).items():
        words = verdict.words("depth 16 is better", "depth 4 is better")
        lines.append(f"| {name} | {_numbers(deep)} | {_numbers(shallow)} | {words} |")
    return "\n".join(lines)


def budgets(runs: pd.DataFrame) -> str:
    """A row for depth 16 and for depth 4 in each comparison: scores and the mean cost of the runs within the budget."""
    heads = ("network", "goals reached", "lowest to highest seed", "seeds", "parameters", "updates", "seconds")
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    deep, groups = controls(runs)
    for name, arm in {"": deep, **groups}.items():
        found, last = scores(arm), pd.concat([run.tail(1) for run in arm])
        depth, width, parameters = (int(last[column].iloc[0]) for column in ("depth", "width", "parameters"))
        cells = [f"depth {depth}, width {width}{name and ': '}{name}", f"{sum(found) / len(found):.2f}"]
        cells += [f"{min(found):.2f} to {max(found):.2f}", str(len(found)), f"{parameters:,}"]
        cells += [f"{last.gradient_steps.mean():,.0f}", f"{last.train_seconds.mean():.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table(runs: pd.DataFrame) -> str:
    """A row for each arm: its settings, its cost and the score of each seed; those cut short in parentheses."""
    heads = ["environment", "depth", "width", "start", "parameters", "million steps", "updates", "seconds"]
    lines = [f"| {' | '.join([*heads, 'success, each seed', 'mean'])} |", "|" + " --- |" * (len(heads) + 2)]
    for _, arm in arms(runs):
        last = arm.groupby("seed").last()
        of_seed = {seed: score(run) for seed, run in arm.groupby("seed")}
        texts = [f"{of_seed[seed]:.2f}" if row.complete else f"({of_seed[seed]:.2f})" for seed, row in last.iterrows()]
        whole = [of_seed[seed] for seed, row in last.iterrows() if row.complete]
        mean = f"{sum(whole) / len(whole):.2f}" if whole else ""
        world, depth, width, start, parameters = (last[name].iloc[0] for name in [*ARM, "parameters"])
        cost = [
            f"{last.env_steps.max() / 1e6:.1f}",
            f"{last.gradient_steps.max():,}",
            f"{last.train_seconds.mean():.0f}",
        ]
        cells = [world, str(depth), str(width), start, f"{parameters:,}", *cost, " ".join(texts), mean]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def worlds(runs: pd.DataFrame) -> str:
    """A row for each environment that was tried later: scores of depth 16, and of depth 4 in each comparison.

    Seconds are compared only in the environments whose runs trained side by side.
    """
    heads = ["environment", "depth 16"]
    lines = []
    for world, own in runs.groupby("world", sort=False):
        deep, groups = controls(own)
        heads[2:] = groups
        shown = [[] if "seconds" in name and world not in SIDE_BY_SIDE else found for name, found in groups.items()]
        lines.append(f"| {world} | {' | '.join(_numbers(scores(found)) for found in (deep, *shown))} |")
    heads[2] = f"depth 4: {heads[2]}"
    return "\n".join([f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads), *lines])


def starts(runs: pd.DataFrame, updates: pd.DataFrame) -> str:
    """A row for each start of the networks: what the first updates do, and what depth 16 reaches in the open plane."""
    runs = runs[(runs.world == "swimmer") & (runs.depth == DEEP) & (runs.width == 32)]
    heads = ["start", *(f"depth {depth:,}, {words}" for depth in sorted(updates.depth.unique()) for words in _FIRST)]
    lines = [f"| {' | '.join(heads)} | success, each seed |", "|" + " --- |" * (len(heads) + 1)]
    for start, own in updates.groupby("start", sort=False):
        cells = [f"`{start}`"]
        for _, first in own.sort_values("update").groupby("depth"):
            cells += [
                f"{first.actor_loss.iloc[0]:.1f}, {first.critic_loss.iloc[0]:,.1f}",
                " ".join(f"{entropy:.1f}" for entropy in first.entropy.iloc[:4]),
            ]
        trained = [score(run) for _, run in runs[runs.start == start].groupby("seed")]
        lines.append(f"| {' | '.join(cells)} | {_numbers(trained)} |")
    return "\n".join(lines)


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def _begun(start: str) -> str:
    """What the name of an arm says of its start."""
    return "" if start == START else f", {start} start"


@charts.self_contained
def plot(runs: pd.DataFrame, title: str) -> alt.TopLevelMixin:
    """Draw success over updates and over seconds: a thin line for each seed, a thick one for their mean."""
    runs = runs[runs.complete == 1].copy()
    runs["arm"] = [f"depth {run.depth}, width {run.width}{_begun(run.start)}" for run in runs.itertuples()]
    runs["run"] = runs.arm + runs.seed.astype(str)
    runs["thousand_updates"] = runs.gradient_steps / 1000
    named = runs.drop_duplicates("arm").sort_values(["depth", "start", "width"], ascending=[False, False, True])
    order, narrow = named.arm.tolist(), named.width.min()
    dashes = [
        [2, 2] if run.start != START else [7, 3] if run.width > narrow else charts.SOLID for run in named.itertuples()
    ]
    color = alt.Scale(domain=order, range=[charts.depth_color(depth) for depth in named.depth])
    dash = alt.Scale(domain=order, range=dashes)
    legend = alt.Legend(title=None, orient="right", symbolStrokeWidth=2.5, symbolOpacity=1)
    means = runs.groupby(["arm", "gradient_steps"], as_index=False)[
        ["success", "train_seconds", "thousand_updates"]
    ].mean()
    panels = []
    for field, words in (
        ("thousand_updates", "thousand updates"),
        ("train_seconds", "seconds of training on one core"),
    ):
        layers = [
            alt.Chart(data[["arm", field, "success", *detail]])
            .mark_line(strokeWidth=width, opacity=opacity, clip=True)
            .encode(
                x=alt.X(f"{field}:Q", title=words, axis=alt.Axis(grid=False, tickCount=6)),
                y=alt.Y("success:Q", title="share of goals reached", scale=alt.Scale(domain=[0, 1])),
                color=alt.Color("arm:N", sort=order, scale=color, legend=legend),
                strokeDash=alt.StrokeDash("arm:N", sort=order, scale=dash, legend=legend),
                **({"detail": "run:N"} if detail else {}),
            )
            for data, width, opacity, detail in ((runs, 0.8, 0.35, ["run"]), (means, 3, 1, []))
        ]
        panels.append(charts.layers(*layers).properties(width=380, height=260))
    counts = runs.groupby("arm").seed.nunique()
    seeds = str(counts.min()) if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    note = f"A thin line a seed, a thick one the mean of {seeds} seeds."
    return alt.hconcat(*panels, spacing=30).properties(title=alt.TitleParams(title, subtitle=note))


def headline(runs: pd.DataFrame) -> str:
    """The comparisons that depth 16 wins, as a title."""
    won = [name for name, (_, _, verdict) in comparisons(runs).items() if verdict.verdict > 0]
    if not won:
        return "No difference was found between depth 16 and depth 4"
    return f"Depth 16 reaches more goals than depth 4 after {' and after '.join(won)}"


def results(
    confirm: pd.DataFrame, screen: pd.DataFrame, later: pd.DataFrame, other_starts: pd.DataFrame, updates: pd.DataFrame
) -> str:
    """The part of the page that is made of the runs."""
    parts = [
        f"**{headline(confirm)}.**",
        f"![Success over updates and over seconds]({PAGE.stem}.png)",
        verdicts(confirm),
        "Within these budgets, means over the seeds. Updates and seconds are those at the last evaluation within the "
        "budget.",
        budgets(confirm),
        "## The confirming runs",
        "With the score at the end of each run; in parentheses: runs cut short when the batch ended.",
        table(confirm),
        "## The candidates",
        "One to three seeds each, which claim nothing.",
        table(screen),
        "## Environments that were tried later",
        "One seed each, which claim nothing.",
        worlds(later),
        "Their runs, with the score at the end of each. They trained two at a time while the machine did other work. "
        "So their seconds compare only in the U maze, where depth 16 and depth 4 at width 64 ran side by side.",
        table(later),
        "## Other starts",
        "Losses of actor and critic at the first update of one fresh network of width 64 for the swimmer, on normal "
        "inputs, and the policy's entropy in nats before updates 1 to 4; then the score of depth 16, width 32 in the "
        "open plane. "
        "Each start is a value of `actor.start` and `critic.start`. The first of these commands trains the starts that "
        "were not candidates, the second makes the first updates:",
        f"```\n{_AGAIN}\n```",
        starts(pd.concat([screen, other_starts]), updates),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    tables = [pd.read_csv(HERE / name) for name in FILES]
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    page = f"{before}{BEGIN}\n{results(*tables)}\n{END}{rest.split(END)[1]}"
    atomic_files.write(PAGE, page.encode())
    charts.save(plot(tables[0], headline(tables[0])), PAGE.with_suffix(".png"))


if __name__ == "__main__":
    main()
