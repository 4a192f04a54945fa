"""Sweeps on a Ray cluster: a real one with two nodes on this machine, and a fake ray where only scheduling matters."""

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

import training.sweep
from crlviz.errors import CrlvizError, UsageError
from crlviz.processes import process_pool
from crlviz.processes.process_pool import Job
from tests.torture.runs import PATIENCE, ROOT, SETTINGS, differences
from training.sweep import ray_cluster, sweep_command
from training.sweep.ray_cluster import Cluster, ray

STEPS = SETTINGS["num_envs"] * SETTINGS["unroll"] * (5 + 1200)  # some seconds of training


class FakeRay:
    """Replaces the ray module. One task ends per tick, oldest first, with the next outcome of its job."""

    exceptions = ray.exceptions

    def __init__(self, **outcomes):
        self.outcomes = {name: list(each) for name, each in outcomes.items()}
        self.started, self.cancelled, self.most, self.tasks = [], [], 0, []
        self.resources = [{"CPU": 1.0}, {"CPU": 1.0}]
        self.outage = 0

    def nodes(self):
        self.outage -= 1
        if self.outage > 0:
            return []
        return [{"Alive": True, "Resources": each} for each in self.resources]

    def remote(self, **resources):
        self.requested = resources
        return lambda function: SimpleNamespace(remote=self.start)

    def start(self, jobs, marker, environment, cores, restart):
        assert marker.exists()
        self.started.append((jobs[0].log.stem, [job.arguments for job in jobs], restart))
        self.environment, task = environment, object()
        self.tasks.append((task, jobs[0].log.stem))
        return task

    def wait(self, tasks, *, num_returns=1, timeout):
        assert tasks == [task for task, _ in self.tasks]
        self.most = max(self.most, len(tasks))
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task):
        ((name, index),) = [(name, index) for index, (each, name) in enumerate(self.tasks) if each is task]
        del self.tasks[index]
        outcome = self.outcomes[name].pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def cancel(self, task):
        self.cancelled.append(task)


@pytest.fixture
def finish(tmp_path, monkeypatch):
    """A function that runs named jobs with given outcomes; returns the fake ray, the exit codes and the log folder."""

    def run(nodes=None, resources=None, outage=0, **outcomes):
        nodes = nodes or Cluster(cpus=1, gpus=0, retries=2, most=None)
        fake = FakeRay(**outcomes)
        fake.resources, fake.outage = resources or fake.resources, outage
        monkeypatch.setattr(ray_cluster, "ray", fake)
        jobs = [Job((name,), tmp_path / "logs" / f"{name}.txt") for name in outcomes]
        calls = []
        ticks = nodes.run(jobs, lambda job: calls.append(job) or [("train", str(len(calls)))], poll=0)
        codes = {job.log.stem: code for _, ended in ticks for job, code in ended}
        assert not list((tmp_path / "logs").glob(".*"))
        return fake, codes, tmp_path / "logs"

    return run


def test_a_job_that_fails_by_itself_is_not_restarted(finish):
    fake, codes, _ = finish(a=[1], b=[0], c=[2])
    assert codes == {"a": 1, "b": 0, "c": 2}
    assert [(name, restart) for name, _, restart in fake.started] == [("a", False), ("b", False), ("c", False)]
    assert fake.most == 2  # as many as fit
    assert fake.requested == {"num_cpus": 1, "num_gpus": 0, "max_retries": 0}
    assert fake.environment == {"JAX_PLATFORMS": "cpu"}


def test_a_lost_job_restarts_with_fresh_commands(finish, capsys):
    lost = [ray.exceptions.NodeDiedError("gone"), ray.exceptions.WorkerCrashedError(), 0]
    fake, codes, logs = finish(a=lost, b=[-9, 143, -11])
    assert (codes["a"], codes["b"]) == (0, -11)
    assert [(name, restart) for name, _, restart in fake.started if name == "a"] == [
        ("a", False),
        ("a", True),
        ("a", True),
    ]
    commands = [command for _, command, _ in fake.started]
    assert commands == [[("train", str(n))] for n in range(1, 7)]  # built anew at each start
    assert (logs / "a.txt").read_text().splitlines() == ["its node was lost", "its Ray worker was lost"]
    errors = capsys.readouterr().err
    assert "a: its node was lost; restarting from its last save (1 of 2)" in errors
    assert "b: its process was killed by signal 9; restarting" in errors
    assert "b: its process ended with code 143; restarting" in errors
    assert "b: its process was killed by signal 11; giving up" in errors


def test_capacity_is_counted_per_node(finish):
    nodes = Cluster(cpus=2, gpus=0.1, retries=0, most=None)
    large = {"CPU": 64.0, "GPU": 1.0}
    fake, _, _ = finish(nodes, [large, {"CPU": 3.0, "GPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 64.0}], a=[0])
    assert nodes.at_once == 10 + 1
    assert fake.environment == {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.09"}
    fake, _, _ = finish(Cluster(1, 1, 0, most=3), [large, *[large] * 5], **{name: [0] for name in "abcdef"})
    assert fake.most == 3
    assert fake.environment == {}


def test_without_a_node_the_sweep_waits_and_says_so(finish, capsys):
    assert finish(a=[0], outage=7)[1] == {"a": 0}
    assert capsys.readouterr().err.count("No node is left to train on; waiting for one") == 1


def test_a_node_that_cannot_train_ends_the_sweep(finish):
    def failed(cause):
        return ray.exceptions.RayTaskError("train", "traceback", cause)

    with pytest.raises(CrlvizError, match=r"^a node does not see it$"):
        finish(a=[failed(CrlvizError("a node does not see it"))], b=[0])
    assert len(ray_cluster.ray.cancelled) == 1  # the other job saves and stops
    with pytest.raises(CrlvizError, match=r"^a node cannot run crlviz \(No module named 'crlviz'\); every node needs"):
        finish(a=[failed(RuntimeError("Traceback:\nNo module named 'crlviz'\n"))])


def test_a_node_without_the_shared_storage_is_an_error(tmp_path):
    with pytest.raises(CrlvizError, match=f"does not see {tmp_path}; --out must be on storage that all nodes share"):
        ray_cluster.train_jobs([], tmp_path / "marker", {}, 1, False)


def test_a_node_runs_its_jobs_and_returns_the_exit_code(tmp_path):
    (tmp_path / "marker").touch()
    log = tmp_path / "log.txt"
    jobs = [Job(("no-such-verb",), log), Job(("--version",), log)]
    assert ray_cluster.train_jobs(jobs, tmp_path / "marker", {}, 1, True) == 2
    assert ray_cluster.train_jobs(jobs[1:], tmp_path / "marker", {}, 1, True) == 0
    assert log.read_text().count("version") == 2
    assert "no-such-verb" in log.read_text()


@pytest.mark.skipif(len(process_pool.cores()) < 2, reason="one core, or no CPU affinity")
def test_processes_pin_to_disjoint_cores(tmp_path):
    before = process_pool.cores()
    other = "import os; os.sched_setaffinity(0, {}); from training.sweep import ray_cluster\n"
    other += "with ray_cluster.pin_to_cores(1): print(*ray_cluster.process_pool.cores())"
    with ray_cluster.pin_to_cores(len(before) - 1):
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


def test_a_node_waits_for_a_lock_that_a_lost_node_still_holds(tmp_path, monkeypatch):
    import filelock

    monkeypatch.setattr(ray_cluster, "_LOCK_SECONDS", 0.2)
    job = Job(("train", "--resume", str(tmp_path)), tmp_path / "log.txt")
    with filelock.FileLock(tmp_path / ".lock"):
        start = time.monotonic()
        ray_cluster.wait_for_locks(job)
        assert time.monotonic() - start >= 0.2
    ray_cluster.wait_for_locks(job)
    filelock.FileLock(tmp_path / ".lock").acquire(timeout=0)


def invoke(*arguments):
    return CliRunner().invoke(sweep_command.command, ["point_u_maze", "--out", "runs", *arguments]).exception


def test_mistakes(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    for address in ("auto", "127.0.0.1:9"):
        error = invoke("--cluster", address)
        assert isinstance(error, UsageError)
        assert str(error) == "no Ray cluster answers at 127.0.0.1:9; start one with: ray start --head"
    assert "--cluster takes HOST:PORT or auto, not 'here'" in str(invoke("--cluster", "here"))
    assert "takes a fraction below 1 or a whole number, not 1.5" in str(
        invoke("--cluster", "auto", "--gpus-per-cell", "1.5")
    )
    assert str(invoke("--gpus-per-cell", "1")) == "--gpus-per-cell needs --cluster"


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
    assert error == f"no Ray cluster answers at 127.0.0.1:9; start one with: ray start --head{more}"


def test_ray_is_needed_only_for_cluster(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "training.sweep.ray_cluster")
    monkeypatch.delattr(training.sweep, "ray_cluster")
    assert "pip install 'crlviz[cluster]'" in str(invoke("--cluster", "auto"))
    assert invoke("--dry-run") is None


@pytest.fixture(scope="module")
def two_nodes():
    """Address of a Ray cluster with two one-core nodes, and a function that kills one node."""
    from ray.cluster_utils import Cluster as LocalCluster

    small = {"object_store_memory": 80 * 2**20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        nodes = LocalCluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
        first, _ = (nodes.add_node(num_cpus=1, **small) for _ in range(2))
        yield nodes.address, lambda: nodes.remove_node(first, allow_graceful=False)
        nodes.shutdown()


def start_sweep(out, *options):
    """Start a sweep of two seeds in a directory whose files shadow our packages; return its process."""
    folder = out.parent / "shadowed"
    folder.mkdir(exist_ok=True)
    for name in ("training", "analyses"):
        (folder / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items() if name not in ("env_steps", "batch_size")]
    arguments = ["--preset=paper", "--batch-size=32", f"--env-steps={STEPS}", "--set=redraw_goals=true", *settings]
    return subprocess.Popen(
        [sys.executable, "-m", "crlviz", "sweep", "point_u_maze", *arguments, "--seed=0,1", f"--out={out}", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
    )


def wait_for_rows(process, counts):
    """Wait until each run has more evaluations than its count; assert that all runs are still training."""
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
def test_a_sweep_that_is_stopped_and_loses_a_node_gives_the_same_runs(tmp_path, two_nodes):
    """Bit for bit, after a Ctrl-C, a second start of the same command, and the loss of a node during training."""
    address, kill_one = two_nodes
    local = start_sweep(tmp_path / "local", "--jobs=2")
    assert local.wait(PATIENCE) == 0
    names = [path.name for path in sorted((tmp_path / "local").glob("depth*"))]
    assert len(names) == 2
    out = tmp_path / "shared"
    runs = [out / name for name in names]

    stopped = start_sweep(out, "--cluster", address)
    wait_for_rows(stopped, dict.fromkeys(runs, 2))
    stopped.send_signal(signal.SIGINT)
    output, _ = stopped.communicate(timeout=PATIENCE)
    assert stopped.returncode == 130, output
    assert "0 of 2 runs are finished; run the same command again to continue" in output
    for name in names:
        assert "stopped at environment step" in (out / "logs" / f"{name}.txt").read_text()

    continued = start_sweep(out, "--cluster", address)
    wait_for_rows(continued, {run: rows(run) + 2 for run in runs})
    kill_one()
    output, _ = continued.communicate(timeout=PATIENCE)
    assert continued.returncode == 0, output
    assert output.count("its node was lost; restarting from its last save (1 of 3)") == 1
    assert "raylet" not in output
    resumed = [json.loads((run / "config.json").read_text())["resumed"] for run in runs]
    assert sorted(map(len, resumed)) == [1, 2]
    for name in names:
        assert differences(out / name, tmp_path / "local" / name) == []
    assert sorted(path.name for path in out.iterdir()) == [*names, "logs"]


@pytest.mark.slow
def test_a_failed_job_does_not_stop_the_others_on_a_cluster(tmp_path, two_nodes):
    address, _ = two_nodes
    jobs = [
        Job((verb,), tmp_path / "logs" / f"{index}.txt") for index, verb in enumerate(("no-such-verb", "--version"))
    ]
    with ray_cluster.connect(address) as nodes:
        ticks = nodes.run(jobs, lambda job: [job.arguments])
        codes = {job: code for _, ended in ticks for job, code in ended}
    assert [codes[job] for job in jobs] == [2, 0]
    assert jobs[0].log_lines.count("Error: no verb is called 'no-such-verb'; crlviz --help lists them") == 1
    with (
        pytest.raises(UsageError, match="no node of this Ray cluster has 1 CPUs and 1 GPUs"),
        ray_cluster.connect(address, gpus=1),
    ):
        pass
