"""crlviz's environments with the interface of Gymnasium. Importing this module registers them as ``crlviz/<id>-v0``.

``gymnasium.make("crlviz.gymnasium_env:crlviz/point_u_maze-v0")`` imports it too.
"""

import functools
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from crlviz import envs, jax_config
from crlviz.errors import UsageError
from crlviz.options import check_count, check_size
from crlviz.rollouts import checked_positions

try:
    import gymnasium as gym
except ImportError:
    raise UsageError("environments of Gymnasium need it: pip install 'crlviz[gymnasium]'") from None

if TYPE_CHECKING:
    from crlviz.envs.base import GoalEnv, State
    from crlviz.rendering.cameras import Cameraman
    from crlviz.rendering.renderers import GLRenderer, RayRenderer

Observation = dict[str, np.ndarray]


class GymnasiumEnv(gym.Env[Observation, np.ndarray]):
    """An environment of crlviz with the interface of gymnasium-robotics' ``GoalEnv``.

    Observations have ``observation`` (the state), ``achieved_goal`` and ``desired_goal``, all float32. The reward is
    1 within the success distance of the goal and else 0, as ``compute_reward`` gives it. A fall terminates an episode;
    a reached goal does not; the time limit truncates it. ``info`` has ``is_success`` and ``distance``, the
    environment's own measure of the step, and ``fell``.

    Attributes:
      env: the environment, one of ``crlviz.envs.make``.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  # as Gymnasium declares it

    def __init__(
        self,
        env_id: str,
        *,
        render_mode: str | None = None,
        episode_length: int | None = None,
        width: int = 480,
        height: int = 360,
        camera: str = "follow",
        **options: Any,
    ):
        """
        Args:
          env_id: as for ``crlviz.envs.make``.
          render_mode: ``rgb_array``, or None: ``render`` is not called.
          episode_length: steps until the time limit; default: the environment's.
          width, height: size of a picture in pixels.
          camera: ``follow``, ``side`` or ``top``.
          options: further options of ``crlviz.envs.make``, such as ``layout`` or ``backend``.

        Raises:
          UsageError: an unknown id, option, render mode or camera, or a size out of range.
        """
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UsageError(f"render_mode {render_mode!r} is unknown; take rgb_array")
        check_count(episode_length, "steps")
        check_size(width, height)
        if not isinstance(options.get("layout", ""), str):
            options["layout"] = tuple(map(str, options["layout"]))
        self.env, self._reset, self._step = _programs(env_id, tuple(options.items()))
        self._length = episode_length or self.env.episode_length
        self.render_mode, self._size, self._camera = render_mode, (width, height), camera
        # Renderers and RecordVideo ask the environment itself.
        self.metadata = self.metadata | {"render_fps": max(1, round(1 / self.env.dt))}
        goal = _unbounded(self.env.goal_dim)
        self.observation_space: gym.Space[Any] = gym.spaces.Dict(
            {"observation": _unbounded(self.env.state_dim), "achieved_goal": goal, "desired_goal": goal}
        )
        self.action_space = gym.spaces.Box(-1, 1, (self.env.action_size,), np.float32)
        self._state: State | None = None
        self._steps = 0
        self._renderer: GLRenderer | RayRenderer | None = None
        self._cameraman: Cameraman | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode. The same seed begins the same episode, and the same episodes after it.

        Args:
          seed: of the starts and goals from now on; None: continue the sequence of the last seed.
          options: ``start`` [2] and ``goal`` [goal] in meters replace the drawn ones.

        Raises:
          UsageError: an unknown option; or a start or goal of the wrong shape, not finite, or in a wall.
        """
        super().reset(seed=seed)
        given = dict(options or {})
        start, goal = given.pop("start", None), given.pop("goal", None)
        if given:
            raise UsageError(f"reset has no option {min(given)!r}; it takes start and goal")
        if start is not None:
            start = checked_positions(self.env, "starts", [start], (1, 2))[0]
        if goal is not None:
            goal = checked_positions(self.env, "goals", [goal], (1, self.env.goal_dim))[0]
        with jax_config.fixed_settings():
            self._state = self._reset(jax.random.key(int(self.np_random.integers(1 << 31))), start, goal)
        self._steps, self._cameraman = 0, None
        return self._observation(self._state), self._info(self._state)

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Step with an action [action] in [-1, 1].

        Raises:
          UsageError: ``reset`` was not called, or the action has another shape or a number that is not finite.
        """
        if self._state is None:
            raise UsageError("call reset before step")
        action = np.asarray(action, np.float32)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise UsageError(f"{self.env.id} takes {self.env.action_size} finite numbers as an action, not {action}")
        with jax_config.fixed_settings():
            self._state = self._step(self._state, np.clip(action, -1, 1))
        self._steps += 1
        observation, info = self._observation(self._state), self._info(self._state)
        reward = float(self.compute_reward(observation["achieved_goal"], observation["desired_goal"], info))
        return observation, reward, info["fell"], self._steps >= self._length, info

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any) -> np.ndarray:
        """1 where achieved goals [..., goal] are within the success distance of desired goals, else 0: [...]."""
        distance = np.linalg.norm(np.asarray(achieved_goal) - np.asarray(desired_goal), axis=-1)
        return (distance < self.env.goal_distance).astype(np.float32)

    def compute_terminated(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: dict[str, Any]) -> bool:
        """Whether a step ended the episode: it fell. Goals do not matter."""
        return bool(info["fell"])

    def compute_truncated(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: dict[str, Any]) -> bool:
        """Always False: ``step`` counts the time limit."""
        return False

    def render(self) -> np.ndarray | None:
        """A picture [height, width, 3], uint8, of the state; None without ``render_mode``.

        Raises:
          UsageError: ``reset`` was not called.
        """
        if self.render_mode is None:
            return None
        if self._state is None:
            raise UsageError("call reset before render")
        from crlviz.rendering.cameras import Cameraman
        from crlviz.rendering.renderers import open_renderer

        with jax_config.fixed_settings():
            pose = np.asarray(self.env.pose(self._state))
        if self._renderer is None:
            self._renderer = open_renderer(self.env.model, *self._size)
        if self._cameraman is None:
            goal = self._observation(self._state)["desired_goal"]
            self._cameraman = Cameraman(self.env, pose, goal, self._camera, self._size[0] / self._size[1])
        return self._renderer.render(pose, self._cameraman.shot(pose, self.env.dt))

    def close(self) -> None:
        """Close the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _observation(self, state: "State") -> Observation:
        numbers = np.array(state.obs, np.float32)
        body, goal = np.split(numbers, [self.env.state_dim])
        return {"observation": body, "achieved_goal": body[list(self.env.goal_indices)], "desired_goal": goal}

    def _info(self, state: "State") -> dict[str, Any]:
        measured = state.metrics
        return {
            "is_success": bool(measured["success"] > 0),
            "distance": float(measured["distance"]),
            "fell": bool(state.done > 0),
        }


@functools.cache
def _programs(env_id: str, options: tuple[tuple[str, Any], ...]) -> tuple["GoalEnv", Any, Any]:
    """An environment and its compiled reset and step, which all instances share."""
    env = envs.make(env_id, **dict(options))
    return env, jax.jit(env.reset), jax.jit(env.step)


def _unbounded(width: int) -> gym.spaces.Box:
    return gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)


def _register() -> None:
    for id in envs.ids():
        gym.register(f"crlviz/{id}-v0", entry_point="crlviz.gymnasium_env:GymnasiumEnv", kwargs={"env_id": id})


_register()
