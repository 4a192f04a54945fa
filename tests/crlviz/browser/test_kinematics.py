"""Poses of bodies and geoms against MuJoCo's own kinematics."""

import jax
import numpy as np
import pytest

from crlviz import envs
from crlviz.browser.kinematics import geom_poses
from crlviz.envs.engine import mujoco
from crlviz.rendering.replay_page import drawn_geoms

# Every kind of joint, off its body's origin and about a slanted axis, on bodies that are turned, several on one body.
MODEL = """
<mujoco><compiler angle="radian"/><worldbody>
  <body pos="1 2 3" quat="0.5 0.1 0.7 0.2"><freejoint/><geom size=".1" pos=".3 .1 0" quat=".3 .4 .5 .1"/>
    <body pos=".2 0 .4" quat=".9 .1 0 .3"><joint type="ball" pos=".1 .2 .3"/><geom type="capsule" size=".1 .2"/>
      <body pos="0 .3 0"><joint type="hinge" axis="1 2 3" pos=".1 0 .2" ref=".4"/><joint type="slide" axis="0 1 1"/>
        <joint type="hinge" axis="0 1 0" pos="0 0 .5"/><geom type="box" size=".1 .2 .3" quat="0 1 1 0"/></body></body>
  </body>
  <body pos="0 0 1"><joint type="slide" axis="1 0 0" ref="2"/><geom type="ellipsoid" size=".1 .2 .3"/></body>
</worldbody></mujoco>
"""


def check(model, seed=0):
    _, moving = drawn_geoms(model)
    assert moving
    random, data = np.random.default_rng(seed), mujoco.MjData(model)
    function = jax.jit(lambda q: geom_poses(model, q, moving))
    for _ in range(3):
        q = (model.qpos0 + random.normal(size=model.nq)).astype(np.float32)
        data.qpos[:] = q
        mujoco.mj_kinematics(model, data)
        poses = np.asarray(function(q))
        np.testing.assert_allclose(poses[:, :3], data.geom_xpos[moving], atol=2e-5)
        for pose, matrix in zip(poses, data.geom_xmat[moving], strict=True):
            own = np.zeros(9)
            mujoco.mju_quat2Mat(own, pose[3:].astype(float))
            np.testing.assert_allclose(own, matrix, atol=2e-5)


def test_every_kind_of_joint():
    check(mujoco.MjModel.from_xml_string(MODEL))


@pytest.mark.slow
@pytest.mark.parametrize("id", [id for id in envs.BODIES if id != "point"])
def test_every_body(id):
    check(envs.make(id).model)
