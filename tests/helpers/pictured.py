"""Small Datasets of invented numbers for each analysis, and where the texts of an svg lie."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from xml.etree import ElementTree

import numpy as np
import xarray as xr
from PIL import ImageFont

from analyses import embed, norms
from analyses.calibrate import calibration
from analyses.common import ground
from crlviz.envs import mazes
from tests.helpers.toys import planted_runs

MAZE = mazes.get("u_maze", cell_size=1.0)
LONG = "critic.start quiet_from_a_long_list_of_settings"
_SHEAR = re.compile(r"(translate|rotate|scale)\(([^)]*)\)")
_LINE = 1.2  # height of a line of text against its font
_ABOVE, _BELOW = 0.73, 0.02  # of a font's size: how far capitals reach above the line, and how much of them below


def factors(count: int, long: bool = False, seeds: int = 1) -> tuple[dict[str, Any], dict[str, str], tuple[int, ...]]:
    """Coordinates, attributes and shape of checkpoints: depths 4, 8, ... or as many settings with long names."""
    depths = [4 * 2 ** (k % 9) for k in range(count)]
    coords: dict[str, Any] = {"depth": ("checkpoint", depths)}
    differing = ["depth"]
    if long or count > 9:
        name = LONG.split()[0] if long else "width"
        values = [f"{LONG.split()[1]}_{k}" if long else 32 * (1 + k // 9) for k in range(count)]
        coords[name] = ("checkpoint", values)
        differing.append(name)
    if seeds > 1:
        coords = {name: ("checkpoint", np.repeat(values, seeds)) for name, (_, values) in coords.items()}
        coords["seed"] = ("checkpoint", np.tile(np.arange(seeds), count))
        differing.append("seed")
    attrs = {"env": "point_u_maze", "differing": "\n".join(differing), "checkpoints": ""}
    return coords, attrs, (count * seeds,)


def _dataset(variables: dict[str, Any], kind: tuple[dict[str, Any], dict[str, str], tuple[int, ...]], **attrs: Any):
    coords, own, _ = kind
    dims = {"units": "1", "long_name": "planted"}
    return xr.Dataset({name: (*value, dims) for name, value in variables.items()}, coords, own | attrs)


def evaluated(*kind: Any) -> xr.Dataset:
    """As ``evaluation.compute`` gives it, of 21 episodes to three goals."""
    kind_ = factors(*kind)
    (count,) = kind_[2]
    rng = np.random.default_rng(0)
    goals = np.tile(MAZE.xy(MAZE.goals)[np.arange(21) % 3], (count, 1, 1))
    each = ("checkpoint", "episode")
    success = rng.random((count, 21)) < np.linspace(0.2, 0.9, count)[:, None]
    return _dataset(
        {
            "success": (each, success),
            "time_at_goal": (each, 10.0 * success),
            "steps_to_goal": (each, np.where(success, 5.0, np.nan)),
            "start": ((*each, "axis"), np.broadcast_to(MAZE.xy(MAZE.starts[0]), goals.shape)),
            "goal": ((*each, "axis"), goals),
        },
        kind_,
    )


def mapped(*kind: Any) -> xr.Dataset:
    """As ``q_map.compute`` gives it, for one goal, with coverage."""
    kind_ = factors(*kind)
    (count,) = kind_[2]
    x, y, free = MAZE.grid(4)
    goal = MAZE.xy(MAZE.goals[-1])
    points = np.stack(np.meshgrid(x, y, indexing="ij"), -1)
    straight = np.where(free, np.linalg.norm(points - goal, axis=-1), np.nan)
    geodesic = np.where(free, MAZE.geodesics(points, goal[None])[0], np.nan)
    share = np.linspace(0, 1, count)[:, None, None, None]
    correlation = np.tile([0.7, 0.5], (count, 1, 1))
    visits = np.where(free & (geodesic < 4), 3, 0)
    dataset = _dataset(
        {
            "q": (("checkpoint", "goal", "x", "y"), -(share * geodesic + (1 - share) * straight)),
            "geodesic": (("goal", "x", "y"), geodesic[None]),
            "straight": (("goal", "x", "y"), straight[None]),
            "rank_correlation": (("checkpoint", "goal", "distance_kind"), correlation),
            "partial_correlation": (("checkpoint", "goal", "distance_kind"), correlation / 2),
            "distance_correlation": (("goal",), np.array([0.9])),
            "visits": (("checkpoint", "x", "y"), np.tile(visits, (count, 1, 1))),
        },
        kind_,
        over="positions",
        action="policy",
        spacing=float(x[1] - x[0]),
        **ground.attrs(MAZE),
    )
    places = {"goal_x": ("goal", goal[:1]), "goal_y": ("goal", goal[1:])}
    return dataset.assign_coords(x=x, y=y, distance_kind=["geodesic", "straight"], **places)


def stitched(*kind: Any) -> xr.Dataset:
    """As ``stitch.compute`` gives it: training drew pairs at most two cells apart, and farther ones succeed less."""
    kind_ = factors(*kind)
    (count,) = kind_[2]
    cells = np.array(MAZE.free)
    places, steps = MAZE.xy(cells), MAZE.steps(cells)
    reached = np.where(steps > 0, (steps <= 2 + 3 * np.linspace(0, 1, count)[:, None, None]) * 1.0, np.nan)
    pair = ("start", "goal")
    dataset = _dataset(
        {
            "success": (("checkpoint", *pair), reached),
            "time_at_goal": (("checkpoint", *pair), 20 * reached),
            "seen": (("checkpoint", *pair), np.tile((steps > 0) & (steps <= 2), (count, 1, 1))),
            "distance": (pair, steps * MAZE.cell_size),
            "cells": (pair, steps.astype(int)),
        },
        kind_,
        episodes=1,
        free_cells=len(cells),
        **ground.attrs(MAZE),
    )
    return dataset.assign_coords(
        {f"{side}_{axis}": (side, places[:, k]) for side in pair for k, axis in enumerate("xy")}
    )


def embedded(*kind: Any) -> xr.Dataset:
    """As ``embed.compute`` gives it: 12 steps on an arc."""
    kind_ = factors(*kind)
    (count,) = kind_[2]
    angle = np.linspace(0, 2, 12)
    arc = np.stack([4 * np.cos(angle), np.sin(angle)], axis=-1) * np.linspace(1, 2, count)[:, None, None]
    return _dataset(
        {
            "phi": (("checkpoint", "time", "component"), arc),
            "psi": (("checkpoint", "component"), arc[:, -1] + 0.2),
            "explained": (("checkpoint", "component"), np.tile([0.8, 0.15], (count, 1))),
            "distance": (("checkpoint", "time"), np.tile(np.linspace(6, 0, 12), (count, 1))),
            "reached": (("checkpoint",), np.ones(count)),
            **{name: (("checkpoint",), np.linspace(0.5, 1.5, count)) for name in embed.NUMBERS},
        },
        kind_,
        trajectory="shared",
    )


def normed(*kind: Any) -> xr.Dataset:
    """As ``norms.compute`` gives it: as many blocks as the depths have, the later adding less."""
    kind_ = factors(*kind)
    (count,) = kind_[2]
    blocks = np.array(kind_[0]["depth"][1]) // 4
    block = np.arange(1, max(blocks) + 1)
    norm = np.where(block <= blocks[:, None], 5 / (1 + 0.02 * block), np.nan)
    outputs = {name: (("checkpoint",), np.linspace(1, 3, count) * (k - 0.5)) for k, name in enumerate(norms.OUTPUTS)}
    dataset = _dataset(
        {"norm": (("checkpoint", "part", "block"), np.stack([norm, 0.8 * norm, 1.1 * norm], axis=1)), **outputs},
        kind_,
        episodes=32,
        start=0,
    )
    return dataset.assign_coords(part=list(norms.NETWORKS), block=block)


def calibrated(*kind: Any) -> xr.Dataset:
    """As ``calibration.compute`` gives it: distances that are time near the goal, and less of it far away."""
    kind_ = factors(*kind)
    (count,) = kind_[2]
    edges = calibration.step_edges(100)[:-1]
    slope = np.linspace(0.2, 1, count)[:, None]
    spread = np.array([0.8, 1.0, 1.2])
    steps = np.minimum(edges, 24) + slope * np.maximum(edges - 24, 0)
    both = np.stack([steps, steps + 3], axis=1)[..., None] * spread
    meters = np.linspace(0.5, 7.5, 8)
    path = np.tanh(meters / 4) * 60 * slope
    numbers = {name: (("checkpoint",), np.linspace(0.3, 0.9, count)) for name in calibration.NUMBERS}
    each = ("checkpoint", "goals", "bin")
    dataset = _dataset(
        {
            "needed_steps": (each, np.tile(edges.astype(float), (count, 2, 1))),
            "learned_steps": ((*each, "quantile"), both),
            "learned_distance": ((*each, "quantile"), both / 100),
            "geodesic_steps": (("checkpoint", "meters", "quantile"), path[..., None] * spread),
            "geodesic_distance": (("checkpoint", "meters", "quantile"), path[..., None] * spread / 100),
            **numbers,
        },
        kind_,
        episodes=64,
    )
    return dataset.assign_coords(bin=edges, goals=["achieved", "commanded"], quantile=[0.25, 0.5, 0.75], meters=meters)


def swept(count: int, long: bool = False, seeds: int = 1) -> xr.Dataset:
    """As ``runs.compute`` gives it: runs of many depths and widths, in two tasks with long names or in one."""
    tasks = ["point_big_maze_with_a_name_that_is_long", "humanoid_u4_maze_and_another"] if long else ["point_u_maze"]
    shapes = [(4 * 2**k, 64) for k in range((count + 1) // 2)] + [(4, 64 * 2 ** (k + 1)) for k in range(count // 2)]
    rows = [
        {"env": task, "depth": depth, "width": width, "seed": seed, "seconds": 5.0 + 0.01 * depth * width}
        | {"curve": np.linspace(0, 1, 11) * (0.2 + 0.6 * k / count + 0.05 * seed), "trained": 1_200_000}
        for task in tasks
        for k, (depth, width) in enumerate(shapes[:count])
        for seed in range(seeds)
    ]
    dataset = planted_runs(*rows)
    labels = [f"depth {d}, width {w}" for d, w in zip(dataset.depth.values, dataset.width.values, strict=True)]
    return dataset.assign_coords(group=("run", labels))


def profiled(count: int, long: bool = False, seeds: int = 1) -> dict[int, dict[str, np.ndarray]]:
    """As ``profiles.scores_by_depth`` gives it: two tasks, five seeds each."""
    rng = np.random.default_rng(0)
    return {4 * 2**k: {task: rng.beta(1 + k, 4, 5) for task in ("here", "there")} for k in range(count)}


@dataclass(frozen=True)
class Text:
    """A line of text in an svg, and its box in pixels."""

    words: str
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Text", slack: float = 1.0) -> bool:
        """Whether the boxes share more than ``slack`` pixels in both directions."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return across > slack and down > slack


def texts(svg: str) -> tuple[list[Text], tuple[float, float]]:
    """All lines of text of an svg that vl-convert wrote, and the size of its canvas in pixels."""
    root = ElementTree.fromstring(svg)
    return list(_texts(root, np.eye(3))), (float(root.get("width", 0)), float(root.get("height", 0)))


def _texts(node: ElementTree.Element, above: np.ndarray) -> Iterator[Text]:
    here = above
    for kind, numbers in _SHEAR.findall(node.get("transform", "")):
        here = here @ _matrix(kind, [float(number) for number in re.split(r"[ ,]+", numbers.strip())])
    if node.tag.endswith("text") and node.get("opacity") != "0":
        spans = [child for child in node if child.tag.endswith("tspan")]
        lines = [span.text or "" for span in spans] if spans else ["".join(node.itertext())]
        size, bold = float(node.get("font-size", "11px").removesuffix("px")), node.get("font-weight") == "bold"
        down = 0.0
        for index, words in enumerate(lines):
            if index:
                down += float(spans[index].get("dy", 0))
            if words.strip():
                yield _box(words, size, bold, node.get("text-anchor", "start"), down, here)
        return
    for child in node:
        yield from _texts(child, here)


def _box(words: str, size: float, bold: bool, anchor: str, down: float, here: np.ndarray) -> Text:
    width = _font(bold).getlength(words) * size / 100
    left = {"start": 0.0, "middle": -width / 2, "end": -width}[anchor]
    across, along = (left, left + width), (down - _ABOVE * size, down + _BELOW * size)
    points = np.array([here @ (x, y, 1) for x in across for y in along])
    return Text(words, *points[:, :2].min(0).tolist(), *points[:, :2].max(0).tolist())


@cache
def _font(bold: bool) -> ImageFont.FreeTypeFont:
    """The font that charts ask for first, at 100 pixels. Raises OSError where it is not installed."""
    return ImageFont.truetype("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf", 100)


def _matrix(kind: str, numbers: Sequence[float]) -> np.ndarray:
    if kind == "rotate":
        angle = np.radians(numbers[0])
        cos, sin = np.cos(angle), np.sin(angle)
        return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    x, y = numbers[0], numbers[1] if len(numbers) > 1 else (0 if kind == "translate" else numbers[0])
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]] if kind == "translate" else [[x, 0, 0], [0, y, 0], [0, 0, 1]])
