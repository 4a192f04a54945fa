"""Import MuJoCo even if ``MUJOCO_GL`` names an OpenGL backend that does not work here; only rendering needs one.

MuJoCo loads the backend on import and fails if it cannot. The modules that render import
mujoco from here.
"""

import os
import sys


def _remove_partial_import() -> None:
    """Remove the modules that a failed import left behind; they would break the next import."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mujoco", "OpenGL")]:
        del sys.modules[name]


_variables = dict(os.environ)
try:
    import mujoco
except Exception:  # from MuJoCo, the OpenGL bindings or the dynamic loader
    if not os.environ.get("MUJOCO_GL"):
        raise
    _remove_partial_import()
    os.environ["MUJOCO_GL"] = "disable"
    import mujoco
finally:
    for _name in os.environ.keys() - _variables.keys():  # set by the OpenGL bindings
        del os.environ[_name]
    os.environ.update(_variables)

__all__ = ["mujoco"]
