"""The saved state of a run: everything that resuming needs, unlike a checkpoint, which holds only the networks.

    RUN/state/<env_steps>/state.safetensors    every array of the TrainState, named by its path in the tree
    RUN/state/<env_steps>/manifest.json        checksum of the arrays, counters, digest of the settings, own checksum

Random keys are stored as their data. Only the newest state is kept: it can be many gigabytes, nearly all of it buffer.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from crlviz.checkpoints import atomic_files, checked_arrays
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError
from training.loop.train_loop import TrainState, shardings
from training.run import hosts
from training.sharding import ONE, Devices, gathered

_ADVICE = "train again in another directory"


@dataclass(frozen=True)
class Counters:
    """Counters of a run that the host keeps beside the TrainState.

    Attributes:
      step: training steps done.
      train_seconds: seconds spent in them; of runs in lockstep, an equal share of the group's.
      wall_seconds: clock seconds, evaluations and saving included.
      evaluated_seconds: ``train_seconds`` at the last evaluation.
      rewinds: number of rewinds after divergence.
      sums: sum of each metric over the training steps since the last evaluation.
    """

    step: int = 0
    train_seconds: float = 0.0
    wall_seconds: float = 0.0
    evaluated_seconds: float = 0.0
    rewinds: int = 0
    sums: Mapping[str, float] = field(default_factory=dict)


def size(example: TrainState, *, replay: bool) -> int:
    """Bytes of a saved state with the shapes of the example, with or without its buffer."""
    example = example if replay else example.replace(replay=None)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(_plain, example)))


def snapshot(state: TrainState) -> TrainState:
    """Copy a state, or several on a leading axis, to host memory; random keys become their data.

    With several processes all must call this: the coordinator gets the copy, the workers None for every array. An array
    that is sharded over processes is replicated on each device while it is copied.

    The copy is needed on a CPU, where numpy would only get a view of memory that the next training step is donated.
    On other devices reading the array already copies it.
    """

    def copy(leaf: jax.Array) -> np.ndarray | None:
        leaf = gathered(leaf)
        if not hosts.is_coordinator():
            return None
        on_host = all(device.platform == "cpu" for device in leaf.devices())
        return np.array(leaf, order="C") if on_host else np.asarray(leaf)

    return jax.tree.map(copy, _plain(state))


def write(run: RunDirectory, env_steps: int, copied: TrainState, counters: Counters, before_it: int = 0) -> None:
    """Save a snapshot as the run's newest state; older states are removed once this one is complete.

    Args:
      run: the run directory.
      env_steps: environment steps so far, the name of the state.
      copied: result of ``snapshot``; saved without a buffer if its replay is None.
      counters: counters at the time of the snapshot.
      before_it: number of older states to keep.

    Raises:
      CrlvizError: it cannot be written; the previous state is intact.
    """
    path = run.path / "state" / str(env_steps)
    before = run.states()
    if path not in before:  # it exists if the run stops where it has just saved
        with atomic_files.directory(path) as folder:
            entry = checked_arrays.write(folder / "state.safetensors", _named(copied))
            more = {"counters": dataclasses.asdict(counters), "replay": copied.replay is not None}
            run.write_manifest(folder, path, {"state.safetensors": entry}, more)
    older = [old for old in before if old != path]
    for old in older[: max(0, len(older) - before_it)]:
        atomic_files.remove_directory(old)


@dataclass(frozen=True)
class Saved:
    """A verified state on disk.

    Attributes:
      path: its folder.
      counters: its counters.
      replay: whether it includes the buffer.
    """

    path: Path
    counters: Counters
    replay: bool


def verify(run: RunDirectory, path: Path) -> Saved:
    """Verify the checksums of a saved state and describe it, without reading its arrays.

    Args:
      run: the run.
      path: folder of the state, one of ``run.states()``.

    Raises:
      CrlvizError: a file is missing, or was changed since it was written.
    """
    manifest = run.read_manifest(path, {"counters": dict})
    try:
        checked_arrays.check(path, manifest, "state.safetensors")
        counters = _counters(manifest["counters"])
    except CrlvizError as error:
        raise CrlvizError(f"{error}; {_ADVICE}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CrlvizError(f"{path} is damaged or from another config ({error}); {_ADVICE}") from None
    return Saved(path, counters, manifest["replay"])


def read(saved: Sequence[Saved], example: TrainState, devices: Devices = ONE) -> TrainState:
    """Read saved states into one TrainState [slots, ...], one slot for each.

    Args:
      saved: results of ``verify``; all with a buffer or all without.
      example: a state of their config, or its shapes (``jax.eval_shape``).
      devices: devices to put them on; their number may differ from that at saving.

    Returns:
      The states; replay is None if they were saved without.

    Raises:
      CrlvizError: a state cannot be read, or belongs to another config.
    """
    placement = shardings(devices)
    if not saved[0].replay:
        example = example.replace(replay=None)
    absent = {name: None for name in ("replay", "collector") if getattr(example, name) is None}
    placement = placement.replace(**absent)
    with contextlib.ExitStack() as stack:
        files = {}
        for each in saved:
            with _naming(each.path):
                file = safetensors.safe_open(each.path / "state.safetensors", framework="numpy")
                files[each.path] = stack.enter_context(file)
        return _restored(example, placement, devices, files)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn errors about the arrays of a state into one sentence that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CrlvizError(f"{path} is damaged or from another config ({error}); {_ADVICE}") from None


def _counters(values: Mapping[str, Any]) -> Counters:
    """Counters from a manifest. Raises ``TypeError`` or ``ValueError`` for other fields or types."""
    counters = Counters(**values)
    for each in dataclasses.fields(Counters):
        if type(getattr(counters, each.name)) is not type(getattr(Counters(), each.name)):
            raise ValueError(f"{each.name} is {getattr(counters, each.name)!r}")
    return counters


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(tree: Any) -> Any:
    """The tree with each random key replaced by its data."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _current_name(name: str) -> str:
    """The current name of an array; an older crlviz spelled some differently."""
    return name.replace("optimiser", "optimizer")


def _restored(example: TrainState, placement: TrainState, devices: Devices, files: Mapping[Path, Any]) -> TrainState:
    """Read open files into the example's tree [files, ...], array by array, because the buffer is large."""
    leaf_shardings = jax.tree.map(
        lambda sharding, part: jax.tree.map(lambda _: sharding, part), placement, example, is_leaf=lambda x: x is None
    )
    shapes = _named(jax.eval_shape(_plain, example))
    for path, arrays in files.items():
        with _naming(path):
            if set(shapes) != set(map(_current_name, arrays.keys())):
                raise ValueError("it holds other arrays")
    stored = {path: {_current_name(name): name for name in list(arrays.keys())} for path, arrays in files.items()}

    def restore(position, leaf, sharding):
        name = jax.tree_util.keystr(position)
        expected, values = shapes[name], []
        for path, arrays in files.items():
            with _naming(path):
                value = arrays.get_tensor(stored[path][name])
                if (value.shape, value.dtype) != (expected.shape, expected.dtype):
                    found, wanted = f"{value.dtype}{list(value.shape)}", f"{expected.dtype}{list(expected.shape)}"
                    raise ValueError(f"{name} is {found}, not {wanted}")
                values.append(value)
        array = devices.device_put(np.stack(values) if len(values) > 1 else values[0][None], sharding)
        return jax.random.wrap_key_data(array) if _is_key(leaf) else array

    return jax.tree_util.tree_map_with_path(restore, example, leaf_shardings)
