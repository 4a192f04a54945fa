"""Memory limit of this process: the machine's memory, or less in a container or a cluster job."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path


def memory(root: Path = Path("/"), environment: Mapping[str, str] | None = None) -> int:
    """Memory limit in bytes: the minimum of the machine's memory, the cgroup limits and the SLURM allocation.

    Args:
      root: directory that contains ``proc`` and ``sys``.
      environment: environment variables; None: those of this process.
    """
    environment = os.environ if environment is None else environment
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_control_groups(root), *_slurm(environment)])


def _control_groups(root: Path) -> Iterator[int]:
    """Limits in bytes of this process's cgroups (version 1 and 2) and of their parents, as far as they are visible.

    In a container the path may be the one on the host, which does not exist inside. The container's own group is then
    at the top of the tree.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
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
            except (OSError, ValueError):  # no such file, or the text "max"
                continue


def _slurm(environment: Mapping[str, str]) -> Iterator[int]:
    """Bytes that SLURM gives this job on this node. SLURM counts in MiB; 0 means all memory."""
    per_node, per_core = (environment.get(f"SLURM_MEM_PER_{part}", "") for part in ("NODE", "CPU"))
    cores = environment.get("SLURM_CPUS_ON_NODE", "")
    if per_node.isdecimal() and int(per_node):
        yield int(per_node) << 20
    elif per_core.isdecimal() and int(per_core) and cores.isdecimal():
        yield int(per_core) * int(cores) << 20
