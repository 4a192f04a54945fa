"""What the documentation takes from the code while it is built, so that it cannot say otherwise.

A page holds a line such as ``<!-- generated: settings -->``, and the function of that name below gives what stands in
its place. Outside the site the line is invisible, and the text around it says where to ask instead.
"""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
# What a user calls, beside what ``crlviz`` itself exports and the analyses' compute and plot.
TRAINING = {"training.config": ("preset", "replace"), "training.trainer": ("train", "resume")}
DATA = {
    "crlviz.trajectories.files": ("read", "blocks", "write"),
    "crlviz.trajectories.data": ("Trajectories",),
    "crlviz.trajectories.recording": ("Source", "record"),
    "crlviz.envs": ("make", "gymnasium"),
}


def fill(app: Any, page: str, source: list[str]) -> None:
    """Called by Sphinx for every page it has read, whose text is the list's one entry."""
    source[0] = MARKER.sub(lambda found: GENERATED[found[1]](), source[0])


def play(app: Any, error: Exception | None) -> None:
    """Called by Sphinx at the end of a build: two agents of the examples live in a page beside the front page."""
    from crlviz.agent import load_all
    from crlviz.browser import play_page

    if error is None and app.builder.name == "html":
        page = play_page.page(load_all([ROOT / "examples" / name for name in ("depth4", "depth16")]))
        (Path(app.outdir) / "play.html").write_text(page, encoding="utf-8")


def commands() -> str:
    """Every verb: its usage, its help, and its options, as the command itself has them."""
    from crlviz.cli import VERBS, cli

    parts = []
    for verb in VERBS:
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        context = click.Context(command, info_name=verb, parent=click.Context(cli, info_name="crlviz"))
        usage = command.get_usage(context).removeprefix("Usage: ")
        records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
        rows = [record for record in records if record and record[1]]  # arguments stand in the usage alone
        parts += [f"## {verb}", f"```\n{usage}\n```", _help(command.help or ""), _table(("option", "what"), rows)]
    return "\n\n".join(parts)


def settings() -> str:
    """Every setting: its name, its value in each preset, and what its class says of it."""
    from training.config import PRESETS, TrainConfig, replace

    default = TrainConfig(env="")
    presets = {name: replace(default, changes) for name, changes in PRESETS.items()}
    parts = []
    for title, config, prefix in _configs(default):
        meanings = attributes(type(config))
        rows = []
        for name in (f.name for f in dataclasses.fields(config)):
            if not dataclasses.is_dataclass(getattr(config, name)):
                values = [f"`{_value(_at(preset, prefix + name))}`" for preset in presets.values()]
                rows.append((prefix + name, *values, meanings[name]))
        parts += [f"## {title}", _table(("setting", *presets, "what"), rows)]
    return "\n\n".join(parts)


def names_elsewhere() -> str:
    """Settings that JaxGCRL, brax or the paper's code call otherwise."""
    from training.names_elsewhere import NAMES_ELSEWHERE

    return _table(("there", "here"), [(other, f"`{own}`") for other, own in NAMES_ELSEWHERE.items()])


def renamed_options() -> str:
    """The old names of options that still work, from the commands themselves."""
    from crlviz.cli import VERBS, cli

    rows = []
    for verb in VERBS:
        command = cli.get_command(click.Context(cli), verb)
        rows += [(verb, f"`{old}`", f"`{new}`") for old, new in getattr(command, "old_options", {}).items()]
    return _table(("verb", "old", "now"), rows)


def renamed_variables() -> str:
    """Variables of data sets that an older crlviz called otherwise."""
    from crlviz.datasets import OLD_NAMES

    return _table(("old", "now"), [(old, f"`{new}`") for old, new in OLD_NAMES.items()])


def environments() -> str:
    """The table of ``crlviz envs``."""
    from crlviz.rendering.envs_command import table

    rows = table()
    heads = {
        "state": "state",
        "goal": "goal",
        "action": "action",
        "physics": "physics",
        "threshold": "success within (m)",
        "episode": "episode (steps)",
        "goals": "goals in the maze",
        "paper": "in the paper's table 1",
    }
    cells = [(row["id"], *(_cell(row[name]) for name in heads)) for row in rows]
    return _table(("environment", *heads.values()), cells)


def python() -> str:
    """What one calls from Python, with signatures and docstrings."""
    import crlviz
    from crlviz.cli import VERBS

    parts = ["## Load and run agents"]
    names = [name for name in crlviz.__all__ if not name.startswith("__")]
    parts += [_directive(f"{getattr(crlviz, name).__module__}.{name}") for name in names]
    parts += ["## Train"]
    parts += [_directive(f"{module}.{name}") for module, functions in TRAINING.items() for name in functions]
    parts += ["## Trajectories and environments"]
    parts += [_directive(f"{module}.{name}") for module, functions in DATA.items() for name in functions]
    parts += ["## Analyses"]
    for verb, (where, _) in VERBS.items():
        name = where.partition(":")[0]
        module = importlib.import_module(name)
        if name.startswith("analyses.") and hasattr(module, "compute") and hasattr(module, "plot"):
            home = module.compute.__module__  # a verb's command may have a module of its own
            question = inspect.getdoc(importlib.import_module(home)) or ""
            parts += [f"### {verb}", question, *(_directive(f"{home}.{f}") for f in ("compute", "plot"))]
    return "\n\n".join(parts)


def words() -> str:
    """The section of README.md that defines its words."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.partition("\n## Words\n")[2].partition("\n## ")[0]


def changelog() -> str:
    """CHANGELOG.md without its heading."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("\n")[2]


def attributes(kind: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each attribute, in their sections ``Attributes``."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        meanings |= _attributes(inspect.cleandoc(base.__doc__ or ""))
    return meanings


def _attributes(text: str) -> dict[str, str]:
    """What a docstring says of each attribute."""
    meanings: dict[str, str] = {}
    names: list[str] = []
    for line in text.partition("Attributes:\n")[2].splitlines():
        if found := re.fullmatch(r"  (\w+(?:, \w+)*): (.*)", line):
            names = found[1].split(", ")
            meanings |= dict.fromkeys(names, found[2])
        elif line.startswith("    "):
            meanings |= {name: f"{meanings[name]} {line.strip()}" for name in names}
        elif line:
            break
    return meanings


def _configs(config: Any, title: str = "The run", prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """A config and those inside it: a heading, the config, and how its settings' names begin."""
    yield title, config, prefix
    for each in dataclasses.fields(config):
        if dataclasses.is_dataclass(value := getattr(config, each.name)):
            yield from _configs(value, f"`{prefix}{each.name}`", f"{prefix}{each.name}.")


def _at(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _value(value: Any) -> str:
    """A setting as one types it after ``--set``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | tuple | Mapping) and not value:
        return "-"
    return f"{value:,}".replace(",", "_") if isinstance(value, int) and value >= 10_000 else str(value)


def _cell(value: Any) -> str:
    return "yes" if value is True else "" if value in (None, False) else str(value)


def _help(text: str) -> str:
    """A verb's help as Markdown: what click shall not wrap is code."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            lines = [re.sub(r"^(Example:|\s+)\s*", "", line) for line in paragraph.splitlines()[1:]]
            parts.append("```\n" + "\n".join(lines) + "\n```")
        else:
            parts.append(paragraph)
    return "\n\n".join(parts)


def _table(heads: tuple[str, ...], rows: list[Any]) -> str:
    """A table whose first column is code."""
    lines = [heads, ("---",) * len(heads), *((f"`{first}`", *rest) for first, *rest in rows)]
    return "\n".join(f"| {' | '.join(_escape(cell) for cell in line)} |" for line in lines)


def _escape(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|").replace("\n", " ")


def _directive(path: str) -> str:
    """What autodoc replaces by the documentation of a class with its methods, or of a function."""
    module, _, name = path.rpartition(".")
    kind = "class" if inspect.isclass(getattr(importlib.import_module(module), name)) else "function"
    options = "\n   :members:" if kind == "class" else ""
    return f"```{{eval-rst}}\n.. auto{kind}:: {path}{options}\n```"


GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "environments": environments,
    "names_elsewhere": names_elsewhere,
    "renamed_options": renamed_options,
    "renamed_variables": renamed_variables,
    "python": python,
    "words": words,
    "changelog": changelog,
}
