"""Memory limits of a process, from files and variables as the kernel and SLURM write them."""

import os

import pytest

from training.bench import memory_limits, plan_command

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 1 << 20


@pytest.fixture
def tree(tmp_path):
    """A function that writes files under a root; names that do not start with proc go under sys/fs/cgroup."""

    def write(groups, **files):
        for name, text in {"proc/self/cgroup": groups, **files}.items():
            path = tmp_path / (name if name.startswith("proc") else f"sys/fs/cgroup/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        # A service: its own group has no limit; the slice around it has one.
        ("0::/a.slice/b.scope\n", {"a.slice/b.scope/memory.max": "max\n", "a.slice/memory.max": f"{64 * MIB}\n"}, 64),
        # A container with its own namespace, and one without, whose path is the one on the host.
        ("0::/\n", {"memory.max": f"{32 * MIB}\n"}, 32),
        ("0::/docker/4f\n", {"memory.max": f"{32 * MIB}\n"}, 32),
        # Version 1, where "no limit" is a huge number.
        (
            "9:cpu,cpuacct:/x\n4:memory:/slurm/job_1\n",
            {
                "memory/slurm/job_1/memory.limit_in_bytes": f"{48 * MIB}\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            48,
        ),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ("0::/\n", {}, None),
    ],
)
def test_cgroups_limit_the_memory(tree, groups, files, limit):
    assert memory_limits.memory(tree(groups, **files), {}) == (limit * MIB if limit else MACHINE)


@pytest.mark.parametrize(
    ("environment", "limit"),
    [
        ({"SLURM_MEM_PER_NODE": "96"}, 96),
        ({"SLURM_MEM_PER_CPU": "8", "SLURM_CPUS_ON_NODE": "4"}, 32),
        ({"SLURM_MEM_PER_NODE": "0"}, None),  # 0 means all memory
        ({"SLURM_MEM_PER_CPU": "8"}, None),
        ({}, None),
    ],
)
def test_slurm_limits_the_memory(tmp_path, environment, limit):
    assert memory_limits.memory(tmp_path, environment) == (limit * MIB if limit else MACHINE)


def test_a_plan_on_a_cpu_uses_the_limit(monkeypatch):
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "96")
    assert plan_command.device_memory() <= 96 * MIB
