"""Pictures of environments at the start of an episode."""

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
    """Render an environment's first state.

    Args:
      id: environment id.
      size: width and height in pixels.
      seed: of the reset.

    Returns:
      The picture [height, width, 3], uint8, and the renderer's name.
    """
    env = envs.make(id)
    state = jax.jit(env.reset)(jax.random.key(seed))
    pose, goal = np.asarray(env.pose(state)), np.asarray(state.obs[env.state_dim :])
    renderer = open_renderer(env.model, *size, fine=True)
    try:
        return renderer.render(pose, overview(env, pose, goal, size[0] / size[1])), renderer.name
    finally:
        renderer.close()


def draw(ids: Sequence[str], path: Path, size: tuple[int, int] = (480, 360), seed: int = 0) -> str:
    """Write a picture of one environment, or a labeled grid of several.

    Args:
      ids: environment ids.
      path: the file; its ending gives the format.
      size: width and height of each picture in pixels.
      seed: of the resets.

    Returns:
      The renderer's name.

    Raises:
      WriteError: the file cannot be written.
    """
    tiles, renderer = [], ""
    for id in ids:
        tile, renderer = picture(id, size, seed)
        tiles.append(_labeled(tile, id) if len(ids) > 1 else tile)
    blank = np.full_like(tiles[0], 255)
    columns = min(_COLUMNS, len(tiles))
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[k : k + columns], axis=1) for k in range(0, len(tiles), columns)]
    atomic_files.write(path, imageio.imwrite("<bytes>", np.concatenate(rows), extension=path.suffix))
    return renderer


def _labeled(tile: np.ndarray, name: str) -> np.ndarray:
    """A picture [height, width, 3] with its name in a strip above."""
    points = round(tile.shape[1] / 20)
    strip = Image.new("RGB", (tile.shape[1], 2 * points), "white")
    place = (tile.shape[1] / 2, points)
    ImageDraw.Draw(strip).text(place, name, fill="black", font=ImageFont.load_default(size=points), anchor="mm")
    return np.concatenate([np.asarray(strip), tile])
