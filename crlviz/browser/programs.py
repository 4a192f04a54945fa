"""The programs of a page that runs agents in their environment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from crlviz import jax_config
from crlviz.agent import Agent
from crlviz.algorithms.base import HasQ
from crlviz.browser.emitter import Program, emit, emit_together
from crlviz.browser.kinematics import body_poses, geom_poses
from crlviz.envs.base import GoalEnv, State
from crlviz.errors import UsageError
from crlviz.precision import exact
from crlviz.rendering.replay_page import check_world, drawn_geoms

Q_MAP_ROWS = 64  # observations that ``q_map`` takes at once
_STARTS = 32
HALF_ERROR = 1e-3  # largest error of an action for which parameters are stored as float16


class Scene(NamedTuple):
    """What a program returns for a state, in this order; ``geoms`` are in the order of ``replay_page.drawn_geoms``.

    Attributes:
      leaves: the arrays of the state that change or differ between episodes.
      obs: observation [n].
      done: 1 if the body has failed.
      distance: meters to the goal.
      success: 1 within the success distance.
      focus: point [3] in meters that the camera looks at.
      geoms: position in meters and quaternion (w, x, y, z) of each moving geom [moving, 7].
    """

    leaves: Sequence[Any]
    obs: Any
    done: Any
    distance: Any
    success: Any
    focus: Any
    geoms: Any


@dataclass(frozen=True)
class AgentPrograms:
    """Programs of an agent. They have the same ``constants``, which a page stores once.

    Attributes:
      act: observation [n] -> action [action], the deterministic one.
      q: observation [n], action [action] -> Q []; None: the algorithm has no critic of actions.
      q_map: observations [64, n] -> Q [64] of the deterministic actions; None as for ``q``.
      half: whether its parameters are stored as float16.
    """

    act: Program
    q: Program | None
    q_map: Program | None
    half: bool


@dataclass(frozen=True)
class PagePrograms:
    """Programs of an environment and of agents.

    Attributes:
      env: the environment.
      step: leaves of a state, action [action] -> ``Scene``.
      set_goal: leaves of a state, goal [goal] -> ``Scene``; None: the environment sets its goal itself.
      push: leaves of a state, change of velocity [2] in meters per second -> ``Scene``; None: nothing can be pushed.
      starts: a ``Scene`` of 32 initial states, each array [32, ...].
      place_indices: places in an observation of x and y of what must reach the goal; None: it is not placeable.
      agents: programs of each agent.
    """

    env: GoalEnv
    step: Program
    set_goal: Program | None
    push: Program | None
    starts: Scene
    place_indices: tuple[int, int] | None
    agents: list[AgentPrograms]


@jax_config.with_fixed_settings
def first_states(env: GoalEnv, count: int) -> Any:
    """The first ``count`` initial states [count, ...] of an environment, the same in each page."""
    # It runs once, and compiling a large body's reset takes longer than everything else.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(jax.vmap(env.reset), compiler_options=quick)(jax.random.split(jax.random.key(0), count))


def page_programs(agents: Sequence[Agent]) -> PagePrograms:
    """The programs of agents of the same environment.

    Raises:
      UsageError: no agent, or agents of different bodies or mazes.
      CrlvizError: the environment or an agent has an operation that cannot run in a page.
    """
    if not agents:
        raise UsageError("no agent to play with")
    env = agents[0].env
    for agent in agents:
        check_world(env, agent.env.id, str(agent.source))
    view = StateView(env)
    action, place, goal = (jax.ShapeDtypeStruct((size,), np.float32) for size in (env.action_size, 2, env.goal_dim))
    states = first_states(env, _STARTS)
    starts = jax.device_get(jax.jit(jax.vmap(view.scene))(states))
    return PagePrograms(
        env,
        emit(f"the step of {env.id}", view.through(env.step), view.leaves, action),
        if_possible(f"a new goal of {env.id}", view.through(env.with_goal), view.leaves, goal),
        if_possible(f"a push of {env.id}", view.through(env.pushed), view.leaves, place),
        starts,
        tuple(env._place_indices) if env.placeable else None,  # type: ignore[arg-type]
        [agent_programs(agent, starts.obs) for agent in agents],
    )


def if_possible(name: str, function: Callable[..., Any], *examples: Any) -> Program | None:
    """The program of a function; None: the environment refuses it."""
    try:
        return emit(name, function, *examples)
    except UsageError:
        return None


def agent_programs(agent: Agent, observations: np.ndarray) -> AgentPrograms:
    """The programs of an agent; ``observations`` [B, n] tell how exact its actions are with rounded parameters."""
    # jax arrays: a function that is vectorized over parameters takes no numpy constant.
    params, dim = jax.tree.map(jnp.asarray, agent.params), agent.env.state_dim
    algorithm: Any = agent.algorithm  # with ``q`` if it ``HasQ``
    half = _halves_well(agent, observations)

    def act(observation: jax.Array) -> jax.Array:
        with exact():
            return algorithm.act(params, observation[None])[0]

    def q(observation: jax.Array, action: jax.Array) -> jax.Array:
        with exact():
            return algorithm.q(params, observation[None, :dim], action[None], observation[None, dim:])[0]

    def q_map(rows: jax.Array) -> jax.Array:
        with exact():
            return algorithm.q(params, rows[:, :dim], algorithm.act(params, rows), rows[:, dim:])

    observation = jax.ShapeDtypeStruct((agent.env.observation_size,), np.float32)
    action = jax.ShapeDtypeStruct((agent.env.action_size,), np.float32)
    rows = jax.ShapeDtypeStruct((Q_MAP_ROWS, *observation.shape), np.float32)
    functions: dict[str, tuple[Any, ...]] = {"act": (act, observation)}
    if isinstance(algorithm, HasQ):
        functions |= {"q": (q, observation, action), "q_map": (q_map, rows)}
    programs = emit_together(str(agent.source), functions, half=half)
    return AgentPrograms(programs["act"], programs.get("q"), programs.get("q_map"), half)


def _halves_well(agent: Agent, observations: np.ndarray) -> bool:
    """Whether actions hardly change if all parameters are rounded to float16."""
    with np.errstate(over="ignore"):
        rounded = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16).astype(np.float32), agent.params)
    act = jax.jit(agent.algorithm.act)
    with exact():
        exactly, roughly = (np.asarray(act(params, observations)) for params in (agent.params, rounded))
    return bool(np.abs(exactly - roughly).max() < HALF_ERROR)


class StateView:
    """A state of an environment as the arrays of it that a page keeps.

    Attributes:
      leaves: their shapes and dtypes.
    """

    def __init__(self, env: GoalEnv):
        self._env = env
        _, self._moving = drawn_geoms(env.model)
        example = jax.eval_shape(env.reset, jax.random.key(0))
        leaves, self._tree = jax.tree.flatten(example)
        self._shapes = leaves
        self._kept = self._needed(example)
        self.leaves = [leaves[number] for number in self._kept]

    def _needed(self, example: State) -> list[int]:
        """Indices of the leaves that affect what a page shows, now or after any number of steps."""
        env = self._env
        action = jax.ShapeDtypeStruct((env.action_size,), np.float32)

        def shown(state: State, action: jax.Array) -> Any:
            after = env.step(state, action)
            return after, self.scene(after)[1:]

        jaxpr, count = jax.make_jaxpr(shown)(example, action), len(self._shapes)
        used = [False] * count + [True] * (len(jaxpr.out_avals) - count)
        while True:
            _, reads = partial_eval.dce_jaxpr(jaxpr.jaxpr, used)
            needed = [number for number in range(count) if reads[number]]
            if all(used[number] for number in needed):
                return needed
            for number in needed:
                used[number] = True

    def scene(self, state: State) -> Scene:
        """What a page shows of a state; all leaves if the view is not made yet."""
        env, leaves = self._env, jax.tree.leaves(state)
        q, view = env.pose(state), env.view
        look = jnp.asarray(view.lookat, jnp.float32)
        if view.body:
            look = look + body_poses(env.model, q)[env.model.body(view.body).id][0]
        kept = [leaves[number] for number in getattr(self, "_kept", range(len(leaves)))]
        geoms = geom_poses(env.model, q, self._moving)
        return Scene(kept, state.obs, state.done, state.metrics["distance"], state.metrics["success"], look, geoms)

    def state(self, leaves: Sequence[Any]) -> State:
        """The state with these arrays; those that no page needs are zero."""
        kept = dict(zip(self._kept, leaves, strict=True))
        every = [kept.get(number, jnp.zeros(leaf.shape, leaf.dtype)) for number, leaf in enumerate(self._shapes)]
        return jax.tree.unflatten(self._tree, every)

    def through(self, change: Callable[[State, Any], State]) -> Callable[..., Scene]:
        """A function of leaves and of what changes the state, that returns what a page shows of the new state."""
        return lambda leaves, by: self.scene(change(self.state(leaves), by))
