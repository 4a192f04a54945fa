"""A picture of an environment as an episode begins."""

from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as imageio
import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from crlviz import envs
from crlviz.checkpoints import atomic_files
from crlviz.rendering.cameras import overview
from crlviz.rendering.renderers import open_renderer

_COLUMNS = 4


def picture(id: str, size: tuple[int, int] = (480, 360), seed: int = 0) -> tuple[np.ndarray, str]:
    """The first state of an environment [height, width, 3], uint8, and what drew it, in words."""
    env = envs.make(id)
    state = jax.jit(env.reset)(jax.random.key(seed))
    pose, goal = np.asarray(env.pose(state)), np.asarray(state.obs[env.state_dim :])
    renderer = open_renderer(env.model, *size, fine=True)
    try:
        return renderer.render(pose, overview(env, pose, goal, size[0] / size[1])), renderer.name
    finally:
        renderer.close()


def draw(ids: Sequence[str], path: Path, size: tuple[int, int] = (480, 360), seed: int = 0) -> str:
    """Write one picture, or several as a grid with their names; returns what drew them, in words."""
    tiles, how = [], ""
    for id in ids:
        tile, how = picture(id, size, seed)
        tiles.append(_named(tile, id) if len(ids) > 1 else tile)
    blank = np.full_like(tiles[0], 255)
    columns = min(_COLUMNS, len(tiles))
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[k : k + columns], axis=1) for k in range(0, len(tiles), columns)]
    atomic_files.write(path, imageio.imwrite("<bytes>", np.concatenate(rows), extension=path.suffix))
    return how


def _named(tile: np.ndarray, name: str) -> np.ndarray:
    points = round(tile.shape[1] / 20)
    strip = Image.new("RGB", (tile.shape[1], 2 * points), "white")
    place = (tile.shape[1] / 2, points)
    ImageDraw.Draw(strip).text(place, name, fill="black", font=ImageFont.load_default(size=points), anchor="mm")
    return np.concatenate([np.asarray(strip), tile])
