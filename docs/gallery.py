"""Makes every picture of the documentation anew, with the commands that the gallery shows: make gallery.

Commands run in one working directory, where ``examples`` is the repository's and ``runs`` holds two agents trained
here; finished pictures are shrunk and put into docs/gallery, and docs/gallery.md is written from the list below. So is
docs/reference/datasets.md, from what the analyses write with --out NAME.nc.
Pages are photographed by a headless chromium, which must be installed.

    python docs/gallery.py                  # everything; ten minutes on two cores at rest
    python docs/gallery.py heatmap norms    # these pictures alone
    python docs/gallery.py datasets         # the page of data sets alone
"""

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageSequence

DOCS = Path(__file__).parent
WIDEST, WIDEST_GIF = 1200, 480  # pixels
MOST_FRAMES, COLORS_GIF = 30, 48
COLORS = 256
PAIR = "examples/depth4 examples/depth16"
# Depth at width 32, and width at depth 4, of one task: examples/runs holds near pairs and ablations too.
SWEEPS = "examples/runs/depth*-width??-seed? examples/runs/depth4-seed?"
TRAIN = (
    "crlviz train point_u_maze --depth 4 --out runs/d4",
    "crlviz train point_u_maze --depth 16 --out runs/d16",
)


@dataclass(frozen=True)
class Picture:
    """A picture of the gallery.

    Attributes:
      name: of the picture's file, with its ending.
      title: a heading.
      command: what makes it.
      caption: what it shows, in Markdown.
      made: what the command writes; default: a file of the picture's name. An html is photographed.
      view: width and height in pixels of the window that a page is photographed in.
    """

    name: str
    title: str
    command: str
    caption: str
    made: str = ""
    view: tuple[int, int] = (1200, 800)


SECTIONS: dict[str, tuple[Picture, ...]] = {
    "Q over a maze": (
        Picture(
            "heatmap.png",
            "Positions, for a goal",
            f"crlviz heatmap {PAIR} --goal 0.5,-2.5 --scale shared --out heatmap.png",
            "Q(s, a, g) of every position for the goal at the star; the white outline is where the policy goes. "
            "`--scale shared` gives both maps one color scale, `--show policy` arrows where the policy heads.",
        ),
        Picture(
            "heatmap-goals.png",
            "Goals, from a start",
            f"crlviz heatmap {PAIR} --over goals --start -2.5,-2.5 --out heatmap-goals.png",
            "The same asked the other way round: Q of every goal from one start.",
        ),
        Picture(
            "heatmap-page.png",
            "A page to click in",
            "crlviz heatmap runs/d4 runs/d16 --out heatmap-page.html",
            "A click moves the goal, the slider goes through training. One file, no network.",
            made="heatmap-page.html",
            view=(1000, 720),
        ),
        Picture(
            "heatmap.gif",
            "Through training",
            "crlviz heatmap runs/d4 runs/d16 --resolution 6 --max-checkpoints 6 --out heatmap.gif",
            "The checkpoints of a run one after the other.",
        ),
    ),
    "What agents do": (
        Picture(
            "rollout.gif",
            "A film",
            "crlviz rollout runs/d4 runs/d16 --goal 1,1 --size 320x240 --fps 6 --steps 40 --out rollout.gif",
            "Both agents from the same start to the same goal, in step and in real time. `.mp4` is smaller.",
        ),
        Picture(
            "ant.gif",
            "An ant",
            "crlviz rollout examples/ant --goal 4,12 --steps 240 --seed 1 --size 320x240 --fps 8 --out ant.gif",
            "Trained for 28 million steps, in four minutes on one GPU: it walks, and knows the first arm of the U.",
        ),
        Picture(
            "rollout-page.png",
            "A replay in 3-D",
            "crlviz rollout runs/d4 runs/d16 --goal 1,1 --out rollout-page.html",
            "A page to turn, zoom and scrub, with the path so far on a map and the lines of distance and Q.",
            made="rollout-page.html",
            view=(1280, 800),
        ),
        Picture(
            "play-page.png",
            "A page in which they live",
            f"crlviz play {PAIR} --out play-page.html",
            "Networks and body run in the page: click to set goals, push, change the depth under the running body.",
            made="play-page.html",
            view=(1280, 800),
        ),
        Picture(
            "frames.png",
            "A strip of frames",
            "crlviz rollout runs/d4 runs/d16 --goal 1,1 --size 320x240 --out frames.png",
            "The same film as stills, from the start to the moment when the last agent arrives.",
        ),
        Picture(
            "eval.png",
            "Success, goal by goal",
            "crlviz eval examples/runs/depth4-width32-seed? examples/runs/depth16-width32-seed? --out eval.png",
            "The share of new episodes that reach their goal, a small mark a seed, and the same at each goal cell.",
        ),
        Picture(
            "behavior.png",
            "One hard episode, and what agents do in all",
            "crlviz behavior examples/swimmers --out behavior.png",
            "The episode whose goal is farthest away, in frames and from above; then shares of named behaviors.",
        ),
        Picture(
            "behavior.gif",
            "The same episode as a film",
            "crlviz behavior examples/swimmers --size 320x240 --out behavior.gif",
            "Every depth in step, from the same start to the same goal.",
        ),
        Picture(
            "stitch.png",
            "Beyond the distances of training",
            "crlviz stitch examples/runs/depth4-width32-pairs3-seed? examples/runs/depth16-width32-pairs3-seed? "
            "--out stitch.png",
            "Agents that were trained on starts and goals at most three cells apart, asked for all pairs: success over "
            "distance, at each goal from the maze's start, and from every start to every goal.",
        ),
    ),
    "Inside the networks": (
        Picture(
            "embed.png",
            "Embeddings along a trajectory",
            f"crlviz embed {PAIR} --out embed.png",
            "phi(s, a) along one trajectory on its first two principal components, and psi(g) of its goal as a star. "
            "The title says how far a meter near the goal moves phi, against a meter elsewhere.",
        ),
        Picture(
            "norms.png",
            "What each block adds",
            f"crlviz norms {PAIR} --out norms.png",
            "The L2 norm of what each residual block adds to its input, in actor, phi and psi; and what comes out of "
            "the networks. `--start` shows the same of fresh networks.",
        ),
    ),
    "Runs compared": (
        Picture(
            "scaling.png",
            "Score over depth, batch size, actor and critic, ablations",
            "crlviz scaling examples/runs --metric success --out scaling.png",
            "A claim for each panel that these runs support, two tasks side by side. Small marks are seeds.",
        ),
        Picture(
            "efficiency.png",
            "Depth against width at equal cost",
            f"crlviz efficiency {SWEEPS} --metric success --out efficiency.png",
            "What the deeper network reaches beyond the wider one at equal updates, parameters and seconds, with the "
            "verdict of each; below, the score against what it costs, with the Pareto front.",
        ),
    ),
    "Pages": (
        Picture(
            "demo-page.png",
            "The demo",
            "crlviz demo --out demo",
            "Two depths and two controls, trained and compared on one page.",
            made="demo/index.html",
            view=(1100, 1000),
        ),
        Picture(
            "demo.gif",
            "The demo's film",
            "crlviz demo --out demo",
            "A row for each depth, a column for each stage of its training, the same starts and goals in all.",
            made="demo/film.gif",
        ),
        Picture(
            "watch-page.png",
            "A run while it trains",
            "crlviz watch runs/d16",
            "Learning curves, the newest heatmap and a clip; the page refreshes itself.",
            made="runs/d16/watch/index.html",
            view=(1060, 800),
        ),
        Picture(
            "paper-page.png",
            "The paper's figures",
            "crlviz paper examples/runs examples/swimmers --out figures",
            "Every figure of the paper that the runs support, side by side by task; then what the others would take.",
            made="figures/index.html",
            view=(1280, 1000),
        ),
    ),
    "Environments and speed": (
        Picture(
            "environments.png",
            "Environments",
            "crlviz envs point_big_maze humanoid_u_maze ant_push arm_reach --size 320x240 --out environments.png",
            "Four of them as an episode begins.",
        ),
        Picture(
            "bench.png",
            "Updates a second",
            "crlviz bench --depth 4,16 --width 64 --batch-size 64 --num-envs 64 --window 150 --updates 32 --seconds 1 "
            "--out bench.png",
            "Speed here and now, beside a plain implementation and the machine's rate of matrix products. This picture "
            "was made while other work ran.",
        ),
    ),
}

# What the tutorial shows beside some of these.
TUTORIAL = (
    Picture("tutorial-maze.png", "The maze", "crlviz envs point_u_maze --out tutorial-maze.png", ""),
    Picture("tutorial-q.png", "Q", "crlviz heatmap runs/d4 runs/d16 --goal 1,1 --goal 1,-1 --out tutorial-q.png", ""),
    Picture(
        "tutorial-miss.gif",
        "The goal that both miss",
        "crlviz rollout runs/d4 runs/d16 --goal 1,-1 --size 320x240 --fps 6 --steps 40 --out tutorial-miss.gif",
        "",
    ),
    Picture(
        "tutorial-curves.png",
        "Learning curves",
        "crlviz scaling runs --metric success --out tutorial-curves.png",
        "",
    ),
)

# Whose data sets the reference describes.
DATA = {
    "rollout": f"crlviz rollout {PAIR} --steps 20 --out rollout.nc",
    "heatmap": f"crlviz heatmap {PAIR} --goal 0.5,-2.5 --resolution 4 --out heatmap.nc",
    "eval": f"crlviz eval {PAIR} --out eval.nc",
    "behavior": f"crlviz behavior {PAIR} --episodes 8 --out behavior.nc",
    "stitch": f"crlviz stitch {PAIR} --out stitch.nc",
    "embed": f"crlviz embed {PAIR} --episodes 8 --out embed.nc",
    "norms": f"crlviz norms {PAIR} --episodes 8 --out norms.nc",
    "scaling": "crlviz scaling examples/runs --out scaling.nc",
}


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
    """Make the working directory, and train what is not trained there yet."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "examples").exists():
        (work / "examples").symlink_to(DOCS.parent / "examples", target_is_directory=True)
    for command in TRAIN:
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
    (shrink if out.suffix == ".png" else shrink_gif)(made, out)
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
        tab.screenshot(path=str(out))
        browser.close()


def shrink(made: Path, out: Path) -> None:
    """A png at most ``WIDEST`` wide, with a palette."""
    image = Image.open(made).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    flat = Image.alpha_composite(white, image).convert("RGB")
    if flat.width > WIDEST:
        flat = flat.resize((WIDEST, round(flat.height * WIDEST / flat.width)), Image.Resampling.LANCZOS)
    flat.quantize(COLORS, kmeans=4, dither=Image.Dither.NONE).save(out, optimize=True)


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
        "Every kind of picture that crlviz makes, with its command. `examples` is in the repository; `runs` holds the "
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
    import xarray as xr

    lines = [
        "<!-- Written by docs/gallery.py; change it there. -->",
        "# Data sets",
        "",
        "Every analysis writes its numbers with `--out NAME.nc`, and gives them from Python as an `xarray.Dataset`. "
        "What the checkpoints differ in is a dimension (`depth` here; also `seed`, `env_steps`, `width`, ...); where "
        "they form no full grid, the dimension is `checkpoint`. The attribute `checkpoints` names them all. "
        "`efficiency` writes the data set of `scaling`.",
        "",
    ]
    for verb, command in DATA.items():
        run(command, work)
        with xr.open_dataset(work / f"{verb}.nc") as dataset:
            lines += [f"## {verb}", "", "```", command, "```", "", "| variable | dimensions | meaning | units |"]
            lines += ["| --- | --- | --- | --- |"]
            for name in [*dataset.coords, *dataset.data_vars]:
                variable = dataset[name]
                dims = ", ".join(map(str, variable.dims)) + " (coordinate)" * (name in dataset.coords)
                told = [variable.attrs.get(what, "").replace("|", "\\|") for what in ("long_name", "units")]
                lines += [f"| `{name}` | {dims} | {' | '.join(told)} |"]
            lines += [""]
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


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
