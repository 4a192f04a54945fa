"""``crlviz inspect``: describe a checkpoint or a file of trajectories, and verify files."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from crlviz.checkpoints import checked_arrays
from crlviz.checkpoints.checkpoint import Checkpoint, checkpoints_at, open_checkpoint
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError
from crlviz.escaping import printable
from crlviz.networks.config import STARTS
from crlviz.trajectories import files


@click.command()
@click.argument("checkpoint", metavar="CKPT|FILE", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Read and check every file instead; for a run, those of all checkpoints.")
def command(checkpoint: Path, verify: bool) -> None:
    """Print what is in a checkpoint: environment, networks, parameters, training so far, versions. Or in a file of
    trajectories: size, lengths, coverage, who acted.

    \b
    Example: crlviz inspect runs/d16
    Example: crlviz inspect walk.nc
    """
    if files.are(checkpoint):
        from crlviz.trajectories import description

        click.echo(f"ok   {printable(files.checked(checkpoint))}" if verify else description.describe(checkpoint))
        return
    if not verify:
        click.echo(describe(checkpoint))
        return
    bad = count = 0
    for path, fault in check(checkpoint):
        click.echo(printable(f"BAD  {fault}" if fault else f"ok   {path}"))
        bad, count = bad + bool(fault), count + 1
    if bad:
        raise CrlvizError(f"{bad} of {count} checks of {checkpoint} failed")


def describe(path: Path) -> str:
    """The text that ``crlviz inspect`` prints. Reads and checks every array.

    Raises:
      CrlvizError: there is no checkpoint at ``path``, or it is damaged.
    """
    from crlviz import agent  # imports jax, which --help must not

    checkpoint = open_checkpoint(path)
    # Checks that the arrays are complete and match the config, so that what is printed is true.
    networks = agent.load(checkpoint.path).params
    config = checkpoint.config["config"]
    batch, eval_env = config["batch_size"], config["eval_env"]
    evaluated = f", evaluated on {eval_env}" if eval_env not in ("", config["env"]) else ""
    lines = [
        f"checkpoint  {checkpoint.path}",
        f"algorithm   {checkpoint.config['algorithm']}",
        f"environment {config['env'] or 'none'}{evaluated}",
        f"trained     {_trained(checkpoint)}, seed {config['seed']}, batch {batch or 'unknown'}",
    ]
    if data := config.get("dataset"):
        file = f"{data['path']}, {data['rows']:,} rows, {data['trajectories']:,} trajectories of {data['name']}"
        lines.insert(3, f"data set    {file}")
    if options := config.get("env_options"):
        lines.insert(3, f"  options   {', '.join(f'{name} {value}' for name, value in options.items())}")
    if config["layout"]:
        lines += ["layout", *(f"  {row}" for row in config["layout"])]
    lines.append(f"{'network':12}{'parameters':>12}  shape")
    for name, params in networks.items():
        network = config[name]
        switches = ["MLP"] if network.get("kind") == "mlp" else []
        switches += [] if network["layer_norm"] else ["no LayerNorm"]
        switches += [] if network["residual"] else ["no residual"]
        switches += [f"the last {network['tail']} layers plain"] if network.get("tail") else []
        switches += ["hyperspherical"] if network.get("sphere") else []
        start = network.get("start", "paper")
        switches += ["LayerNorm before the heads"] if STARTS[start].norm else []
        switches += [] if start == "paper" else [f"begun {start}"]
        shape = ", ".join([f"depth {network['depth']}, width {network['width']}, {network['activation']}", *switches])
        parts = {name: params} if "stem" in params else {part: params[part] for part in sorted(params)}
        log_scale = parts.pop("log_scale", None)
        lines += [
            f"{part:12}{_size(tree):12,}  {shape}" if "stem" in tree else f"{part:12}{_size({part: tree}):12,}"
            for part, tree in parts.items()
        ]
        if log_scale is not None:
            lines.append(f"softmax temperature {np.exp(-log_scale).item():.4g}, learned")
    if "temperature.safetensors" in checkpoint.files:
        (log_alpha,) = checkpoint.read("temperature", max_bytes=8).values()
        lines.append(f"temperature {np.exp(log_alpha).item():12.4g}")
    # A file from elsewhere must not send control characters to the terminal.
    return "\n".join(map(printable, lines + _origin(checkpoint)))


def _trained(checkpoint: Checkpoint) -> str:
    """How much, in words."""
    updates = checkpoint.manifest["gradient_steps"]
    known = f"{'unknown' if updates is None else format(updates, ',')} updates"
    if "dataset" in checkpoint.config["config"]:
        return f"{known} on a data set"
    return f"{checkpoint.env_steps:,} environment steps, {known}"


def _origin(checkpoint: Checkpoint) -> list[str]:
    """Lines on a run's provenance (versions, device, source code, command, resumptions), checkpoints and state."""
    config = checkpoint.config
    unit, length = ("updates", "gradient") if "dataset" in config["config"] else ("environment steps", "env")
    lines = [f"made with   {_words(config.get('versions'))}"]
    if device := _device(config):
        lines.append(f"on          {_words(device)}")
    if git := config.get("git"):
        lines.append(f"source      {_words(git)}")
    if isinstance(origin := config.get("imported"), dict):
        lines.append(f"imported    from {_words(origin.get('code'))}: {_words(origin.get('files'))}")
        lines += [f"            {_words(note)}" for note in _list(origin.get("notes"))]
    if command := config.get("command"):
        lines.append(f"by          {_words(command)}")
    for part in _list(config.get("resumed")):
        if isinstance(part, dict):
            lines.append(f"resumed     at {unit[:-1]} {_words(part.get('env_steps'))}: {_words(part.get('command'))}")
            lines += [f"            {name} {_words(value)}" for name, value in _changed(part, config)]
    run = checkpoint.run
    steps, states = run.checkpoint_steps(), run.states()
    if len(steps) > 1:
        lines.append(f"{len(steps)} checkpoints in this run: {steps[0]:,} to {steps[-1]:,} {unit}")
    if states:
        resume = f"crlviz train --resume {run.path}"
        if run.finished():
            lines.append(f"finished; to train longer: {resume} --{length}-steps N")
        else:
            lines.append(f"unfinished: saved at environment step {int(states[-1].name):,}; go on with: {resume}")
    return lines


def _changed(part: dict[str, Any], config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What changed when a run was resumed: package versions, device, source code, as (label, value)."""
    before, after = (each["versions"] if isinstance(each.get("versions"), dict) else {} for each in (config, part))
    if changed := {name: value for name, value in after.items() if value != before.get(name)}:
        yield "made with", changed
    if _device(part) != _device(config):
        yield "on", _device(part)
    if part.get("git") != config.get("git"):
        yield "source", part.get("git") or None


def _device(config: dict[str, Any]) -> Any:
    """The device that trained, and the number of devices if there is more than one."""
    device, count = config.get("device"), config.get("devices", 1)
    return device if count == 1 or not device else {"devices": count, "each": device}


def check(path: Path) -> Iterator[tuple[Path, str]]:
    """Check every file of a checkpoint, or of all checkpoints and saved states of a run.

    Yields:
      (path, fault): each file, and a sentence that says what is wrong with it, or "". If all files of a checkpoint are
      intact, also its directory, with a fault if the arrays do not match config.json. For a run also its saved states.

    Raises:
      CrlvizError: there is neither a checkpoint nor a saved state.
    """
    run, places = checkpoints_at(path)
    states = run.states() if path == run.path else []
    if not places and not states:
        raise CrlvizError(f"{run.path} holds no checkpoint yet")
    fault = _fault(run.read_config)
    yield run.config_file, fault
    if fault:
        return
    for place in places:
        fault = _fault(open_checkpoint, place)
        yield place / "manifest.json", fault
        if not fault:
            yield from _check_files(open_checkpoint(place))
    for place in states:
        yield place, _fault(_check_state, place, run)


def _check_state(place: Path, run: RunDirectory) -> None:
    """Check a saved state (training/run/saved_state.py) by its checksums only, as it can be many gigabytes."""
    manifest = run.read_manifest(place, {})
    for name in manifest["files"]:
        checked_arrays.check(place, manifest, name)


def _check_files(checkpoint: Checkpoint) -> Iterator[tuple[Path, str]]:
    from crlviz import agent  # imports jax, which --help must not

    try:
        sizes = agent.array_bytes(checkpoint)
    except CrlvizError as error:
        yield checkpoint.path, str(error)
        return
    intact = True
    for name in checkpoint.files:
        # Any further file is not larger than the networks.
        most = sizes.get(name.removesuffix(".safetensors"), sum(sizes.values()))
        fault = _fault(checkpoint.check, name, most)
        yield checkpoint.path / name, fault
        intact &= not fault
    if intact:
        yield checkpoint.path, _fault(agent.load, checkpoint.path)


def _fault(read: Callable[..., Any], *arguments: Any) -> str:
    """The message of the CrlvizError that ``read`` raises, or ""."""
    try:
        read(*arguments)
    except CrlvizError as error:
        return str(error)
    return ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _words(value: Any) -> str:
    """Any JSON value as one line of text; fields that are None are left out."""
    if isinstance(value, dict):
        return ", ".join(f"{_words(name)} {_words(part)}" for name, part in value.items() if part is not None)
    if isinstance(value, list):
        return " ".join(map(_words, value))
    return "unknown" if value is None else str(value)


def _size(tree: Mapping[str, Any]) -> int:
    """Number of parameters in a tree of arrays."""
    return sum(_size(leaf) if isinstance(leaf, dict) else leaf.size for leaf in tree.values())
