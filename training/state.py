"""All that a run is at one moment, on disk: what resuming needs and a checkpoint does not hold.

    RUN/state/<env_steps>/state.safetensors    every array of the TrainState, named by its place in the tree
    RUN/state/<env_steps>/manifest.json        its checksum, the counters, and checksums of both and of the settings

Random keys are kept as their data. Only the newest state stays: it can be many gigabytes, nearly all of them replay.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from crlviz import checkpoints, files
from crlviz.errors import CrlvizError
from training.loop import TrainState


@dataclass(frozen=True)
class Counters:
    """What the host counts beside a TrainState.

    Attributes:
      step: training steps done.
      train_seconds: spent in them.
      wall_seconds: spent altogether, evaluations and saving included.
      evaluated_seconds: ``train_seconds`` at the last evaluation.
      rewinds: how often the run went back after a blow-up.
      sums: of each loss over the training steps since the last evaluation.
    """

    step: int = 0
    train_seconds: float = 0.0
    wall_seconds: float = 0.0
    evaluated_seconds: float = 0.0
    rewinds: int = 0
    sums: Mapping[str, float] = field(default_factory=dict)


def size(example: TrainState, *, replay: bool) -> int:
    """Bytes of a saved state that looks like the example."""
    example = example if replay else example.replace(replay=None)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(_plain, example)))


def snapshot(state: TrainState) -> TrainState:
    """A true copy in host memory, which later training steps cannot change; keys become their data.

    The one extra copy there ever is: on a CPU numpy would only look at the buffer that the next training step is given
    to write in; elsewhere reading it is the copy.
    """

    def copy(leaf: jax.Array) -> np.ndarray:
        on_host = all(device.platform == "cpu" for device in leaf.devices())
        return np.array(leaf, order="C") if on_host else np.asarray(leaf)

    return jax.tree.map(copy, _plain(state))


def write(run: Path, env_steps: int, copied: TrainState, counters: Counters) -> None:
    """Save a snapshot as the run's only state; the one before is removed once this one is in place.

    Args:
      run: the run directory.
      env_steps: names the state.
      copied: of ``snapshot``; without replay if its replay is None.
      counters: of the same moment.

    Raises:
      CrlvizError: it cannot be written; the state before is whole.
    """
    path = run / "state" / str(env_steps)
    before = checkpoints.numbered(run / "state")
    if path not in before:  # a run that was stopped where it had just saved
        with files.directory(path) as folder:
            entry = checkpoints.write_arrays(folder / "state.safetensors", _named(copied))
            more = {"counters": dataclasses.asdict(counters), "replay": copied.replay is not None}
            checkpoints.write_manifest(folder, path, {"state.safetensors": entry}, more)
    for old in before:
        if old != path:
            files.remove_directory(old)


def newest(run: Path) -> Path | None:
    """The state to resume from, if there is one."""
    found = checkpoints.numbered(run / "state")
    return found[-1] if found else None


def remove(run: Path) -> None:
    """Remove a finished run's state."""
    if (run / "state").exists():
        files.remove_directory(run / "state")


def read(path: Path, example: TrainState) -> tuple[TrainState, Counters]:
    """A saved state and its counters, every array checked.

    Args:
      path: of ``newest``.
      example: a state of the same config, or its shapes (``jax.eval_shape``).

    Returns:
      The state, with replay None if it was saved without; and the counters.

    Raises:
      CrlvizError: missing, changed since it was written, or of another config.
    """
    run, advice = path.parent.parent, "train anew in another directory"
    manifest = checkpoints.read_manifest(path, run, checkpoints.read_config(run), {"counters": dict})
    try:
        checkpoints.check_file(path, manifest, "state.safetensors")
        counters = _counters(manifest["counters"])
        wanted = example if manifest["replay"] else example.replace(replay=None)
        with safetensors.safe_open(path / "state.safetensors", framework="numpy") as arrays:
            state = _restored(wanted, arrays)
    except CrlvizError as error:
        raise CrlvizError(f"{error}; {advice}") from None
    except (ValueError, KeyError, TypeError, OSError, safetensors.SafetensorError) as error:
        raise CrlvizError(f"{path} is damaged or of another config ({error}); {advice}") from None
    return state, counters


def _counters(values: Mapping[str, Any]) -> Counters:
    counters = Counters(**values)
    for each in dataclasses.fields(Counters):
        if type(getattr(counters, each.name)) is not type(getattr(Counters(), each.name)):
            raise ValueError(f"{each.name} is {getattr(counters, each.name)!r}")
    return counters


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(tree: Any) -> Any:
    """The tree with the data of each random key in its place."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _named(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _restored(example: TrainState, arrays: Any) -> TrainState:
    """The arrays of an open file in the example's tree, one after the other; ValueError where they do not fit."""
    shapes = _named(jax.eval_shape(_plain, example))
    if set(shapes) != set(arrays.keys()):
        raise ValueError("it holds other arrays")

    def restore(path, leaf):
        name = jax.tree_util.keystr(path)
        value, shape = arrays.get_tensor(name), shapes[name]
        if (value.shape, value.dtype) != (shape.shape, shape.dtype):
            raise ValueError(f"{name} is {value.dtype}{list(value.shape)}, not {shape.dtype}{list(shape.shape)}")
        value = jnp.array(value)  # a copy of jax's own, which training may write in
        return jax.random.wrap_key_data(value) if _is_key(leaf) else value

    return jax.tree_util.tree_map_with_path(restore, example)
