"""The documentation says what the command and the settings are."""

import ast
import re
import runpy
import shlex

import click
import numpy as np
import pytest

from crlviz import charts
from crlviz.cli import VERBS, cli
from tests.helpers import ROOT
from training.config import TrainConfig, names

PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
GENERATED = runpy.run_path(str(ROOT / "docs" / "generated.py"))


def typed(text: str) -> list[str]:
    """What stands after ``crlviz`` in the commands of a page's blocks of code."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [re.match(r"(?!from )[^#]*?(?<![\w/.])crlviz (?!\[)([^#]+)", line) for line in lines]
    return [match[1].strip() for match in found if match and match[1].split()[0] not in ("OPTIONS", "VERB")]


def problem(line: str) -> str:
    """What the command says of such arguments before it runs; empty where nothing."""
    verb, *words = shlex.split(line)
    if verb not in VERBS:
        return f"no verb is called {verb}"
    command = cli.get_command(click.Context(cli), verb)
    if old := {word.partition("=")[0] for word in words} & {*getattr(command, "old_options", {}), "--seeds"}:
        return f"{verb} {old} has another name now"
    try:
        command.make_context(verb, words)
    except click.UsageError as error:
        return error.format_message()
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_can_be_typed(page):
    lines = typed(page.read_text(encoding="utf-8"))
    assert {line: said for line in lines if (said := problem(line))} == {}


def test_what_cannot_be_typed_is_found():
    page = "```\nA=1 crlviz train ant --dept 4 --out a  # note\n$ crlviz look a \\\n  --out b\n```\nand `crlviz x`"
    assert typed(page) == ["train ant --dept 4 --out a", "look a    --out b"]
    assert [bool(problem(line)) for line in [*typed(page), "sweep ant --jobs 0 --out a", "train ant --out a"]] == [
        True,
        True,
        True,
        False,
    ]


def test_every_setting_is_told_with_its_meaning():
    page = GENERATED["settings"]()
    for name in names(TrainConfig(env="")):
        row = re.search(rf"^\| `{re.escape(name)}` \|(.*)\|$", page, re.MULTILINE)
        assert row, name
        assert row[1].split("|")[-1].strip(), name
    # Of the presets' columns, where they differ.
    assert "| `crl.initial_temperature` | `1.0` | `1.0` | `0.3` |" in page
    assert "| `env_steps` | `100_000_000` | `2000` | `2_304_000` |" in page


def test_every_verb_is_told_with_its_options():
    page = GENERATED["commands"]()
    for verb in VERBS:
        section = re.search(rf"^## {verb}$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        assert section, verb
        for parameter in cli.get_command(click.Context(cli), verb).params:
            shown = isinstance(parameter, click.Option) and not parameter.hidden
            for option in parameter.opts if shown else ():
                assert option in section[1], (verb, option)


def test_every_marker_is_filled_and_the_front_page_has_the_words_of_the_readme():
    marked = [name for page in PAGES for name in GENERATED["MARKER"].findall(page.read_text(encoding="utf-8"))]
    assert [name for name in marked if name not in GENERATED["GENERATED"]] == []
    assert set(marked) == set(GENERATED["GENERATED"])
    words = re.findall(r"\*\*(.+?)\*\*", GENERATED["words"]())
    assert {"phi(s, a)", "psi(g)", "Q", "InfoNCE", "Depth", "Run", "Checkpoint", "Success"} <= set(words)
    assert "#" not in GENERATED["words"]()


def test_every_picture_of_a_page_is_there_and_small():
    shown = [
        (page.parent / place).resolve()
        for page in PAGES
        for place in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert [str(path) for path in shown if not path.exists()] == []
    gallery = list((ROOT / "docs" / "gallery").iterdir())
    assert sum(path.stat().st_size for path in gallery) < 3_000_000
    assert [path.name for path in gallery if path not in shown] == []


def test_what_the_python_of_every_page_imports_is_there():
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ]
    assert len(blocks) >= 4
    imports = {
        ast.unparse(line)
        for block in blocks
        for line in ast.parse(block).body
        if isinstance(line, ast.Import | ast.ImportFrom)
    }
    for line in sorted(imports):
        exec(line, {})


def test_small_pictures_keep_the_colors_of_depths(monkeypatch):
    """Among more colors than a palette holds, which alone would move them."""
    from PIL import Image, ImageColor

    monkeypatch.syspath_prepend(ROOT / "docs")
    import gallery

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (200, 200, 3), np.uint8)
    colors = [ImageColor.getrgb(charts.depth_color(depth)) for depth in (4, 8, 16)]
    for row, color in enumerate(colors):
        pixels[row] = color
    small = gallery.with_palette(Image.fromarray(pixels))
    assert small.mode == "P"
    shown = np.asarray(small.convert("RGB"), int)
    assert [tuple(shown[row, 0]) for row in range(3)] == colors
    assert abs(shown - pixels).mean() < 30  # others are near
