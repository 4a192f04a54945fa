"""``crlviz inspect``: what is in a checkpoint."""

from pathlib import Path

import click

from crlviz import checkpoints


@click.command()
@click.argument("checkpoint", metavar="CKPT", type=click.Path(path_type=Path))
def command(checkpoint: Path) -> None:
    """Print what is in a checkpoint: environment, networks, parameters, training so far, versions.

    \b
    Example: crlviz inspect runs/d16
    """
    click.echo(describe(checkpoint))


def describe(path: Path) -> str:
    """The same as text. Every array is read and checked."""
    found = checkpoints.find(path)
    config = found.config["config"]
    lines = [
        f"checkpoint  {found.path}",
        f"algorithm   {found.config['algorithm']}",
        f"environment {config['env']}" + (f", evaluated on {config['eval_env']}" if config["eval_env"] else ""),
        f"trained     {found.env_steps:,} environment steps, {found.manifest['gradient_steps']:,} updates, "
        f"seed {config['seed']}, batch {config['batch_size']}",
    ]
    if config["layout"]:
        lines += ["layout", *(f"  {row}" for row in config["layout"])]
    lines.append(f"{'network':12}{'parameters':>12}  shape")
    for name in ("actor", "critic"):
        params = checkpoints.read(found, name)
        network = config[name]
        switches = [] if network["layer_norm"] else ["no LayerNorm"]
        switches += [] if network["residual"] else ["no residual"]
        shape = ", ".join([f"depth {network['depth']}, width {network['width']}, {network['activation']}", *switches])
        for part, tree in ((name, params),) if name == "actor" else params.items():
            lines.append(f"{part:12}{_size(tree):12,}  {shape}")
    versions = ", ".join(f"{name} {version}" for name, version in found.config.get("versions", {}).items() if version)
    lines += [f"made with   {versions}", f"on          {found.config.get('device', 'unknown')}"]
    if found.config.get("command"):
        lines.append(f"by          {' '.join(found.config['command'])}")
    steps = checkpoints.all_steps(found.run)
    lines.append(f"{len(steps)} checkpoints in this run: {steps[0]:,} to {steps[-1]:,} environment steps")
    return "\n".join(lines)


def _size(tree) -> int:
    return sum(_size(leaf) if isinstance(leaf, dict) else leaf.size for leaf in tree.values())
