"""Load two trained agents, count the goals they reach, and draw their Q: python examples/first_look.py"""

from pathlib import Path

import crlviz
from analyses import heatmap
from crlviz import charts

HERE = Path(__file__).parent


def main(out: Path = Path("first_look.html")) -> None:
    agents = crlviz.load_all([HERE / "depth4", HERE / "depth16"])
    for agent in agents:
        goals = agent.env.maze.xy(agent.env.maze.goals)
        episodes = crlviz.rollout(agent, len(goals), goals=goals)
        reached = episodes.success.any("time")
        print(f"depth {agent.facts['depth']}: reaches {int(reached.sum())} of {len(goals)} goals")

    maps = heatmap.compute(agents, coverage=True)
    print(maps.rank_correlation.mean("goal").to_series().to_string())
    charts.save(heatmap.plot(maps), out)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
