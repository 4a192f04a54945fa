"""GPUs that programs can be compiled for on a machine without them: XLA's description of each, and its rates."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from crlviz.errors import UsageError
from crlviz.options import nearest

# The element types of XLA (PrimitiveType) under which a description gives the rate of the tensor cores.
_TENSOR_CORES = {"tf32": "11", "bfloat16": "16"}
_FOLDER = resources.files("training.bench") / "device_targets"


@dataclass(frozen=True)
class Card:
    """A GPU.

    Attributes:
      name: what its maker calls it.
      text: XLA's description of it (message ``stream_executor.GpuTargetConfigProto``, as text).
      memory: bytes.
      bandwidth: bytes per second that its memory reads or writes.
      flops: FLOP/s of its matrix products in each precision of the setting ``precision``.
    """

    name: str
    text: str
    memory: int
    bandwidth: float
    flops: Mapping[str, float]


def names() -> list[str]:
    """Cards with a description in crlviz."""
    return sorted(file.name.removesuffix(".txtpb") for file in _FOLDER.iterdir() if file.name.endswith(".txtpb"))


def read(device: str) -> Card:
    """The card that ``--device`` names: one of ``names()``, or a file with XLA's description of another.

    Raises:
      UsageError: there is no such card or file, or the file does not describe a card.
    """
    if device in names():
        return parse((_FOLDER / f"{device}.txtpb").read_text(encoding="utf-8"), device)
    path = Path(device)
    if not path.exists():
        raise UsageError(
            f"--device takes {', '.join(names())} or a file with XLA's description of a card (.txtpb), not "
            f"{device!r}{nearest(device, names())}"
        )
    try:
        return parse(path.read_text(encoding="utf-8"), device)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{device} cannot be read ({error}); --device takes {', '.join(names())}") from None


def parse(text: str, source: str) -> Card:
    """Read a description. If it has no rates of tensor cores, their precisions get the rate of float32.

    Raises:
      UsageError: it lacks what a plan needs; ``source`` names it.
    """
    bare = re.sub(r"#.*", "", text)
    values = {}
    for name in ("device_memory_size", "memory_bandwidth", "core_count", "fpus_per_core", "clock_rate_ghz"):
        found = re.search(rf"\b{name}:\s*([\d.]+)", bare)
        if not found:
            raise UsageError(
                f"{source} has no {name}: --device takes XLA's description of a card, as {_FOLDER}/h100.txtpb"
            )
        values[name] = float(found[1])
    cores, clock = values["core_count"], values["clock_rate_ghz"] * 1e9
    flops = {"float32": 2 * cores * values["fpus_per_core"] * clock}
    _, _, tensor_cores = bare.partition("matrix_unit_description")
    rates = dict(re.findall(r"rate_infos\s*\{\s*key:\s*(\d+)\s*value\s*\{([^}]*)\}", tensor_cores))
    for precision, key in _TENSOR_CORES.items():
        rate = dict(re.findall(r"(\w+):\s*([\d.]+)", rates.get(key, "")))
        if rate:
            units, operations = float(rate["units_per_core"]), float(rate["ops_per_clock"])
            flops[precision] = 2 * cores * units * operations * float(rate["clock_rate_ghz"]) * 1e9
        else:
            flops[precision] = flops["float32"]
    described = re.search(r'device_description_str:\s*"([^"]*)"', bare)
    name = described[1] if described else Path(source).stem
    return Card(name, text, int(values["device_memory_size"]), values["memory_bandwidth"], flops)
