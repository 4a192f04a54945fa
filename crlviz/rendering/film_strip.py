"""Film strips: a few frames of an episode side by side, at moments that tell how it went."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from crlviz import jax_config
from crlviz.checkpoints import atomic_files
from crlviz.errors import UsageError
from crlviz.rendering import video

ENDING = ".png"
_FRAMES = 4
_MOST_OF_IT = 0.95  # of a path


def moments(panels: Sequence[video.Panel], count: int = _FRAMES) -> list[float]:
    """The times in seconds of a strip's frames, the same for all panels: evenly from the start until all is told.

    All is told of a panel when it reaches its goal, shortly after it fell, or else when it has gone 95 % of its path.
    """
    return np.linspace(0, max(map(_told, panels)), count).tolist()


def _told(panel: video.Panel) -> float:
    """Seconds until all is told of a panel."""
    success, dt = panel.episode.success.values, panel.env.dt
    if success.any():
        # A pose is that before its step, so the first one at the goal is one later.
        return min(int(success.argmax()) + 1, len(success) - 1) * dt
    if panel.fell is not None:
        return panel.seconds
    moves = np.linalg.norm(np.diff(panel.episode.achieved.values, axis=0), axis=1).cumsum()
    return int(np.searchsorted(moves, _MOST_OF_IT * moves[-1])) * dt if len(moves) and moves[-1] else panel.seconds


@jax_config.with_fixed_settings
def stills(panels: Sequence[video.Panel], times: Sequence[float], size: tuple[int, int]) -> list[np.ndarray]:
    """Pictures [times, height, width, 3], uint8, of each panel at given times, without captions and maps."""
    with video.open_renderers(panels, size, fine=True) as renderers:
        return [
            np.stack([frame for _, frame in video.shots(panel, renderers[panel.env], size, times, math.inf)])
            for panel in panels
        ]


@jax_config.with_fixed_settings
def write(
    path: Path,
    panels: Sequence[video.Panel],
    *,
    size: tuple[int, int] = video.SIZE,
    camera: str = "follow",
    count: int = _FRAMES,
) -> str:
    """Write a strip of frames as a png: a row for each panel, the same ``moments`` in all.

    Args:
      path: the file; written atomically.
      panels: the episodes.
      size: width and height of a frame in pixels, without its caption.
      camera: one of ``crlviz.rendering.cameras.CAMERAS``.
      count: frames in a row, at least 2.

    Returns:
      The renderer's name.

    Raises:
      UsageError: another ending, an impossible size, or an unknown camera.
    """
    if path.suffix != ENDING:
        raise UsageError(f"{path} is not a strip of frames; its name must end in {ENDING}")
    times = moments(panels, count)
    with video.open_renderers(panels, size, fine=True) as renderers:
        rows = [
            np.concatenate(list(video.film(panel, renderers[panel.env], size, times, math.inf, camera)), axis=1)
            for panel in panels
        ]
        name = next(iter(renderers.values())).name
    file = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(file, "PNG", optimize=True)
    atomic_files.write(path, file.getvalue())
    return name
