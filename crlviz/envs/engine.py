"""MuJoCo, also where ``MUJOCO_GL`` names a way to OpenGL that does not work here: only what draws needs one.

MuJoCo loads it when it is imported, and fails there. Whoever imports it first, brax among them, comes by here.
"""

import os
import sys


def _forget_half() -> None:
    """Of an import that failed, modules stay that the package would not find again."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mujoco", "OpenGL")]:
        del sys.modules[name]


_variables = dict(os.environ)
try:
    import mujoco
except Exception:  # of MuJoCo, of the OpenGL bindings, of the system's loader
    if not os.environ.get("MUJOCO_GL"):
        raise
    _forget_half()
    os.environ["MUJOCO_GL"] = "disable"
    import mujoco
finally:
    for _name in os.environ.keys() - _variables.keys():  # the OpenGL bindings' own
        del os.environ[_name]
    os.environ.update(_variables)

__all__ = ["mujoco"]
