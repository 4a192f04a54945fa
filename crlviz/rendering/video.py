"""Videos of episodes, side by side and in sync. Frames are streamed to the encoder one at a time."""

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from crlviz import jax_config
from crlviz.checkpoints import atomic_files
from crlviz.envs.base import GoalEnv
from crlviz.errors import CrlvizError, UsageError
from crlviz.options import check_rate
from crlviz.rendering import top_view
from crlviz.rendering.cameras import Cameraman
from crlviz.rendering.renderers import GLRenderer, RayRenderer, open_renderer

ENDINGS = (".mp4", ".gif")
SIZE = (640, 480)  # pixels of a panel, without its caption
_MAX_FPS = 35  # every environment step becomes a frame unless that exceeds this rate
_AFTER_FALL = 1.5  # seconds shown after a body has fallen
_MAP_SHARE = 0.3  # width of a maze's map as a share of the panel's width
_CODECS = {
    ".mp4": {"codec": "libx264", "quality": 7, "macro_block_size": 2, "output_params": ["-movflags", "+faststart"]},
    # One palette per frame, so that frames can be encoded as they arrive.
    ".gif": {
        "codec": "gif",
        "pix_fmt_out": "pal8",
        "macro_block_size": 2,
        "output_params": [
            "-filter_complex",
            "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1:dither=none",
        ],
    },
}


@dataclass(frozen=True)
class Panel:
    """One panel of a video: a caption and one episode of ``crlviz.rollout`` in its environment."""

    caption: str
    env: GoalEnv
    episode: xr.Dataset

    @property
    def fell(self) -> int | None:
        """The step at which the body fell, counted from 1, or None."""
        alive = self.episode.alive.values
        return None if alive.all() else int(alive.argmin())

    def step(self, seconds: float) -> int:
        """The step, counted from 0, that is shown at a time; it stops changing shortly after a fall."""
        last = self.episode.sizes["time"] - 1
        if self.fell is not None:
            last = min(last, self.fell + math.ceil(_AFTER_FALL / self.env.dt))
        return min(round(seconds / self.env.dt), last)

    @property
    def seconds(self) -> float:
        """Length in seconds, until the episode ends or shortly after a fall."""
        return self.step(self.episode.sizes["time"] * self.env.dt) * self.env.dt


@jax_config.with_fixed_settings
def write(
    path: str | Path,
    rows: Sequence[Sequence[Panel]],
    *,
    size: tuple[int, int] = SIZE,
    fps: float | None = None,
    camera: str = "follow",
) -> str:
    """Write a video in real time.

    Args:
      path: ends in .mp4 or .gif; written atomically.
      rows: rows of panels, all of equal length.
      size: width and height of a panel in pixels, without its caption.
      fps: frames per second; default: one frame per step, or per n-th step if steps are short.
      camera: one of ``crlviz.rendering.cameras.CAMERAS``.

    Returns:
      The renderer's name.

    Raises:
      UsageError: another ending, an impossible size or rate, or an unknown camera.
      CrlvizError: the encoder is missing or failed.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise UsageError(f"{path} is not a video; its name must end in {' or '.join(ENDINGS)}")
    check_rate(fps)
    panels = [panel for row in rows for panel in row]
    fps = fps or frame_rate(min(panel.env.dt for panel in panels))
    count = math.floor(max(panel.seconds for panel in panels) * fps) + 1
    with open_renderers(panels, size) as renderers:
        films = [
            [film(panel, renderers[panel.env], size, (k / fps for k in range(count)), 1 / fps, camera) for panel in row]
            for row in rows
        ]
        frames = (
            np.concatenate([np.concatenate([next(frame) for frame in row], axis=1) for row in films])
            for _ in tqdm(range(count), unit="frame", desc=path.name, disable=None)
        )
        write_frames(path, frames, fps)
        return next(iter(renderers.values())).name


@contextlib.contextmanager
def open_renderers(
    panels: Iterable[Panel], size: tuple[int, int], *, fine: bool = False
) -> Iterator[dict[GoalEnv, GLRenderer | RayRenderer]]:
    """Context with an open renderer for each environment of the panels; arguments as ``renderers.open_renderer``."""
    with contextlib.ExitStack() as stack:
        renderers = {}
        for env in {panel.env: None for panel in panels}:
            renderers[env] = open_renderer(env.model, *size, fine=fine)
            stack.callback(renderers[env].close)
        yield renderers


def frame_rate(dt: float) -> float:
    """Frames per second for environment steps of ``dt`` seconds: one frame per n-th step, at most ``_MAX_FPS``."""
    return 1 / (dt * math.ceil(1 / (dt * _MAX_FPS)))


def film(
    panel: Panel,
    renderer: GLRenderer | RayRenderer,
    size: tuple[int, int],
    times: Iterable[float],
    lag: float,
    camera: str = "follow",
) -> Iterator[np.ndarray]:
    """A panel's frames [height + caption, width, 3], uint8, at given times in seconds.

    ``lag`` is the time between two frames over which the camera moves smoothly; infinite: each frame is on its own.
    """
    maze = panel.env.maze if panel.env.view.body and camera != "top" else None
    width = 2 * round(_MAP_SHARE * size[0] / 2)
    ground = top_view.Ground(maze.extent, width, maze) if maze else None
    below = ground.picture() if ground else None
    for step, frame in shots(panel, renderer, size, times, lag, camera):
        picture = Image.fromarray(frame)
        if ground and below:
            inset = _map(panel, ground, below.copy(), step)
            picture.paste(inset, (picture.width - inset.width - 4, 4))
        yield np.concatenate([caption_picture(panel, step, size[0]), np.asarray(picture)])


def shots(
    panel: Panel,
    renderer: GLRenderer | RayRenderer,
    size: tuple[int, int],
    times: Iterable[float],
    lag: float,
    camera: str = "follow",
) -> Iterator[tuple[int, np.ndarray]]:
    """As ``film``, without caption and map: the step and its picture [height, width, 3]."""
    poses = panel.episode.pose.values
    cameraman = Cameraman(panel.env, poses[0], panel.episode.goal.values, camera, size[0] / size[1])
    for time in times:
        step = panel.step(time)
        yield step, renderer.render(poses[step], cameraman.shot(poses[step], lag))


def _map(panel: Panel, ground: top_view.Ground, picture: Image.Image, step: int) -> Image.Image:
    """The maze from above, with the path so far and the goal; drawn into the ground's picture."""
    draw = ImageDraw.Draw(picture)
    path = ground.pixels(panel.episode.achieved.values[: step + 1, :2])
    top_view.disc(draw, ground.pixels(panel.episode.goal.values[:2]), 0.3 * ground.unit, "#3aa655")
    if len(path) > 1:
        draw.line([tuple(point) for point in path], fill="#d4873f", width=2 * top_view.SCALE)
    top_view.disc(draw, path[-1], 0.22 * ground.unit, "#d4873f", outline="#222222")
    size = (picture.width // top_view.SCALE, picture.height // top_view.SCALE)
    return picture.resize(size, Image.Resampling.LANCZOS)


def caption_picture(panel: Panel, step: int, width: int) -> np.ndarray:
    """Two lines of text [height, width, 3]: caption and progress. The height is even, as encoders require."""
    episode, fell = panel.episode, panel.fell
    points = max(9, round(width / 24))
    shown = step if fell is None else min(step, fell - 1)
    words = f"step {shown + 1}, {(shown + 1) * panel.env.dt:.1f} s, {episode.distance.values[shown]:.2f} m to the goal"
    color = "#555555"
    if fell is not None and step >= fell:
        words, color = f"fell at step {fell}, {episode.distance.values[shown]:.2f} m from the goal", "#b03030"
    elif episode.success.values[shown]:
        words, color = f"{words}: there", "#1d7a3a"
    strip = Image.new("RGB", (width, 2 * round(1.5 * points)), "white")
    draw = ImageDraw.Draw(strip)
    for line, (text, fill) in enumerate(((panel.caption, "black"), (words, color))):
        draw.text(
            (width / 2, (0.8 + 1.35 * line) * points),
            text,
            fill=fill,
            font=fitting_font(text, points, width),
            anchor="mm",
        )
    return np.asarray(strip)


def fitting_font(text: str, points: int, width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The default font, made smaller until the text fits the width."""
    font = ImageFont.load_default(size=points)
    while font.getlength(text) > 0.97 * width and points > 6:
        points -= 1
        font = ImageFont.load_default(size=points)
    return font


def write_frames(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    """Stream frames to ffmpeg and write the file atomically."""
    import imageio_ffmpeg

    with atomic_files.temporary_file(path) as temporary:
        first = next(frames)
        pad = [(0, first.shape[0] % 2), (0, first.shape[1] % 2), (0, 0)]
        height, width = first.shape[0] + pad[0][1], first.shape[1] + pad[1][1]
        try:
            writer = imageio_ffmpeg.write_frames(
                str(temporary), (width, height), fps=fps, ffmpeg_log_level="error", **_CODECS[path.suffix]
            )
            with warnings.catch_warnings():  # jax warns about forks; this one only executes ffmpeg
                warnings.simplefilter("ignore", RuntimeWarning)
                writer.send(None)
            writer.send(np.ascontiguousarray(np.pad(first, pad, constant_values=255)))
            for frame in frames:
                writer.send(np.ascontiguousarray(np.pad(frame, pad, constant_values=255)))
            writer.close()
        except (OSError, RuntimeError):
            raise CrlvizError(f"{path} could not be encoded; ffmpeg's message is printed above") from None
