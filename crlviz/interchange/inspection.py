"""``crlviz inspect``: what is in a checkpoint, and is it whole?"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from crlviz.checkpoints import run_directory
from crlviz.errors import CrlvizError
from crlviz.escaping import printable


@click.command()
@click.argument("checkpoint", metavar="CKPT", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Read and check every file instead; of a run, of all its checkpoints.")
def command(checkpoint: Path, verify: bool) -> None:
    """Print what is in a checkpoint: environment, networks, parameters, training so far, versions.

    \b
    Example: crlviz inspect runs/d16
    """
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
    """The same as text. Every array is read and checked."""
    from crlviz import agent  # jax, which the help does not need

    found = run_directory.find(path)
    # Whole, and fit for its config: what is printed is true.
    agent.load(found.path)
    config = found.config["config"]
    updates, batch, other = found.manifest["gradient_steps"], config["batch_size"], config["eval_env"]
    lines = [
        f"checkpoint  {found.path}",
        f"algorithm   {found.config['algorithm']}",
        f"environment {config['env']}" + (f", evaluated on {other}" if other not in ("", config["env"]) else ""),
        f"trained     {found.env_steps:,} environment steps, "
        f"{'unknown' if updates is None else format(updates, ',')} updates, seed {config['seed']}, "
        f"batch {batch or 'unknown'}",
    ]
    if options := config.get("env_options"):
        lines.insert(3, f"  options   {', '.join(f'{name} {value}' for name, value in options.items())}")
    if config["layout"]:
        lines += ["layout", *(f"  {row}" for row in config["layout"])]
    lines.append(f"{'network':12}{'parameters':>12}  shape")
    for name in ("actor", "critic"):
        params = run_directory.read(found, name)
        network = config[name]
        switches = [] if network["layer_norm"] else ["no LayerNorm"]
        switches += [] if network["residual"] else ["no residual"]
        switches += [f"the last {network['tail']} layers plain"] if network.get("tail") else []
        shape = ", ".join([f"depth {network['depth']}, width {network['width']}, {network['activation']}", *switches])
        for part, tree in ((name, params),) if name == "actor" else sorted(params.items()):
            lines.append(f"{part:12}{_size(tree):12,}  {shape}")
    if "temperature.safetensors" in found.files:
        (log_alpha,) = run_directory.read(found, "temperature", most_bytes=8).values()
        lines.append(f"temperature {np.exp(log_alpha).item():12.4g}")
    # A file from elsewhere shall not write to the terminal what it likes.
    return "\n".join(map(printable, lines + _origin(found)))


def _origin(found: run_directory.Checkpoint) -> list[str]:
    """Where a run comes from: versions, device, source code, command; how it went on; and what else it holds."""
    config = found.config
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
            lines.append(
                f"resumed     at environment step {_words(part.get('env_steps'))}: {_words(part.get('command'))}"
            )
            lines += [f"            {name} {_words(value)}" for name, value in _changed(part, config)]
    steps, states = run_directory.all_steps(found.run), run_directory.numbered(found.run / "state")
    if len(steps) > 1:
        lines.append(f"{len(steps)} checkpoints in this run: {steps[0]:,} to {steps[-1]:,} environment steps")
    if states:
        more = f"crlviz train --resume {found.run}"
        if run_directory.finished(found.run, config):
            lines.append(f"finished; to train longer: {more} --env-steps N")
        else:
            lines.append(f"unfinished: saved at environment step {int(states[-1].name):,}; go on with: {more}")
    return lines


def _changed(part: dict[str, Any], config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Where a run went on otherwise than it began: the versions that differ, the device, the source code."""
    before, after = (each["versions"] if isinstance(each.get("versions"), dict) else {} for each in (config, part))
    if other := {name: value for name, value in after.items() if value != before.get(name)}:
        yield "made with", other
    if _device(part) != _device(config):
        yield "on", _device(part)
    if part.get("git") != config.get("git"):
        yield "source", part.get("git") or None


def _device(config: dict[str, Any]) -> Any:
    """What trained, and how many of them where that is more than one."""
    device, count = config.get("device"), config.get("devices", 1)
    return device if count == 1 or not device else {"devices": count, "each": device}


def check(path: Path) -> Iterator[tuple[Path, str]]:
    """Check every file of a checkpoint, or of all of a run's.

    Yields:
      A file, and what is wrong with it in a sentence, or nothing; for a checkpoint whose files are whole also the
      directory, and whether its arrays are those that config.json describes; for a run also its saved state.

    Raises:
      CrlvizError: there is neither a checkpoint nor a saved state.
    """
    run, places = run_directory.places_at(path)
    states = run_directory.numbered(run / "state") if path == run else []
    if not places and not states:
        raise CrlvizError(f"{run} holds no checkpoint yet")
    fault = _fault(run_directory.read_config, run)
    yield run / "config.json", fault
    if fault:
        return
    for place in places:
        fault = _fault(run_directory.find, place)
        yield place / "manifest.json", fault
        if not fault:
            yield from _check_files(run_directory.find(place))
    for place in states:
        yield place, _fault(_check_state, place, run)


def _check_state(place: Path, run: Path) -> None:
    """What only resuming reads (training/state.py) is checked by its checksums: it can be many gigabytes."""
    manifest = run_directory.read_manifest(place, run, run_directory.read_config(run), {})
    for name in manifest["files"]:
        run_directory.check_file(place, manifest, name)


def _check_files(found: run_directory.Checkpoint) -> Iterator[tuple[Path, str]]:
    from crlviz import agent  # jax, which the help does not need

    try:
        sizes = agent.array_bytes(found)
    except CrlvizError as error:
        yield found.path, str(error)
        return
    whole = True
    for name in found.files:
        # What else there may be is not larger than the networks.
        most = sizes.get(name.removesuffix(".safetensors"), sum(sizes.values()))
        fault = _fault(run_directory.read_checked, found, name, most)
        yield found.path / name, fault
        whole &= not fault
    if whole:
        yield found.path, _fault(agent.load, found.path)


def _fault(read: Callable[..., Any], *arguments: Any) -> str:
    try:
        read(*arguments)
    except CrlvizError as error:
        return str(error)
    return ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _words(value: Any) -> str:
    """A value of config.json on one line, whatever it holds; what is not known is left out."""
    if isinstance(value, dict):
        return ", ".join(f"{_words(name)} {_words(part)}" for name, part in value.items() if part is not None)
    if isinstance(value, list):
        return " ".join(map(_words, value))
    return "unknown" if value is None else str(value)


def _size(tree) -> int:
    return sum(_size(leaf) if isinstance(leaf, dict) else leaf.size for leaf in tree.values())
