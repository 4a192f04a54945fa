"""Memory that this process may take: the machine's, or less in a container or a job of a cluster."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path


def memory(root: Path = Path("/"), environment: Mapping[str, str] | None = None) -> int:
    """Bytes: the least of the machine's memory, the limits of this process's control groups, and what SLURM allotted.

    Args:
      root: where ``proc`` and ``sys`` are.
      environment: of the process; None: this one's.
    """
    environment = os.environ if environment is None else environment
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_control_groups(root), *_slurm(environment)])


def _control_groups(root: Path) -> Iterator[int]:
    """Limits of the groups of version 2 and of version 1, and of those around them, as far as they can be seen.

    In a container the path may be that outside, of which nothing is there: the container's own group is then the top.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = Path(path.lstrip("/"))
        for folder in (group, *group.parents):
            try:
                yield int((top / folder / name).read_text(encoding="utf-8"))
            except (OSError, ValueError):  # not there; or "max"
                continue


def _slurm(environment: Mapping[str, str]) -> Iterator[int]:
    """What a job has of this node's memory; SLURM counts in MiB, and 0 is all of it."""
    a_node, a_core = (environment.get(f"SLURM_MEM_PER_{part}", "") for part in ("NODE", "CPU"))
    cores = environment.get("SLURM_CPUS_ON_NODE", "")
    if a_node.isdecimal() and int(a_node):
        yield int(a_node) << 20
    elif a_core.isdecimal() and int(a_core) and cores.isdecimal():
        yield int(a_core) * int(cores) << 20
