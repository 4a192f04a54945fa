"""MJX with the interface of brax's pipelines.

brax's own adapter keeps all of MJX's data in the state: megabytes per environment for an arm. This one keeps only what
the next step and the observation need.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from brax.base import Motion, System, Transform
from flax import struct
from mujoco import mjx

from crlviz import jax_config


@struct.dataclass
class MjxState:
    """q [nq], qd [nv], the solver's warm start [nv], and poses and velocities of the links [bodies - 1].

    After a step, poses and velocities belong to q and qd before the last physics step, because MuJoCo computes them at
    that point. The paper's environments observe these values.
    """

    q: jax.Array
    qd: jax.Array
    warmstart: jax.Array
    x: Transform
    xd: Motion


def init(sys: System, q: jax.Array, qd: jax.Array) -> MjxState:
    """The state at joint positions q [nq] and velocities qd [nv]."""

    def forward(q: jax.Array, qd: jax.Array) -> MjxState:
        return _state(sys, mjx.forward(sys, mjx.make_data(sys).replace(qpos=q, qvel=qd)))

    return sequential_on_cpu(forward)(q, qd)


def step(sys: System, state: MjxState, control: jax.Array) -> MjxState:
    """One physics step under controls [actuators]."""

    def advance(state: MjxState, control: jax.Array) -> MjxState:
        data = mjx.make_data(sys).replace(qpos=state.q, qvel=state.qd, qacc_warmstart=state.warmstart, ctrl=control)
        return _state(sys, mjx.step(sys, data))

    return sequential_on_cpu(advance)(state, control)


def sequential_on_cpu(function: Callable[..., MjxState]) -> Callable[..., MjxState]:
    """Make ``vmap`` of a function a sequential loop over the batch on a CPU; on other devices, change nothing.

    XLA's CPU programs for batched MJX are far slower per element than the unbatched program.
    """
    if jax_config.platform() != "cpu":
        return function
    single = jax.custom_batching.custom_vmap(function)

    @single.def_vmap
    def _(size: int, batched: Any, *arguments: Any) -> tuple[MjxState, Any]:
        batch = jax.tree.map(
            lambda leaf, is_batched: leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape)),
            arguments,
            tuple(batched),
        )
        result = jax.lax.map(lambda element: single(*element), batch)
        return result, jax.tree.map(lambda _: True, result)

    return single


def _state(sys: System, data: mjx.Data) -> MjxState:
    x = Transform(pos=data.xpos[1:], rot=data.xquat[1:])
    # MuJoCo gives body velocities at the center of mass of the kinematic tree; move them to the body's origin.
    velocity = Motion(vel=data.cvel[1:, 3:], ang=data.cvel[1:, :3])
    offset = Transform.create(pos=data.xpos[1:] - data.subtree_com[sys.body_rootid[1:]])
    return MjxState(data.qpos, data.qvel, data.qacc_warmstart, x, offset.vmap().do(velocity))
