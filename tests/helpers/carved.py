"""Mazes of any size for tests."""

import random


def carved(side: int, seed: int = 0) -> list[str]:
    """A perfect maze: every second cell is a room, all but the first are goals, and paths are unique."""
    draw = random.Random(seed)
    grid = [["#"] * side for _ in range(side)]
    grid[1][1] = "r"
    path = [(1, 1)]
    while path:
        i, j = path[-1]
        ways = [(a, b) for a, b in ((2, 0), (-2, 0), (0, 2), (0, -2)) if 0 < i + a < side and 0 < j + b < side]
        if ways := [(a, b) for a, b in ways if grid[i + a][j + b] == "#"]:
            a, b = draw.choice(ways)
            grid[i + a // 2][j + b // 2], grid[i + a][j + b] = ".", "g"
            path.append((i + a, j + b))
        else:
            path.pop()
    return ["".join(row) for row in grid]
