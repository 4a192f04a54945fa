"""Sweeps on a Ray cluster: one of two nodes on this machine, and a stand-in for ray where only the order matters."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import training
from crlviz.errors import CrlvizError, UsageError
from crlviz.processes import process_pool
from crlviz.processes.process_pool import Job
from tests.torture.runs import PATIENCE, ROOT, SETTINGS, differences
from training.sweep import ray_cluster, sweep_command
from training.sweep.ray_cluster import Cluster, ray

STEPS = SETTINGS["num_envs"] * SETTINGS["unroll"] * (5 + 2400)  # a quarter of a minute of training


class Stand:
    """In ray's place: tasks end one a tick, the oldest first, with the outcomes that each job is given."""

    exceptions = ray.exceptions

    def __init__(self, **outcomes):
        self.outcomes = {name: list(each) for name, each in outcomes.items()}
        self.begun, self.cancelled, self.most, self.tasks = [], [], 0, []
        self.resources = [{"CPU": 1.0}, {"CPU": 1.0}]
        self.outage = 0

    def nodes(self):
        self.outage -= 1
        if self.outage > 0:
            return []
        return [{"Alive": True, "Resources": each} for each in self.resources]

    def remote(self, **need):
        self.need = need
        return lambda function: SimpleNamespace(remote=self.begin)

    def begin(self, jobs, sign, environment, cores, again):
        assert sign.exists()
        self.begun.append((jobs[0].log.stem, [job.arguments for job in jobs], again))
        self.environment, task = environment, object()
        self.tasks.append((task, jobs[0].log.stem))
        return task

    def wait(self, tasks, *, num_returns=1, timeout):
        assert tasks == [task for task, _ in self.tasks]
        self.most = max(self.most, len(tasks))
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task):
        ((name, place),) = [(name, place) for place, (each, name) in enumerate(self.tasks) if each is task]
        del self.tasks[place]
        outcome = self.outcomes[name].pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def cancel(self, task):
        self.cancelled.append(task)


@pytest.fixture
def finish(tmp_path, monkeypatch):
    """Runs jobs by name with given outcomes; gives the stand-in, the exit codes, and the logs' directory."""

    def run(nodes=None, resources=None, outage=0, **outcomes):
        nodes = nodes or Cluster(cpus=1, gpus=0, retries=2, most=None)
        stand = Stand(**outcomes)
        stand.resources, stand.outage = resources or stand.resources, outage
        monkeypatch.setattr(ray_cluster, "ray", stand)
        jobs = [Job((name,), tmp_path / "logs" / f"{name}.txt") for name in outcomes]
        asked = []
        ticks = nodes.run(jobs, lambda job: asked.append(job) or [("train", str(len(asked)))], poll=0)
        codes = {job.log.stem: code for _, ended in ticks for job, code in ended}
        assert not list((tmp_path / "logs").glob(".*"))
        return stand, codes, tmp_path / "logs"

    return run


def test_what_says_itself_why_it_failed_is_not_begun_again(finish):
    stand, codes, _ = finish(a=[1], b=[0], c=[2])
    assert codes == {"a": 1, "b": 0, "c": 2}
    assert [(name, again) for name, _, again in stand.begun] == [("a", False), ("b", False), ("c", False)]
    assert stand.most == 2  # as many as there is room for
    assert stand.need == {"num_cpus": 1, "num_gpus": 0, "max_retries": 0}
    assert stand.environment == {"JAX_PLATFORMS": "cpu"}


def test_what_is_lost_goes_on_as_things_stand_then(finish, capsys):
    lost = [ray.exceptions.NodeDiedError("gone"), ray.exceptions.WorkerCrashedError(), 0]
    stand, codes, logs = finish(a=lost, b=[-9, 143, -11])
    assert (codes["a"], codes["b"]) == (0, -11)
    assert [(name, again) for name, _, again in stand.begun if name == "a"] == [("a", False), ("a", True), ("a", True)]
    commands = [command for _, command, _ in stand.begun]
    assert commands == [[("train", str(n))] for n in range(1, 7)]  # asked anew each time
    assert (logs / "a.txt").read_text().splitlines() == ["its node was lost", "its Ray worker was lost"]
    told = capsys.readouterr().err
    assert "a: its node was lost; it goes on from what it saved (1 of 2 times)" in told
    assert "b: its process was killed by signal 9; it goes on" in told
    assert "b: its process ended with code 143; it goes on" in told
    assert "b: its process was killed by signal 11; it is given up" in told


def test_room_is_that_of_each_node(finish):
    nodes = Cluster(cpus=2, gpus=0.1, retries=0, most=None)
    large = {"CPU": 64.0, "GPU": 1.0}
    stand, _, _ = finish(nodes, [large, {"CPU": 3.0, "GPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 64.0}], a=[0])
    assert nodes.at_once == 10 + 1
    assert stand.environment == {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.09"}
    stand, _, _ = finish(Cluster(1, 1, 0, most=3), [large, *[large] * 5], **{name: [0] for name in "abcdef"})
    assert stand.most == 3
    assert stand.environment == {}


def test_without_a_node_it_waits_for_one_and_says_so(finish, capsys):
    assert finish(a=[0], outage=7)[1] == {"a": 0}
    assert capsys.readouterr().err.count("No node is left that could train; waiting for one") == 1


def test_a_node_that_cannot_train_ends_the_sweep(finish):
    def failed(cause):
        return ray.exceptions.RayTaskError("train", "traceback", cause)

    with pytest.raises(CrlvizError, match=r"^a node does not see it$"):
        finish(a=[failed(CrlvizError("a node does not see it"))], b=[0])
    assert len(ray_cluster.ray.cancelled) == 1  # the other saves and stops
    with pytest.raises(CrlvizError, match=r"^a node cannot run crlviz \(No module named 'crlviz'\); every node needs"):
        finish(a=[failed(RuntimeError("Traceback:\nNo module named 'crlviz'\n"))])


def test_a_node_tells_that_it_does_not_see_the_runs(tmp_path):
    with pytest.raises(CrlvizError, match=f"does not see {tmp_path}; --out must be on storage that all nodes share"):
        ray_cluster._train([], tmp_path / "sign", {}, 1, False)


def test_a_node_runs_what_it_is_told(tmp_path):
    (tmp_path / "sign").touch()
    log = tmp_path / "log.txt"
    jobs = [Job(("no-such-verb",), log), Job(("--version",), log)]
    assert ray_cluster._train(jobs, tmp_path / "sign", {}, 1, True) == 2
    assert ray_cluster._train(jobs[1:], tmp_path / "sign", {}, 1, True) == 0
    assert log.read_text().count("version") == 2
    assert "no-such-verb" in log.read_text()


@pytest.mark.skipif(len(process_pool.cores()) < 2, reason="one core, or a system that cannot give them away")
def test_cells_keep_to_cores_of_their_own(tmp_path):
    before = process_pool.cores()
    other = "import os; os.sched_setaffinity(0, {}); from training import cluster\n"
    other += "with cluster._keep_to(1): print(*cluster.processes.cores())"
    with ray_cluster._keep_to(len(before) - 1):
        own = process_pool.cores()
        done = subprocess.run(
            [sys.executable, "-c", other.format(set(before))],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        )
    assert len(own) == len(before) - 1
    assert {*own, int(done.stdout)} == set(before)
    assert process_pool.cores() == before


def test_it_waits_for_a_lock_that_a_lost_node_still_holds(tmp_path, monkeypatch):
    import filelock

    monkeypatch.setattr(ray_cluster, "_LOCK_SECONDS", 0.2)
    job = Job(("train", "--resume", str(tmp_path)), tmp_path / "log.txt")
    with filelock.FileLock(tmp_path / ".lock"):
        since = time.monotonic()
        ray_cluster._wait_for_locks(job)
        assert time.monotonic() - since >= 0.2
    ray_cluster._wait_for_locks(job)
    filelock.FileLock(tmp_path / ".lock").acquire(timeout=0)


def invoke(*arguments):
    return CliRunner().invoke(sweep_command.command, ["point_u_maze", "--out", "runs", *arguments]).exception


def test_mistakes(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    for address in ("auto", "127.0.0.1:9"):
        error = invoke("--cluster", address)
        assert isinstance(error, UsageError)
        assert str(error) == "no Ray cluster answers at 127.0.0.1:9; start one by: ray start --head"
    assert "--cluster takes HOST:PORT or auto, not 'here'" in str(invoke("--cluster", "here"))
    assert "takes a part of one, or whole ones, not 1.5" in str(invoke("--cluster", "auto", "--gpus-per-cell", "1.5"))
    assert str(invoke("--gpus-per-cell", "1")) == "--gpus-per-cell goes with --cluster"


@pytest.mark.parametrize(("length", "more"), [(39, ""), (40, " --temp-dir /tmp/ray")])
def test_a_temporary_directory_too_long_for_the_sockets_of_ray(monkeypatch, length, more):
    folder = "/" + "t" * (length - 1)
    monkeypatch.setattr(ray_cluster.tempfile, "tempdir", folder)
    # As ray checks it; a process id has up to seven digits.
    sockets = f"{folder}/ray/session_2025-01-01_00-00-00_000000_4194304/sockets/plasma_store"
    if more:
        with pytest.raises(OSError, match="AF_UNIX path length"):
            ray._private.utils.validate_socket_filepath(sockets)
    else:
        ray._private.utils.validate_socket_filepath(sockets)
    error = str(invoke("--cluster", "127.0.0.1:9"))
    assert error == f"no Ray cluster answers at 127.0.0.1:9; start one by: ray start --head{more}"


def test_ray_is_asked_for_only_then(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "training.sweep.ray_cluster")
    monkeypatch.delattr(training, "cluster")
    assert "pip install 'crlviz[cluster]'" in str(invoke("--cluster", "auto"))
    assert invoke("--dry-run") is None


@pytest.fixture(scope="module")
def two_nodes():
    """The address of a Ray cluster of two nodes with a core each, and a function that kills one of them."""
    from ray.cluster_utils import Cluster as Nodes

    small = {"object_store_memory": 80 * 2**20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
        first, _ = (nodes.add_node(num_cpus=1, **small) for _ in range(2))
        yield nodes.address, lambda: nodes.remove_node(first, allow_graceful=False)
        nodes.shutdown()


def begin(out, *options):
    """Begin a sweep of two seeds, each in a process of its own, as from a terminal, where names of ours are taken."""
    there = out.parent / "there"
    there.mkdir(exist_ok=True)
    for name in ("training", "analyses"):
        (there / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items() if name not in ("env_steps", "batch_size")]
    arguments = ["--preset=paper", "--batch-size=32", f"--env-steps={STEPS}", "--set=redraw_goals=true", *settings]
    return subprocess.Popen(
        [sys.executable, "-m", "crlviz", "sweep", "point_u_maze", *arguments, "--seed=0,1", f"--out={out}", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=there,
    )


def wait_for_rows(process, counts):
    """Wait until each run has more evaluations than so many; all still train then."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        if all(rows(run) > count for run, count in counts.items()):
            assert all(rows(run) < SETTINGS["evaluations"] for run in counts)
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[0])


def rows(run):
    path = run / "metrics.csv"
    return len(list(csv.DictReader(path.read_text().splitlines()))) if path.exists() else 0


@pytest.mark.slow
def test_a_sweep_that_is_stopped_and_loses_a_node_ends_as_one_that_is_not(tmp_path, two_nodes):
    """Bit for bit: Ctrl-C, the same command again, and a node killed while both train."""
    address, kill_one = two_nodes
    local = begin(tmp_path / "local", "--jobs=2")
    assert local.wait(PATIENCE) == 0
    names = [path.name for path in sorted((tmp_path / "local").glob("depth*"))]
    assert len(names) == 2
    out = tmp_path / "shared"
    runs = [out / name for name in names]

    stopped = begin(out, "--cluster", address)
    wait_for_rows(stopped, dict.fromkeys(runs, 2))
    stopped.send_signal(signal.SIGINT)
    told, _ = stopped.communicate(timeout=PATIENCE)
    assert stopped.returncode == 130, told
    assert "0 of 2 cells are finished; the same command goes on with the others" in told
    for name in names:
        assert "stopped at environment step" in (out / "logs" / f"{name}.txt").read_text()

    again = begin(out, "--cluster", address)
    wait_for_rows(again, {run: rows(run) + 2 for run in runs})
    kill_one()
    told, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, told
    assert told.count("its node was lost; it goes on from what it saved (1 of 3 times)") == 1
    assert "raylet" not in told
    resumed = [json.loads((run / "config.json").read_text())["resumed"] for run in runs]
    assert sorted(map(len, resumed)) == [1, 2]
    for name in names:
        assert differences(out / name, tmp_path / "local" / name) == []
    assert sorted(path.name for path in out.iterdir()) == [*names, "logs"]


@pytest.mark.slow
def test_a_cell_that_fails_loses_no_other_on_a_cluster(tmp_path, two_nodes):
    address, _ = two_nodes
    jobs = [
        Job((verb,), tmp_path / "logs" / f"{place}.txt") for place, verb in enumerate(("no-such-verb", "--version"))
    ]
    with ray_cluster.connect(address) as nodes:
        ticks = nodes.run(jobs, lambda job: [job.arguments])
        codes = {job: code for _, ended in ticks for job, code in ended}
    assert [codes[job] for job in jobs] == [2, 0]
    assert jobs[0].words.count("Error: No such command 'no-such-verb'.") == 1
    with (
        pytest.raises(UsageError, match="no node of this Ray cluster has 1 CPUs and 1 GPUs"),
        ray_cluster.connect(address, gpus=1),
    ):
        pass
