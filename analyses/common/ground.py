"""The maze of a Dataset: what a chart draws its walls from."""

from typing import Any

import xarray as xr

from crlviz.envs import mazes


def attrs(maze: mazes.Maze | None) -> dict[str, Any]:
    """Attributes of a Dataset from which ``maze_of`` rebuilds the maze."""
    if maze is None:
        return {}
    return {"maze": "\n".join(maze.rows), "cell_size": maze.cell_size, "origin": list(maze.origin)}


def maze_of(dataset: xr.Dataset) -> mazes.Maze | None:
    """The maze of a Dataset; None if its environment has none, or an older crlviz did not write it down."""
    if "maze" not in dataset.attrs:
        return None
    origin = (float(dataset.attrs["origin"][0]), float(dataset.attrs["origin"][1]))
    return mazes.Maze(tuple(dataset.attrs["maze"].split("\n")), float(dataset.attrs["cell_size"]), origin)
