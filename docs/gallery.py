"""Makes every picture of the documentation anew, with the commands that the gallery shows: make gallery.

Commands run in one working directory, where ``examples`` is the repository's and ``runs`` holds two agents trained
here; finished pictures are shrunk and put into docs/gallery, and docs/gallery.md is written from
docs/gallery_pictures.py. So is docs/reference/datasets.md, from what the analyses write with --out NAME.nc.
Pages are photographed by a headless chromium, which must be installed.

    python docs/gallery.py                  # everything; ten minutes on two idle cores
    python docs/gallery.py heatmap norms    # these pictures alone
    python docs/gallery.py datasets         # the page of data sets alone
"""

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gallery_pictures import DATA, DISTILL, SECTIONS, TRAIN, TUTORIAL, Picture
from PIL import Image, ImageColor, ImageSequence

from crlviz import charts

DOCS = Path(__file__).parent
WIDEST_GIF = 480  # pixels
MOST_FRAMES, COLORS_GIF = 30, 48
COLORS = 256
DEPTHS = tuple(4 * 2**k for k in range(7))  # whose colors pictures keep
_SAME_COLOR = 2  # of 255, in each channel


def run(command: str, work: Path) -> None:
    """Run a command of the gallery in the working directory, with this Python's ``crlviz``, as a shell would."""
    print(f"$ {command}", flush=True)
    program, *words = shlex.split(command)
    arguments = [place for word in words for place in (sorted(map(str, _places(word, work))) or [word])]
    subprocess.run([sys.executable, "-m", program, *arguments], cwd=work, check=True, stdout=subprocess.DEVNULL)


def _places(word: str, work: Path) -> list[Path]:
    """What a word with * or ? stands for, relative to the working directory."""
    return [place.relative_to(work) for place in work.glob(word)] if set(word) & set("*?") else []


def prepare(work: Path) -> None:
    """Make the working directory, and train what every picture may need."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "examples").exists():
        (work / "examples").symlink_to(DOCS.parent / "examples", target_is_directory=True)
    train(TRAIN, work)


def train(commands: Sequence[str], work: Path) -> None:
    """Train what is not trained in the working directory yet."""
    for command in commands:
        out = shlex.split(command)[-1]
        if not (work / out / "config.json").exists():
            run(command, work)
        elif (work / out / "state").exists():
            run(f"crlviz train --resume {out}", work)


def make(picture: Picture, work: Path) -> None:
    """Make one picture and put it, shrunk, into docs/gallery."""
    run(picture.command, work)
    made, out = work / (picture.made or picture.name), DOCS / "gallery" / picture.name
    if made.suffix == ".html":
        photograph(made, out, picture)
        made = out
    if out.suffix == ".png":
        shrink(made, out, picture.widest)
    else:
        shrink_gif(made, out)
    print(f"  {out.name}: {out.stat().st_size / 1000:.0f} kB", flush=True)


def photograph(page: Path, out: Path, picture: Picture) -> None:
    """A page as a browser without a network shows it."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        size = {"width": picture.view[0], "height": picture.view[1]}
        tab = browser.new_context(offline=True, viewport=size).new_page()  # type: ignore[arg-type]
        tab.goto(page.absolute().as_uri())
        tab.wait_for_timeout(3000)  # charts draw themselves
        if picture.script:
            tab.evaluate(picture.script)
            tab.wait_for_timeout(1000)
        tab.screenshot(path=str(out))
        browser.close()


def shrink(made: Path, out: Path, widest: int) -> None:
    """A png at most this many pixels wide, with a palette."""
    image = Image.open(made).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    flat = Image.alpha_composite(white, image).convert("RGB")
    if flat.width > widest:
        flat = flat.resize((widest, round(flat.height * widest / flat.width)), Image.Resampling.LANCZOS)
    with_palette(flat).save(out, optimize=True)


def with_palette(flat: Image.Image) -> Image.Image:
    """The picture with a palette in which the colors of depths and goals are exact: pictures are compared by them."""
    pixels = np.asarray(flat, int)
    masks = {}
    for color in map(ImageColor.getrgb, [*map(charts.depth_color, DEPTHS), charts.GOAL]):
        if (mask := (abs(pixels - color).max(-1) <= _SAME_COLOR)).any():
            masks[color] = mask
    small = flat.quantize(COLORS - len(masks), kmeans=4, dither=Image.Dither.NONE)
    palette, indices = (small.getpalette() or [])[: 3 * (COLORS - len(masks))], np.array(small)
    count = len(palette) // 3
    for number, (color, mask) in enumerate(masks.items()):
        indices[mask] = count + number
        palette += color
    result = Image.fromarray(indices, "P")
    result.putpalette(palette)
    return result


def shrink_gif(made: Path, out: Path) -> None:
    """A gif of the same length in seconds, as small as the gallery needs it; one that is small already stays itself."""
    with Image.open(made) as film:
        step = -(-film.n_frames // MOST_FRAMES)  # type: ignore[attr-defined]
        if step == 1:
            shutil.copyfile(made, out)
            return
        scale = min(1, WIDEST_GIF / film.width)
        size = round(film.width * scale), round(film.height * scale)
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(film)]
        small = [frame.resize(size, Image.Resampling.LANCZOS).quantize(COLORS_GIF) for frame in frames[::step]]
        duration = step * film.info["duration"]
    small[0].save(out, save_all=True, append_images=small[1:], duration=duration, loop=0, optimize=True)


def write_page(path: Path) -> None:
    """The gallery as Markdown."""
    lines = [
        "<!-- Written by docs/gallery.py; change it there. -->",
        "# Gallery",
        "",
        "The pictures that crlviz makes, with their commands. `examples` is in the repository; `runs` holds the "
        "two agents of the [tutorial](tutorial.md). `make gallery` makes all of them anew.",
        "",
    ]
    for section, pictures in SECTIONS.items():
        lines += [f"## {section}", ""]
        for picture in pictures:
            lines += [f"### {picture.title}", "", "```", picture.command, "```", ""]
            lines += [f"![{picture.title}](gallery/{picture.name})", "", picture.caption, ""]
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def write_datasets(path: Path, work: Path) -> None:
    """What each analysis writes as netCDF, as Markdown."""
    lines = [
        "<!-- Written by docs/gallery.py; change it there. -->",
        "# Data sets",
        "",
        "Each of these analyses writes its numbers with `--out NAME.nc`, and gives them from Python as an "
        "`xarray.Dataset`. What the checkpoints differ in is a dimension (`depth` here; also `seed`, `env_steps`, "
        "`width`, ...); where they form no full grid, the dimension is `checkpoint`. The attribute `checkpoints` names "
        "them all. `efficiency` writes the data set of `scaling`; in a maze `kept` also writes the variables of "
        "`heatmap`.",
        "",
    ]
    train([DISTILL], work)
    for verb, command in DATA.items():
        run(command, work)
        lines += [*describe(verb, command, work), ""]
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def describe(verb: str, command: str, work: Path) -> list[str]:
    """The section of a verb: its command, and the variables of the file that it wrote."""
    import xarray as xr

    lines = [f"## {verb}", "", "```", command, "```", "", "| variable | dimensions | meaning | units |"]
    lines += ["| --- | --- | --- | --- |"]
    with xr.open_dataset(work / f"{verb}.nc") as dataset:
        for name in [*dataset.coords, *dataset.data_vars]:
            variable = dataset[name]
            dims = ", ".join(map(str, variable.dims)) + " (coordinate)" * (name in dataset.coords)
            words = [variable.attrs.get(what, "").replace("|", "\\|") for what in ("long_name", "units")]
            lines += [f"| `{name}` | {dims} | {' | '.join(words)} |"]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="pictures to make, without their endings or with; default: all")
    parser.add_argument("--work", type=Path, default=DOCS.parent / "build" / "gallery", help="where commands run")
    given = parser.parse_args(arguments)
    pictures = [*(picture for pictures in SECTIONS.values() for picture in pictures), *TUTORIAL]
    known = {name for picture in pictures for name in (picture.name, Path(picture.name).stem)}
    if unknown := set(given.names) - known - {"datasets"}:
        parser.error(f"no picture is called {', '.join(sorted(unknown))}")
    prepare(given.work)
    (DOCS / "gallery").mkdir(exist_ok=True)
    for picture in pictures:
        if not given.names or {picture.name, Path(picture.name).stem} & set(given.names):
            make(picture, given.work)
    write_page(DOCS / "gallery.md")
    if not given.names or "datasets" in given.names:
        write_datasets(DOCS / "reference" / "datasets.md", given.work)


if __name__ == "__main__":
    main()
