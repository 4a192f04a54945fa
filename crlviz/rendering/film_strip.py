"""Film strips: a few frames of an episode side by side, at moments that tell how it went."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from crlviz import jax_config
from crlviz.checkpoints import atomic_files
from crlviz.errors import UsageError
from crlviz.rendering import video

ENDING = ".png"
_FRAMES = 4
_MOST_OF_IT = 0.95  # of a path
_NAMED = 4  # panels in a title
_SAME = 1e-3  # meters and radians by which starts and goals differ at most


def moments(panels: Sequence[video.Panel], count: int = _FRAMES) -> list[float]:
    """Times in seconds of a strip's frames, the same for all panels: evenly spaced until every episode has ended.

    Here an episode ends when it reaches its goal, shortly after it falls, or else when it has covered 95 % of its path.
    """
    return np.linspace(0, max(map(_told, panels)), count).tolist()


def _told(panel: video.Panel) -> float:
    """Seconds until the episode of a panel ends, as ``moments`` defines it."""
    success, dt = panel.episode.success.values, panel.env.dt
    if success.any():
        # Poses are recorded before each step, so the first pose at the goal is one later.
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


def title(panels: Sequence[video.Panel]) -> str:
    """What a strip shows, in words: the environment, whether starts and goals are the same, and who arrives when."""
    where = " and ".join(dict.fromkeys(panel.env.id for panel in panels))
    starts = [np.append(panel.episode.pose.values[0], panel.episode.goal.values) for panel in panels]
    same = all(start.shape == starts[0].shape and np.allclose(start, starts[0], atol=_SAME) for start in starts)
    where += ", the same start and goal" * (same and len(panels) > 1)
    more = f"; {len(panels) - _NAMED} more" if len(panels) > _NAMED else ""
    return f"{where}: {'; '.join(f'{panel.caption} {_ends(panel)}' for panel in panels[:_NAMED])}{more}"


def _ends(panel: video.Panel) -> str:
    """How an episode ends, in words."""
    if panel.episode.success.values.any():
        return f"arrives after {_told(panel):.1f} s"
    return "does not arrive" if panel.fell is None else f"falls after {panel.fell * panel.env.dt:.1f} s"


def _title_picture(words: str, points: int, width: int) -> np.ndarray:
    """The title [height, width, 3] in one line, made smaller until it fits."""
    strip = Image.new("RGB", (width, 2 * points), "white")
    font = video.fitting_font(words, points, width)
    ImageDraw.Draw(strip).text((0.015 * width, points), words, fill="black", font=font, anchor="lm")
    return np.asarray(strip)


@jax_config.with_fixed_settings
def write(
    path: Path,
    panels: Sequence[video.Panel],
    *,
    size: tuple[int, int] = video.SIZE,
    camera: str = "follow",
    count: int = _FRAMES,
) -> str:
    """Write a strip of frames as a png: a row for each panel, the same ``moments`` in all, under a ``title``.

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
    heading = _title_picture(title(panels), max(11, round(size[0] / 16)), rows[0].shape[1])
    Image.fromarray(np.concatenate([heading, *rows])).save(file, "PNG", optimize=True)
    atomic_files.write(path, file.getvalue())
    return name
