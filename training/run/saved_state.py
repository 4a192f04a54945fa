"""All that a run is at one moment, on disk: what resuming needs and a checkpoint does not hold.

    RUN/state/<env_steps>/state.safetensors    every array of the TrainState, named by its place in the tree
    RUN/state/<env_steps>/manifest.json        its checksum, the counters, and checksums of both and of the settings

Random keys are kept as their data. Only the newest state stays: it can be many gigabytes, nearly all of them replay.
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

from crlviz.checkpoints import atomic_files, run_directory
from crlviz.errors import CrlvizError
from training.loop.train_loop import TrainState, shardings
from training.run import hosts
from training.sharding import ONE, Devices, gathered


@dataclass(frozen=True)
class Counters:
    """What the host counts beside a TrainState.

    Attributes:
      step: training steps done.
      train_seconds: spent in them; of a group in lockstep, this member's equal share.
      wall_seconds: by the clock, evaluations and saving included.
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

    Of one state, or of several on a leading axis. Of several processes all call this, the first gets the copy, and
    the others None for every array; an array of which each has a part is whole on each device while it is copied.

    The one extra copy there ever is: on a CPU numpy would only look at the buffer that the next training step is given
    to write in; elsewhere reading it is the copy.
    """

    def copy(leaf: jax.Array) -> np.ndarray | None:
        leaf = gathered(leaf)
        if not hosts.is_coordinator():
            return None
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
    before = run_directory.numbered(run / "state")
    if path not in before:  # a run that was stopped where it had just saved
        with atomic_files.directory(path) as folder:
            entry = run_directory.write_arrays(folder / "state.safetensors", _named(copied))
            more = {"counters": dataclasses.asdict(counters), "replay": copied.replay is not None}
            run_directory.write_manifest(folder, path, {"state.safetensors": entry}, more)
    for old in before:
        if old != path:
            atomic_files.remove_directory(old)


def newest(run: Path) -> Path | None:
    """The state to resume from, if there is one."""
    found = run_directory.numbered(run / "state")
    return found[-1] if found else None


def remove(run: Path) -> None:
    """Remove a finished run's state."""
    if (run / "state").exists():
        atomic_files.remove_directory(run / "state")


@dataclass(frozen=True)
class Saved:
    """A state on disk that is whole: where, its counters, and whether it holds replay."""

    path: Path
    counters: Counters
    replay: bool


def look(path: Path) -> Saved:
    """What a saved state is, its checksum checked, without its arrays.

    Args:
      path: of ``newest``.

    Raises:
      CrlvizError: missing, or changed since it was written.
    """
    run, advice = path.parent.parent, "train anew in another directory"
    manifest = run_directory.read_manifest(path, run, run_directory.read_config(run), {"counters": dict})
    try:
        run_directory.check_file(path, manifest, "state.safetensors")
        counters = _counters(manifest["counters"])
    except CrlvizError as error:
        raise CrlvizError(f"{error}; {advice}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CrlvizError(f"{path} is damaged or of another config ({error}); {advice}") from None
    return Saved(path, counters, manifest["replay"])


def read(saved: Sequence[Saved], example: TrainState, devices: Devices = ONE) -> TrainState:
    """Saved states of as many members, [members, ...].

    Args:
      saved: of ``look``; all with replay or all without.
      example: a state of their config, or its shapes (``jax.eval_shape``).
      devices: where to put them. It makes no difference how many there were when the states were saved.

    Returns:
      The states, with replay None if they were saved without.

    Raises:
      CrlvizError: a state cannot be read, or is of another config.
    """
    wanted, lies = example, shardings(devices)
    if not saved[0].replay:
        wanted, lies = wanted.replace(replay=None), lies.replace(replay=None)
    with contextlib.ExitStack() as stack:
        opened = {}
        for each in saved:
            with _naming(each.path):
                file = safetensors.safe_open(each.path / "state.safetensors", framework="numpy")
                opened[each.path] = stack.enter_context(file)
        return _restored(wanted, lies, devices, opened)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What is wrong with the arrays of a state as one sentence that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        advice = "train anew in another directory"
        raise CrlvizError(f"{path} is damaged or of another config ({error}); {advice}") from None


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


def _today(name: str) -> str:
    """The name of an array that an older crlviz may have spelled otherwise."""
    return name.replace("optimiser", "optimizer")


def _restored(example: TrainState, lies: TrainState, devices: Devices, opened: Mapping[Path, Any]) -> TrainState:
    """The arrays of open files in the example's tree, [files, ...], one after the other: replay is large."""
    each = jax.tree.map(lambda lie, part: jax.tree.map(lambda _: lie, part), lies, example, is_leaf=lambda x: x is None)
    shapes = _named(jax.eval_shape(_plain, example))
    for path, arrays in opened.items():
        with _naming(path):
            if set(shapes) != set(map(_today, arrays.keys())):
                raise ValueError("it holds other arrays")
    then = {path: {_today(name): name for name in list(arrays.keys())} for path, arrays in opened.items()}

    def restore(place, leaf, lie):
        name = jax.tree_util.keystr(place)
        shape, values = shapes[name], []
        for path, arrays in opened.items():
            with _naming(path):
                value = arrays.get_tensor(then[path][name])
                if (value.shape, value.dtype) != (shape.shape, shape.dtype):
                    here, there = f"{value.dtype}{list(value.shape)}", f"{shape.dtype}{list(shape.shape)}"
                    raise ValueError(f"{name} is {here}, not {there}")
                values.append(value)
        whole = devices.device_put(np.stack(values) if len(values) > 1 else values[0][None], lie)
        return jax.random.wrap_key_data(whole) if _is_key(leaf) else whole

    return jax.tree_util.tree_map_with_path(restore, example, each)
