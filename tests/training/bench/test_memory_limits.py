"""Memory that a process may take, against files as the kernel and SLURM write them."""

import os

import pytest

from training.bench import memory_limits, plan

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 1 << 20


@pytest.fixture
def tree(tmp_path):
    """Lay files out under a root; a path without a slash before it is of sys/fs/cgroup."""

    def lay(groups, **files):
        for name, text in {"proc/self/cgroup": groups, **files}.items():
            path = tmp_path / (name if name.startswith("proc") else f"sys/fs/cgroup/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return lay


@pytest.mark.parametrize(
    ("groups", "files", "least"),
    [
        # A service: its own group has no limit, the slice around it has.
        ("0::/a.slice/b.scope\n", {"a.slice/b.scope/memory.max": "max\n", "a.slice/memory.max": f"{64 * MIB}\n"}, 64),
        # A container with a namespace of its own, and one without: its path is that outside.
        ("0::/\n", {"memory.max": f"{32 * MIB}\n"}, 32),
        ("0::/docker/4f\n", {"memory.max": f"{32 * MIB}\n"}, 32),
        # Version 1, whose limit of nothing is a number beyond every machine.
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
def test_the_groups_of_this_process_bound_it(tree, groups, files, least):
    assert memory_limits.memory(tree(groups, **files), {}) == (least * MIB if least else MACHINE)


@pytest.mark.parametrize(
    ("environment", "least"),
    [
        ({"SLURM_MEM_PER_NODE": "96"}, 96),
        ({"SLURM_MEM_PER_CPU": "8", "SLURM_CPUS_ON_NODE": "4"}, 32),
        ({"SLURM_MEM_PER_NODE": "0"}, None),  # all of it
        ({"SLURM_MEM_PER_CPU": "8"}, None),
        ({}, None),
    ],
)
def test_a_job_bounds_it(tmp_path, environment, least):
    assert memory_limits.memory(tmp_path, environment) == (least * MIB if least else MACHINE)


def test_a_plan_on_a_cpu_is_held_to_it(monkeypatch):
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "96")
    assert plan.device_memory() <= 96 * MIB
