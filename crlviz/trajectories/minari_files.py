"""Minari's data sets, read and written by Minari's library. Each is a directory, named in Minari's own folder.

Observations are a dictionary of observation, achieved and desired goal, as in gymnasium-robotics, where goals are
known. Only its storage is used: its ``MinariDataset`` may build an environment that the file names, which would run
code.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from crlviz.checkpoints import atomic_files
from crlviz.errors import CrlvizError, UsageError
from crlviz.trajectories import checks
from crlviz.trajectories.data import Trajectories, header, read_header

PREFIX = "minari:"
_NAMES = {"state": "observations", "action": "actions", "goal": "desired goals", "qpos": "qpos", "qvel": "qvel"}
_HEADER = "crlviz"  # name of our facts in the metadata
_INFOS = ("qpos", "qvel")


def read(path: Path) -> Trajectories:
    """Read a data set into memory.

    Raises:
      CrlvizError: it is damaged, has spaces other than vectors, or is too large for memory.
    """
    parts = list(blocks(path, 1 << 62))
    return parts[0]


def blocks(path: Path, rows: int) -> Iterator[Trajectories]:
    """Read whole trajectories in order, about ``rows`` rows at a time.

    Raises:
      CrlvizError: as ``read``.
    """
    minari = _library()
    with checks.one_sentence(path):
        metadata = _metadata(path)
        storage = minari.dataset.minari_storage.MinariStorage.read(folder(path) / "data")
        facts = read_header(metadata[_HEADER]) if _HEADER in metadata else {}
        episodes: list[dict[str, np.ndarray]] = []
        count, total = 0, int(storage.total_episodes)
        if rows > storage.total_steps and not checks.fits(_bytes(storage)):
            raise CrlvizError(
                f"{path} takes more than half of the free memory; convert it: crlviz record --from {path}"
            )
        for number, episode in enumerate(storage.get_episodes(range(total))):
            episodes.append(_arrays(path, episode))
            count += len(episodes[-1]["state"])
            if count >= rows or number == total - 1:
                block = _block(path, episodes, facts)
                facts = {"goal_indices": block.goal_indices} | facts
                yield block
                episodes, count = [], 0
        if not total:
            raise CrlvizError(f"{path} holds no trajectory")


def write(path: Path, parts: Iterable[Trajectories]) -> None:
    """Write a new data set, in blocks, in one atomic step.

    Raises:
      UsageError: there is one of this name.
      CrlvizError: it cannot be written.
    """
    minari = _library()
    place = folder(path)
    check_writable(path)
    namespace = minari.dataset.minari_dataset.parse_dataset_id(_name(path))[0]
    if namespace is not None and namespace not in minari.namespace.list_local_namespaces():
        minari.namespace.create_namespace(namespace)
    atomic_files.make_directory(place.parent)
    with atomic_files.directory(place) as temporary:
        storage = None
        for block in parts:
            if storage is None:
                storage = _new(minari, temporary / "data", _name(path), block)
            with checks.disk_errors():
                storage.update_episodes(_buffers(minari, block))


def check_writable(path: Path) -> None:
    """Check that a data set of this name can be written.

    Raises:
      UsageError: the name does not have Minari's form, or there is one of this name.
    """
    minari = _library()
    try:
        minari.dataset.minari_dataset.parse_dataset_id(_name(path))
    except (ValueError, TypeError):  # TypeError: no version
        raise UsageError(f"{path}: Minari's names are NAMESPACE/NAME-v0, such as minari:mazes/walk-v0") from None
    if folder(path).exists():
        raise UsageError(f"{folder(path)} exists already: raise the version behind -v, or delete it")


def folder(path: Path) -> Path:
    """The directory of a data set: that of its name in Minari's folder, or itself."""
    return Path(_library().storage.get_dataset_path(_name(path))) if is_name(path) else path


def is_name(path: str | Path) -> bool:
    """Whether this is a name in Minari's folder, rather than a directory."""
    return str(path).startswith(PREFIX)


def _name(path: Path) -> str:
    return str(path).removeprefix(PREFIX)


def _library() -> ModuleType:
    try:
        import h5py  # noqa: F401  # Minari's format needs it
        import minari
        import minari.namespace
        import minari.storage
    except ImportError:
        raise UsageError("this needs Minari: pip install 'crlviz[minari]'") from None
    return minari


def _metadata(path: Path) -> dict[str, Any]:
    """The data set's metadata; both spaces must be there, or Minari would build the environment that it names."""
    file = folder(path) / "data" / "metadata.json"
    if not file.is_file():
        raise CrlvizError(f"{path} is not a data set of Minari: there is no {file}")
    metadata = json.loads(file.read_text(encoding="utf-8"))
    if not all(isinstance(metadata.get(name), str) for name in ("observation_space", "action_space")):
        raise CrlvizError(f"{path} does not record its spaces; only data sets that do are read")
    return metadata


def _bytes(storage: Any) -> int:
    """About how much its arrays take in memory."""
    import gymnasium

    spaces = (storage.observation_space, storage.action_space)
    return 4 * int(storage.total_steps) * sum(gymnasium.spaces.flatdim(space) for space in spaces)


def _arrays(path: Path, episode: dict[str, Any]) -> dict[str, np.ndarray]:
    """The rows of an episode."""
    observations, action = episode["observations"], np.asarray(episode["actions"])
    arrays: dict[str, Any] = {"state": observations}
    if isinstance(observations, dict):
        wanted = {"observation": "state", "achieved_goal": "achieved", "desired_goal": "goal"}
        if set(wanted) != set(observations):
            raise CrlvizError(f"{path} has observations {', '.join(observations)}; only {', '.join(wanted)} are read")
        arrays = {name: observations[theirs] for theirs, name in wanted.items()}
    infos = episode.get("infos") or {}
    arrays |= {name: infos[name] for name in _INFOS if name in infos}
    if action.ndim != 2:
        raise CrlvizError(f"{path} has actions of shape {action.shape}; only [steps, numbers] are read")
    # It has one action less than observations: the last row gets one that is not used.
    arrays["action"] = np.concatenate([action, np.zeros_like(action[:1])])
    return {name: np.asarray(array) for name, array in arrays.items()}


def _block(path: Path, episodes: list[dict[str, np.ndarray]], facts: dict[str, Any]) -> Trajectories:
    """Episodes as trajectories."""
    lengths = [len(episode["state"]) for episode in episodes]
    arrays: dict[str, Any] = {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]}
    achieved = arrays.pop("achieved", None)
    checks.check_shapes(path, arrays, _NAMES)
    arrays = {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}
    indices = facts.get("goal_indices")
    if achieved is not None and indices is None:
        indices = _columns(arrays["state"], achieved)
    if achieved is not None and (indices is None or max(indices) >= arrays["state"].shape[1]):
        # The state does not hold the achieved goal, as with gymnasium-robotics' ants: put it first.
        arrays["state"] = np.concatenate([achieved.astype(np.float32), arrays["state"]], axis=1)
        indices = tuple(range(achieved.shape[1]))
    ends = np.cumsum(lengths) - 1
    checks.check_ends(path, ends, len(arrays["state"]))
    checks.check_values(path, arrays, _NAMES)
    return Trajectories(ends=ends, source=path, **arrays, **(facts | {"goal_indices": indices}))


def _columns(state: np.ndarray, achieved: np.ndarray) -> tuple[int, ...] | None:
    """The columns of states that are the achieved goal; None: not all are there."""
    found = []
    for goal in achieved.astype(np.float32).T:
        same = np.flatnonzero((state == goal[:, None]).all(0))
        if not len(same):
            return None
        found.append(int(same[0]))
    return tuple(found)


def _new(minari: ModuleType, place: Path, name: str, block: Trajectories) -> Any:
    """Create a data set's storage, with spaces, facts, and the environment that its ``recover_environment`` builds."""
    from gymnasium import spaces
    from gymnasium.envs.registration import EnvSpec

    def vector(width: int) -> spaces.Box:
        return spaces.Box(-math.inf, math.inf, (width,), np.float32)

    ours = bool(block.env) and "code" in block.made
    options = {"env_id": block.env, **dict(block.made.get("env_options", {}))}
    if "layout" in block.made:
        options["layout"] = block.made["layout"]
    observation: Any = vector(block.state.shape[1])
    if block.goal is not None and block.goal_indices is not None:
        goal = vector(block.goal.shape[1])
        observation = spaces.Dict({"observation": observation, "achieved_goal": goal, "desired_goal": goal})
    storage = minari.dataset.minari_storage.MinariStorage.new(
        place,
        observation_space=observation,
        action_space=spaces.Box(-1, 1, (block.action.shape[1],), np.float32),
        env_spec=EnvSpec(f"crlviz/{block.env}-v0", "crlviz.gymnasium_env:GymnasiumEnv", kwargs=options)
        if ours
        else None,
        data_format="hdf5",
    )
    description = f"trajectories in {block.env or 'an unknown environment'}"
    facts = {"dataset_id": name, "minari_version": minari.__version__, "description": description}
    storage.update_metadata(facts | {_HEADER: header(replace(block, source=Path()))})
    return storage


def _buffers(minari: ModuleType, block: Trajectories) -> Iterator[Any]:
    """Trajectories as Minari's episodes. The reward is 1 within the success distance, where the file tells it."""
    most, within = block.made.get("length"), block.made.get("goal_distance")
    for first, last in zip(block.starts, block.ends, strict=True):
        rows, steps = slice(first, last + 1), int(last - first)
        state = np.asarray(block.state[rows])
        observations: Any = state
        rewards = np.zeros(steps, np.float32)
        if block.goal is not None and block.goal_indices is not None:
            goal, achieved = np.asarray(block.goal[rows]), state[:, list(block.goal_indices)]
            observations = {"observation": state, "achieved_goal": achieved, "desired_goal": goal}
            if within is not None:
                rewards = (np.linalg.norm(achieved[1:] - goal[1:], axis=1) < within).astype(np.float32)
        ended = np.zeros(steps, bool)
        ended[-1] = True
        fell = most is not None and steps < most
        infos = {name: np.asarray(array[rows]) for name, array in block.per_row.items() if name in _INFOS}
        yield minari.data_collector.EpisodeBuffer(
            observations=observations,
            actions=np.asarray(block.action[first:last]),
            rewards=list(rewards),
            terminations=ended if fell else np.zeros(steps, bool),
            truncations=np.zeros(steps, bool) if fell else ended,
            infos=infos or None,
        )
