"""Renderers of MuJoCo models: OpenGL where available, otherwise ray casting on the CPU."""

import copy
import functools
import importlib
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass

import numpy as np

from crlviz.envs import looks
from crlviz.envs.engine import mujoco
from crlviz.options import check_size

FOVY = 45.0  # vertical field of view in degrees, MuJoCo's default
# OpenGL platforms that need no window, by operating system, fastest first.
_PLATFORMS = {"darwin": ("cgl",), "win32": ("glfw",)}
_LINUX = ("egl", "osmesa")
_NAMES = {"egl": "EGL", "osmesa": "OSMesa", "cgl": "CGL", "glfw": "GLFW"}
_ANY = ("", "enable", "enabled", "on", "true", "1")  # values of MUJOCO_GL that allow any platform
_NONE = ("disable", "disabled", "off", "false", "0")  # values that forbid OpenGL
_SOFTWARE = (b"llvmpipe", b"softpipe", b"swrast")  # Mesa's names of its CPU renderers
_SAMPLES = 2  # rays per pixel along each axis
_SHADOWS = {300: 4096, 0: 2048}  # least width of a picture: pixels of its shadow map, finer than the picture's own


@dataclass(frozen=True)
class Camera:
    """A camera that orbits a point.

    Attributes:
      lookat: the point [3] at the picture's center, in meters.
      distance: distance from it in meters.
      azimuth: degrees; 0 looks along x, 90 along y.
      elevation: degrees; negative looks down from above.
    """

    lookat: np.ndarray
    distance: float
    azimuth: float
    elevation: float

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unit vectors [3] forward, right and up."""
        azimuth, elevation = np.radians([self.azimuth, self.elevation])
        forward = np.array(
            [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
        )
        right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
        return forward, right, np.cross(right, forward)

    @property
    def eye(self) -> np.ndarray:
        """Position [3] of the camera in meters."""
        return self.lookat - self.distance * self.axes[0]


def open_renderer(model: mujoco.MjModel, width: int, height: int, *, fine: bool = False) -> "GLRenderer | RayRenderer":
    """Open the fastest renderer that works on this machine. Close it after use.

    The environment variable ``MUJOCO_GL`` (egl, osmesa, cgl, glfw or disable) allows only that platform. If it does
    not work, ray casting is used, with a warning.

    Args:
      model: an environment's model, ``env.model``.
      width, height: size in pixels.
      fine: antialias even where that halves the speed, which is in OpenGL without a GPU.

    Raises:
      UsageError: an impossible size.
    """
    check_size(width, height)
    platform = working_platform()
    return GLRenderer(model, width, height, platform, fine) if platform else RayRenderer(model, width, height)


@functools.cache
def working_platform() -> str | None:
    """The first OpenGL platform that renders a picture on this machine, or None.

    Each is tried in a child process: a broken driver may crash the process, and the OpenGL bindings can be loaded for
    one platform only.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    candidates: tuple[str, ...] = _PLATFORMS.get(sys.platform, _LINUX)
    if wanted not in _ANY:
        candidates = (wanted,) if wanted in _NAMES else ()
    for platform in candidates:
        code = f"from crlviz.rendering.renderers import try_platform; try_platform({platform!r})"
        # The user's values are removed first: MuJoCo reads them at import, and that may fail.
        environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
        environment |= {"MUJOCO_GL": platform, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            trial = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, timeout=60)
        except subprocess.TimeoutExpired:
            continue
        if trial.returncode == 0:
            return platform
    if wanted not in (*_ANY, *_NONE):
        known = ", ".join(_NAMES)
        why = "does not work here" if wanted in _NAMES else f"is none of {known} and disable"
        warnings.warn(f"MUJOCO_GL={wanted} {why}; pictures are drawn by casting rays", stacklevel=2)
    return None


def try_platform(platform: str) -> None:
    """Render a red ball; raises an exception or exits with code 1 if that fails."""
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><light pos='0 0 3'/><geom type='sphere' size='.5' rgba='1 0 0 1'/></worldbody></mujoco>"
    )
    renderer = GLRenderer(model, 32, 32, platform)
    picture = renderer.render(np.zeros(0), Camera(np.zeros(3), 2.0, 90.0, -45.0))
    renderer.close()
    red, green, _ = picture[16, 16].astype(int)
    if red <= green:
        sys.exit(1)


class GLRenderer:
    """MuJoCo's OpenGL renderer, in an offscreen buffer."""

    def __init__(self, model: mujoco.MjModel, width: int, height: int, platform: str, fine: bool = False):
        self.name = f"OpenGL through {_NAMES[platform]}"
        self._model = copy.copy(model)
        self._model.vis.global_.offwidth, self._model.vis.global_.offheight = width, height
        self._model.vis.quality.shadowsize = next(size for least, size in _SHADOWS.items() if width >= least)
        self._model.vis.rgba.fog[:] = (*looks.SKY, 1)
        self._data = mujoco.MjData(self._model)
        self._gl = importlib.import_module(f"mujoco.{platform}").GLContext(width, height)
        self._gl.make_current()
        from OpenGL import GL  # a dependency of mujoco; imported here because it binds to the platform chosen above

        if not fine and any(name in GL.glGetString(GL.GL_RENDERER).lower() for name in _SOFTWARE):
            self._model.vis.quality.offsamples = 0
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(self._model, self._model.ngeom + 100)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_FOG] = True
        self._option = mujoco.MjvOption()
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)

    def render(self, pose: np.ndarray, camera: Camera) -> np.ndarray:
        """Render joint positions [nq] to a picture [height, width, 3], uint8."""
        self._gl.make_current()  # another renderer may be current
        self._data.qpos[:] = pose
        mujoco.mj_kinematics(self._model, self._data)
        view = mujoco.MjvCamera()
        view.lookat[:], view.distance = camera.lookat, camera.distance
        view.azimuth, view.elevation = camera.azimuth, camera.elevation
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, self._data, self._option, None, view, everything, self._scene)
        for light in self._scene.lights[: self._scene.nlight]:
            if not light.headlight:  # the sun moves with the camera so that its shadow map covers the view
                light.pos[:], light.dir[:] = camera.lookat - camera.distance * _sun(), _sun()
        self._context.shadowClip = 2.5 * camera.distance
        self._context.fogStart, self._context.fogEnd = (share * camera.distance for share in looks.HAZE)
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._rect, self._context)
        return self._pixels[::-1].copy()

    def close(self) -> None:
        self._context.free()
        self._gl.free()


class RayRenderer:
    """Renderer that casts rays with MuJoCo, with the same camera, lights, sky and floor as ``GLRenderer``."""

    name = "ray casting, without OpenGL"

    def __init__(self, model: mujoco.MjModel, width: int, height: int):
        self._model = _with_full_bounds(model)
        self._data = mujoco.MjData(self._model)
        self._size = height, width
        count = _SAMPLES * height, _SAMPLES * width
        up = (1 - 2 * (np.arange(count[0]) + 0.5) / count[0]) * np.tan(np.radians(FOVY / 2))
        right = (2 * (np.arange(count[1]) + 0.5) / count[1] - 1) * np.tan(np.radians(FOVY / 2)) * width / height
        self._right, self._up = (plane.ravel() for plane in np.meshgrid(right, up))
        self._colors = model.geom_rgba.astype(np.float32)
        self._floor = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
        repeat = model.mat_texrepeat[model.geom_matid, 0] if model.nmat else np.ones(model.ngeom)
        self._square = np.where(model.geom_matid >= 0, 1 / np.maximum(repeat, 1e-6), 1.0)
        self._glass = np.flatnonzero((model.geom_rgba[:, 3] < 1) & (model.geom_rgba[:, 3] > 0))

    def render(self, pose: np.ndarray, camera: Camera) -> np.ndarray:
        """Render joint positions [nq] to a picture [height, width, 3], uint8."""
        self._data.qpos[:] = pose
        mujoco.mj_kinematics(self._model, self._data)
        forward, right, up = camera.axes
        rays = forward + self._right[:, None] * right + self._up[:, None] * up
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        eye = camera.eye
        # Transparent geoms all belong to one body, the goal. Render the world without it, then blend it in.
        glass = int(self._model.geom_bodyid[self._glass[0]]) if len(self._glass) else -1
        colors, depth = self._cast(eye, rays, camera, exclude=glass)
        if glass >= 0:
            near = self._rays_near(eye, rays, glass)
            geom, distance, normal = self.hits(eye, rays[near], exclude=-1)
            front = np.isin(geom, self._glass) & ((distance < depth[near]) | (depth[near] < 0))
            near, rgba = near[front], self._colors[geom[front]]
            shade = self._shade(rgba[:, :3], normal[front], rays[near], np.ones(len(near), bool))
            colors[near] += rgba[:, 3:] * (shade - colors[near])
        height, width = self._size
        samples = colors.reshape(height, _SAMPLES, width, _SAMPLES, 3).mean(axis=(1, 3))
        return (255 * np.clip(samples, 0, 1) + 0.5).astype(np.uint8)

    def close(self) -> None:
        """Does nothing; there are no resources to free."""

    def _rays_near(self, eye: np.ndarray, rays: np.ndarray, body: int) -> np.ndarray:
        """Indices of the rays [n, 3] that pass near a body's transparent geoms."""
        geoms = self._glass[self._model.geom_bodyid[self._glass] == body]
        to_geom = self._data.geom_xpos[geoms] - eye
        along = rays @ to_geom.T
        squared_distance = (to_geom**2).sum(axis=1) - along**2
        close = squared_distance < (1.05 * self._model.geom_rbound[geoms]) ** 2
        return np.flatnonzero(((along > 0) & close).any(axis=1))

    def hits(self, origin: np.ndarray, rays: np.ndarray, exclude: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First hits of rays [n, 3] from a point: geom [n] (-1: none), distance [n] in meters, normal [n, 3]."""
        count = len(rays)
        geom, distance, normal = np.empty(count, np.int32), np.empty(count), np.zeros(3 * count)
        flat = np.ascontiguousarray(rays, np.float64).ravel()
        mujoco.mj_multiRay(
            self._model, self._data, origin, flat, None, True, exclude, geom, distance, normal, count, mujoco.mjMAXVAL
        )  # fmt: skip
        return geom, distance, normal.reshape(-1, 3)

    def _cast(self, eye: np.ndarray, rays: np.ndarray, camera: Camera, exclude: int) -> tuple[np.ndarray, np.ndarray]:
        """Colors [n, 3] and depths [n] of rays [n, 3], without the body ``exclude``."""
        geom, depth, normal = self.hits(eye, rays, exclude)
        colors = np.broadcast_to(np.array(looks.SKY, np.float32), rays.shape).copy()
        hit = geom >= 0
        geom, normal = geom[hit], normal[hit]
        at = eye + depth[hit, None] * rays[hit]
        paint = self._colors[geom, :3].copy()
        floor = self._floor[geom]
        squares = np.floor(at[floor, :2] / self._square[geom[floor], None]).astype(int).sum(axis=1) % 2
        paint[floor] = np.array(looks.FLOOR, np.float32)[squares]
        # Shadows: a ray from far away toward the sun to each point; a hit before the point means shadow.
        sun = camera.lookat - 1000 * _sun()
        light = at + 1e-3 * normal - sun
        length = np.linalg.norm(light, axis=1)
        first = self.hits(sun, light / length[:, None], exclude)[1]
        lit = (first < 0) | (first > length - 1e-3 * camera.distance)
        colors[hit] = self._shade(paint, normal, rays[hit], lit)
        start, end = (share * camera.distance for share in looks.HAZE)
        haze = np.clip((depth[hit] * (rays[hit] @ camera.axes[0]) - start) / (end - start), 0, 1)[:, None]
        colors[hit] += haze * (np.array(looks.SKY) - colors[hit])
        return colors, depth

    def _shade(self, paint: np.ndarray, normal: np.ndarray, rays: np.ndarray, lit: np.ndarray) -> np.ndarray:
        """Diffuse shading of colors [n, 3] by ambient light, headlight and, where ``lit`` [n], the sun."""
        head = np.clip(-(normal * rays).sum(axis=1), 0, 1)
        sun = np.clip(-normal @ _sun(), 0, 1) * lit
        return paint * (looks.AMBIENT + looks.HEADLIGHT * head + looks.SUN * sun)[:, None].astype(np.float32)


def _with_full_bounds(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy in which rays find every geom.

    MuJoCo skips a body if the ray misses the bounding box of its colliding geoms, and so misses geoms that are only
    visual. Here each box covers all geoms of the body.
    """
    model = copy.copy(model)
    for body in np.flatnonzero(model.body_bvhnum):
        geoms = np.flatnonzero(model.geom_bodyid == body)
        reach = np.linalg.norm(model.geom_pos[geoms] - model.body_ipos[body], axis=1) + model.geom_rbound[geoms]
        box = model.bvh_aabb[model.body_bvhadr[body]]
        box[:3], box[3:] = 0, max(reach.max(), np.abs(box[:3]).max() + box[3:].max())
    return model


def _sun() -> np.ndarray:
    """Unit vector [3] of the direction in which sunlight travels."""
    direction = np.array(looks.SUN_DIRECTION)
    return direction / np.linalg.norm(direction)
