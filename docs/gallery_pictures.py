"""The pictures of the gallery and of the tutorial, and the data sets of the reference: what docs/gallery.py makes."""

from dataclasses import dataclass

PAIR = "examples/depth4 examples/depth16"
# Depth at width 32, and width at depth 4, of one task: examples/runs holds near pairs and ablations too.
SWEEPS = "examples/runs/depth*-width??-seed? examples/runs/depth4-seed?"
TRAIN = (
    "crlviz train point_u_maze --depth 4 --out runs/d4",
    "crlviz train point_u_maze --depth 16 --out runs/d16",
)
# A student for the data set of ``kept``.
DISTILL = (
    "crlviz distill examples/swimmers/depth16-width32-seed0 --depth 4 --width 64 --env-steps 896000 "
    "--set evaluations=5 --out runs/student"
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
      widest: pixels, beyond which it is shrunk.
      view: width and height in pixels of the window that a page is photographed in.
      script: JavaScript that a page runs before.
    """

    name: str
    title: str
    command: str
    caption: str
    made: str = ""
    widest: int = 1200
    view: tuple[int, int] = (1200, 800)
    script: str = ""


def _seek(step: int) -> str:
    """JavaScript that moves a replay to a step."""
    return f"slider.value = {step}; slider.dispatchEvent(new Event('input'))"


SECTIONS: dict[str, tuple[Picture, ...]] = {
    "Q over a maze": (
        Picture(
            "heatmap.png",
            "Positions, for a goal",
            f"crlviz heatmap {PAIR} --goal 0.5,-2.5 --scale shared --out heatmap.png",
            "Q(s, a, g) of every position for the goal at the star; it is pale where the policy does not go. "
            "`--scale shared` gives both maps one color scale, `--show policy` arrows where the policy heads.",
            widest=1000,
        ),
        Picture(
            "heatmap-goals.png",
            "Goals, from a start",
            f"crlviz heatmap {PAIR} --over goals --start -2.5,-2.5 --out heatmap-goals.png",
            "The same asked the other way round: Q of every goal from one start.",
            widest=1000,
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
            "crlviz heatmap runs/d4 runs/d16 --resolution 6 --max-checkpoints 6 --scale shared --out heatmap.gif",
            "The checkpoints of a run one after the other.",
        ),
    ),
    "What agents do": (
        Picture(
            "rollout.gif",
            "A film",
            "crlviz rollout runs/d4 runs/d16 --goal 1,1 --size 256x192 --fps 6 --steps 40 --out rollout.gif",
            "Both agents from the same start to the same goal, in step and in real time. `.mp4` is smaller.",
        ),
        Picture(
            "ant.gif",
            "An ant",
            "crlviz rollout examples/ant --goal 4,12 --steps 240 --seed 1 --size 320x240 --fps 8 --out ant.gif",
            "Trained for 28 million steps, in four minutes on one GPU: it walks, and knows the first arm of the U.",
        ),
        Picture(
            "humanoid.png",
            "A humanoid",
            "crlviz rollout examples/humanoid --goal 2.5,0 --steps 90 --seed 1 --size 320x240 --out humanoid.png",
            "Trained for 40 million steps, in eight minutes on one GPU: it strides to its goal and falls there.",
            widest=1000,
        ),
        Picture(
            "rollout-page.png",
            "A replay in 3-D",
            "crlviz rollout runs/d4 runs/d16 --goal 1,1 --steps 40 --out rollout-page.html",
            "A page to turn, zoom and scrub, with the path so far on a map and the lines of distance and Q.",
            made="rollout-page.html",
            view=(1280, 740),
            script=_seek(11),
            widest=1000,
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
            widest=1000,
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
            widest=1000,
        ),
    ),
    "Inside the networks": (
        Picture(
            "embed.png",
            "Embeddings along a trajectory",
            f"crlviz embed {PAIR} --out embed.png",
            "How far a meter near the goal moves phi, against a meter elsewhere; below, phi(s, a) along one trajectory "
            "on its first two principal components, and psi(g) of its goal as a star.",
        ),
        Picture(
            "norms.png",
            "What each block adds",
            f"crlviz norms {PAIR} --out norms.png",
            "The L2 norm of what each residual block adds to its input, in actor, phi and psi; and what comes out of "
            "the networks. `--start` shows the same of fresh networks.",
        ),
        Picture(
            "calibrate.png",
            "Learned distance against time",
            "crlviz calibrate examples/swimmers --out calibrate.png",
            "How far a critic believes a goal to be, over the steps that its policy needed to come there. On the "
            "dashed line it is as far as that.",
            widest=900,
        ),
    ),
    "Runs compared": (
        Picture(
            "scaling.png",
            "Score over depth, batch size, actor and critic, ablations",
            "crlviz scaling examples/runs --metric success --out scaling.png",
            "A difference with its interval for each comparison that these runs support, then a panel for each, two "
            "tasks side by side. Small marks are seeds.",
            widest=900,
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
    Picture(
        "tutorial-q.png",
        "Q",
        "crlviz heatmap runs/d4 runs/d16 --goal 1,1 --goal 1,-1 --out tutorial-q.png",
        "",
        widest=1000,
    ),
    Picture(
        "tutorial-miss.gif",
        "The goal that both miss",
        "crlviz rollout runs/d4 runs/d16 --goal 1,-1 --size 256x192 --fps 6 --steps 40 --out tutorial-miss.gif",
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
    "calibrate": f"crlviz calibrate {PAIR} --episodes 8 --out calibrate.nc",
    "kept": "crlviz kept runs/student --episodes 8 --out kept.nc",
    "norms": f"crlviz norms {PAIR} --episodes 8 --out norms.nc",
    "scaling": "crlviz scaling examples/runs --out scaling.nc",
}
