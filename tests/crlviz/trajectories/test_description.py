"""``crlviz inspect`` of files of trajectories: numbers counted by hand."""

import numpy as np

from crlviz import envs
from crlviz.trajectories import files
from crlviz.trajectories.data import Trajectories
from tests.helpers.toys import ROOM

MADE = {"sources": [{"checkpoint": "runs/d4", "policy": "mean", "episodes": 2}], "seed": 3, "goal_distance": 0.25}


def walk(places, goals, ends, **changes) -> Trajectories:
    """Trajectories through given places [N, 2] of a point mass."""
    rows = len(places)
    state = np.concatenate([places, np.zeros((rows, 2))], axis=1).astype(np.float32)
    facts = {"env": "point_u_maze", "goal_indices": (0, 1), "made": MADE} | changes
    action, goal = np.zeros((rows, 2), np.float32), np.asarray(goals, np.float32)
    return Trajectories(state=state, action=action, goal=goal, ends=np.array(ends), **facts)


def lines(text: str) -> dict[str, str]:
    """First word of each line to the rest."""
    return {line[:13].strip(): line[13:] for line in text.splitlines()}


def test_numbers_are_those_counted_by_hand(crlviz, tmp_path):
    maze = envs.check("point_u_maze")
    places = maze.xy([(1, 1), (1, 2), (1, 2), (1, 3), (2, 3)])  # 4 of 7 free cells
    goals = maze.xy([(1, 2), (1, 2), (3, 1), (3, 1), (3, 1)])
    files.write(path := tmp_path / "a.nc", walk(places, goals, [2, 4]))
    code, text, complaint = crlviz("inspect", path)
    assert (code, complaint) == (0, "")
    said = lines(text)
    assert said["environment"] == "point_u_maze"
    assert said["size"].startswith("2 trajectories, 3 transitions, ")
    assert said["lengths"] == "1 to 2, median 2"
    assert said["arrays"] == "state 4, action 2, goal 2"
    assert said["at goal"].startswith("20.0% of the rows within 0.25 m")
    assert "50.0% of the trajectories" in said["at goal"]
    assert said["coverage"] == "4 of the maze's 7 free cells visited"
    assert said["made by"] == "checkpoint runs/d4, policy mean, episodes 2"
    assert said["seed"] == "3"
    assert said["twin"].startswith("none; ")


def test_a_custom_maze_comes_from_the_file(crlviz, tmp_path):
    maze = envs.check("point_maze", ROOM)
    places = maze.xy(maze.free)
    data = walk(places, places, [len(places) - 1], env="point_maze", made=MADE | {"layout": ROOM})
    files.write(tmp_path / "a.npz", data)
    assert lines(crlviz("inspect", tmp_path / "a.npz")[1])["coverage"] == "25 of the maze's 25 free cells visited"


def test_without_a_maze_the_box_of_achieved_goals(crlviz, tmp_path):
    places = np.array([[0, -1], [0.5, 2], [3, 0]])
    files.write(tmp_path / "a.nc", walk(places, places, [2], env="ant"))
    assert lines(crlviz("inspect", tmp_path / "a.nc")[1])["coverage"] == "achieved goals in 0 to 3 x -1 to 2"


def test_a_file_of_ogbench_and_its_twin(crlviz, data):
    path = data / "trajectories" / "pointmaze-medium-random-v0.npz"
    said = lines(crlviz("inspect", path)[1])
    assert said["environment"] == said["made by"] == "unknown: not recorded in the file"
    assert said["size"].startswith("20 trajectories, 3,980 transitions, 0.1 MB")
    assert said["lengths"] == "199 each"
    low, high = np.load(path)["observations"].min(0), np.load(path)["observations"].max(0)
    assert said["coverage"].endswith(f"{low[0]:.3g} to {high[0]:.3g} x {low[1]:.3g} to {high[1]:.3g}")
    assert said["twin"] == f"{files.validation(path)} is held out"
    assert lines(crlviz("inspect", files.validation(path))[1])["twin"] == f"held out from {path}"
    assert crlviz("inspect", path, "--verify")[1] == f"ok   {path}\n"


def test_text_from_elsewhere_does_not_control_the_terminal(crlviz, tmp_path):
    places = np.zeros((2, 2))
    made = {"note\x1b[2J": "a\x1b[31mb\nc", "sources": ["\x07"], "layout": 5}
    files.write(tmp_path / "a.nc", walk(places, places, [1], made=made, env="x\x1b]0;y"))
    code, text, _ = crlviz("inspect", tmp_path / "a.nc")
    assert code == 0
    assert text.replace("\n", "").isprintable()


def test_a_damaged_file_fails(crlviz, tmp_path):
    files.write(path := tmp_path / "a.nc", walk(np.zeros((2, 2)), np.zeros((2, 2)), [1]))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for options in ([], ["--verify"]):
        code, text, complaint = crlviz("inspect", path, *options)
        assert (code, text) == (1, "")
        assert complaint == f"Error: {path} is damaged: its checksum is not the one at its end\n"
