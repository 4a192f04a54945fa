"""Slices, gathers and scatters at places that may be known only when the program runs."""

from typing import Any

import jax
import numpy as np

from crlviz.browser.memory import Tensor, Value
from crlviz.browser.structural import join
from crlviz.browser.tracing import Trace, literal, rule

_INT = np.dtype(np.int32)


def _shape(shape: tuple[int, ...], dtype: Any = _INT) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _clamped_place(trace: Trace, starts: list[Tensor], limits: list[int], strides: Any, shape: tuple[int, ...]) -> Any:
    """Sum of clamp(start, 0, limit) * stride over dimensions, a Tensor [shape] of whole numbers."""
    known, terms = np.zeros(shape, np.int32), []
    unknown: list[Tensor] = []
    for start, limit, stride in zip(starts, limits, strides, strict=True):
        if limit == 0 or stride == 0:
            continue
        if isinstance(start, np.ndarray):
            known = known + np.clip(start.astype(np.int64), 0, limit).astype(np.int32) * np.int32(stride)
        else:
            terms.append(f"Math.min(Math.max({{{len(unknown)}}},0),{limit})*{literal(np.int32(stride))}")
            unknown.append(start)
    if not terms:
        return np.broadcast_to(known, shape)
    if (known != 0).any():
        terms.append(f"{{{len(unknown)}}}")
        unknown.append(known)
    return trace.compute("+".join(terms), unknown, _shape(shape))


def _view(trace: Trace, source: Value, strides: tuple[int, ...], starts: list[Tensor], sizes: Any) -> Value:
    """The part of these sizes of a strided Value that begins at clamped starts []: a Value with a base."""
    limits = [length - size for length, size in zip(source.shape, sizes, strict=True)]
    place = _clamped_place(trace, starts, limits, strides, ())
    index = source.index[tuple(slice(size) for size in sizes)]
    if isinstance(place, np.ndarray):
        return source.moved(index + int(place))
    if source.base is not None:
        place = trace.compute("{0}+{1}|0", [source.base, place], _shape(()))
    return Value(source.dtype, index, place, source.touched)


@rule("dynamic_slice")
def _dynamic_slice(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    source, strides = trace.strided(operands[0])
    return _view(trace, source, strides, operands[1:], params["slice_sizes"])


@rule("dynamic_update_slice")
def _dynamic_update(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    source, update, *starts = operands
    limits = [length - size for length, size in zip(out.shape, update.shape, strict=True)]
    strides = [int(np.prod(out.shape[d + 1 :])) for d in range(len(out.shape))]
    place = _clamped_place(trace, starts, limits, strides, ())
    spot = np.arange(int(np.prod(out.shape)), dtype=np.int32).reshape(out.shape)
    spot = spot[tuple(slice(size) for size in update.shape)]
    addresses: Tensor
    if isinstance(place, np.ndarray):
        addresses = spot + int(place)
    else:
        scalar = place.moved(np.broadcast_to(place.index, update.shape))
        addresses = trace.compute("{0}+{1}", [scalar, spot], _shape(update.shape))
    return _write(trace, source, addresses, update, out, "{1}")


def _at(trace: Trace, tensor: Tensor, places: np.ndarray) -> Tensor:
    """The elements of a tensor at flat places."""
    return trace.move(lambda index: index.ravel()[places], tensor)


class _Places:
    """Where the windows of a gather or scatter lie in its operand.

    Attributes:
      starts: for each indexed dimension of the operand its starts [batch], a list of Tensors.
      dimensions: those dimensions.
      batch: shape of the batch; ``windows``: shape of a window, one size per dimension of the operand.
      fixed: places [batch] along the operand's own batch dimensions, by dimension.
    """

    def __init__(self, trace: Trace, indices: Tensor, dimensions: Any, windows: Any, own_batch: Any, batch_of: Any):
        self.batch = indices.shape[:-1]
        self.dimensions, self.windows = dimensions, tuple(windows)
        columns = np.arange(int(np.prod(indices.shape))).reshape(indices.shape)
        self.starts = [_at(trace, indices, columns[..., k]) for k in range(len(dimensions))]
        self.fixed = {
            d: np.broadcast_to(np.arange(self.batch[b]).reshape(-1, *(1,) * (len(self.batch) - b - 1)), self.batch)
            for d, b in zip(own_batch, batch_of, strict=True)
        }

    @property
    def known(self) -> bool:
        return all(isinstance(start, np.ndarray) for start in self.starts)

    def inside(self, trace: Trace, shape: tuple[int, ...]) -> Tensor:
        """Whether each window [batch] lies in an operand of this shape."""
        checks: list[str] = []
        unknown: list[Tensor] = []
        known = np.ones(self.batch, bool)
        for d, start in zip(self.dimensions, self.starts, strict=True):
            limit = shape[d] - self.windows[d]
            if isinstance(start, np.ndarray):
                known = known & (start >= 0) & (start.astype(np.int64) <= limit)
            else:
                place = f"{{{len(unknown)}}}"
                checks.append(f"{place}>=0&&{place}<={limit}")
                unknown.append(start)
        if not unknown:
            return known
        if not known.all():
            checks.append(f"{{{len(unknown)}}}")
            unknown.append(known)
        return trace.compute("&&".join(checks) + "?1:0", unknown, _shape(self.batch, np.dtype(bool)))

    def offsets(self, strides: Any) -> np.ndarray:
        """What the elements [batch, *windows] add to the address of their window, apart from its start."""
        result = np.zeros((*self.batch, *self.windows), np.int64)
        count = len(self.windows)
        for d, (size, stride) in enumerate(zip(self.windows, strides, strict=True)):
            result = result + stride * np.arange(size).reshape(-1, *(1,) * (count - d - 1))
            if d in self.fixed:
                result = result + stride * self.fixed[d].reshape(*self.batch, *(1,) * count)
        return result

    def window_start(self, trace: Trace, shape: tuple[int, ...], strides: Any) -> Tensor:
        """What the start of each window [batch], moved into an operand of this shape, adds to its address."""
        limits = [shape[d] - self.windows[d] for d in self.dimensions]
        return _clamped_place(trace, self.starts, limits, [strides[d] for d in self.dimensions], self.batch)


def _mode(params: dict[str, Any]) -> str:
    return str(params["mode"]).rsplit(".", 1)[-1].lower()


@rule("gather")
def _gather(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    numbers = params["dimension_numbers"]
    own = tuple(getattr(numbers, "operand_batching_dims", ()))
    places = _Places(
        trace, operands[1], numbers.start_index_map, params["slice_sizes"], own,
        getattr(numbers, "start_indices_batching_dims", ()),
    )  # fmt: skip
    source, strides = trace.strided(operands[0])
    offsets, start = places.offsets(strides), places.window_start(trace, source.shape, strides)
    count, batch = len(places.windows), len(places.batch)
    dropped = (*numbers.collapsed_slice_dims, *own)
    window_dims = list(numbers.offset_dims)
    batch_dims = [d for d in range(len(out.shape)) if d not in window_dims]

    def arranged(array: np.ndarray) -> np.ndarray:
        """From [batch, *windows] to the shape of the result."""
        array = np.squeeze(array, tuple(batch + d for d in dropped))
        return np.moveaxis(array, range(array.ndim), [*batch_dims, *window_dims])

    def per_window(tensor: Tensor) -> Tensor:
        shape = (*places.batch, *places.windows)
        return trace.move(
            lambda index: arranged(np.broadcast_to(index.reshape(*places.batch, *(1,) * count), shape)), tensor
        )

    first = int(source.index.flat[0]) if source.index.size else 0
    if isinstance(start, np.ndarray):
        result = source.moved((first + arranged(offsets) + per_window(start)).astype(np.int32))
    elif int(np.prod(places.batch)) == 1:
        result = Value(
            source.dtype, (first + arranged(offsets)).astype(np.int32), _scalar(trace, start, source), source.touched
        )
    else:
        result = _load(trace, source, first + arranged(offsets), per_window(start))
    if "fill" not in _mode(params):
        return result
    inside = places.inside(trace, source.shape)
    if isinstance(inside, np.ndarray) and inside.all():
        return result
    filling = _filling(params.get("fill_value"), out.dtype)
    return trace.compute(f"{{0}}?{{1}}:{literal(filling)}", [per_window(inside), result], out)


def _filling(value: Any, dtype: np.dtype) -> Any:
    """What stands for elements that are not there, as jax chooses it."""
    if value is not None:
        return np.asarray(value, dtype)[()]
    if dtype.kind == "f":
        return np.float32(np.nan)
    return np.bool_(True) if dtype.kind == "b" else (np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max)


def _scalar(trace: Trace, start: Value, source: Value) -> Value:
    place = start.moved(start.index.reshape(()))
    return place if source.base is None else trace.compute("{0}+{1}|0", [source.base, place], _shape(()))


def _load(trace: Trace, source: Value, offsets: np.ndarray, start: Tensor) -> Value:
    """Elements of a Value at its addresses ``offsets`` plus ``start``, both of the result's shape."""
    base = trace.value(start)
    if source.base is not None:
        base = trace.compute("{0}+{1}|0", [source.base, base], _shape(offsets.shape))
    return Value(source.dtype, offsets.astype(np.int32), base, source.touched)


_SCATTERS = {
    "scatter": "{1}",
    "scatter-add": "{0}+{1}",
    "scatter_add": "{0}+{1}",
    "scatter-sub": "{0}-{1}",
    "scatter-mul": "{0}*{1}",
    "scatter_mul": "{0}*{1}",
    "scatter-min": "Math.min({0},{1})",
    "scatter_min": "Math.min({0},{1})",
    "scatter-max": "Math.max({0},{1})",
    "scatter_max": "Math.max({0},{1})",
}


@rule(*_SCATTERS)
def _scatter(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    out = out[0] if isinstance(out, list) else out
    source, indices, update = operands
    numbers = params["dimension_numbers"]
    own = tuple(getattr(numbers, "operand_batching_dims", ()))
    dropped = (*numbers.inserted_window_dims, *own)
    window_dims = list(numbers.update_window_dims)
    sizes = iter(update.shape[d] for d in window_dims)
    windows = [1 if d in dropped else next(sizes) for d in range(len(out.shape))]
    places = _Places(
        trace, indices, numbers.scatter_dims_to_operand_dims, windows, own,
        getattr(numbers, "scatter_indices_batching_dims", ()),
    )  # fmt: skip
    strides = [int(np.prod(out.shape[d + 1 :])) for d in range(len(out.shape))]
    batch, count = len(places.batch), len(windows)
    batch_dims = [d for d in range(len(update.shape)) if d not in window_dims]
    full = (*places.batch, *windows)

    def spread(index: np.ndarray) -> np.ndarray:
        """Of the update, from its shape to [batch, *windows]."""
        return np.transpose(index, [*batch_dims, *window_dims]).reshape(full)

    def per_window(tensor: Tensor) -> Tensor:
        return trace.move(lambda index: np.broadcast_to(index.reshape(*places.batch, *(1,) * count), full), tensor)

    offsets = places.offsets(strides).astype(np.int32)
    start = per_window(places.window_start(trace, out.shape, strides))
    # Windows outside are left out, whether clamped or not: their updates go to the address after the last.
    inside = places.inside(trace, out.shape)
    outside = np.int32(np.prod(out.shape))
    addresses: Tensor
    if isinstance(start, np.ndarray) and isinstance(inside, np.ndarray):
        addresses = np.where(np.asarray(per_window(inside)), offsets + start, outside)
    elif "clip" in _mode(params):
        addresses = trace.compute("{0}+{1}", [offsets, start], _shape(full))
    else:
        addresses = trace.compute(f"{{2}}?{{0}}+{{1}}:{outside}", [offsets, start, per_window(inside)], _shape(full))
    return _write(trace, source, addresses, trace.move(spread, update), out, _SCATTERS[name], batch)


def _write(
    trace: Trace, source: Tensor, addresses: Tensor, update: Tensor, out: Any, template: str, _: int = 0
) -> Value:
    """A tensor with elements at flat places changed by those of an update; places beyond its end are left out."""
    if out.dtype.kind != "f":
        template = {"{0}*{1}": "Math.imul({0},{1})"}.get(template, template)
    if isinstance(addresses, np.ndarray):
        return _write_known(trace, source, addresses.ravel(), update, out, template)
    place, new = trace.value(addresses), trace.value(update)
    old = trace.value(source)
    size = int(np.prod(out.shape))
    reads = [old, place, new]

    def code(codegen: Any, results: list[Value]) -> str:
        heap, target = old.heap, codegen.address(results[0])
        copied = f"for(let i=0;i<{size};i++){heap}[{target}+i]={heap}[{codegen.offset(old, 'i')}];"
        new_element = f"{heap}[{codegen.offset(new, 'i')}]"
        changed = template.format(f"{heap}[p]", new_element)
        return (
            f"{copied}for(let i=0;i<{place.index.size};i++){{let p=I[{codegen.offset(place, 'i')}];"
            f"if(p<{size}){{p+={target};{heap}[p]={changed}}}}}"
        )

    return trace.opaque(reads, [out], code)[0]


def _write_known(trace: Trace, source: Tensor, places: np.ndarray, update: Tensor, out: Any, template: str) -> Value:
    """``_write`` at known places [updates]: a change of addresses, and arithmetic on the changed elements alone."""
    size = int(np.prod(out.shape))
    kept = np.flatnonzero(places < size)
    old, new = trace.value(source), trace.value(update)
    current = old if old.base is None else trace.copy(old)
    flat, new = current.moved(current.index.ravel()), new.moved(new.index.ravel())
    while kept.size:  # the first update of each place, then the second of those that have two, and so on
        _, first = np.unique(places[kept], return_index=True)
        turn = kept[np.sort(first)]
        elements = new.moved(new.index[turn])
        if template != "{1}":
            shape = _shape((turn.size,), out.dtype)
            before = flat.moved(flat.index[places[turn]])
            elements = trace.compute(template, [before, elements], shape, rounds=out.dtype.kind == "f")

        def put(indices: list[np.ndarray], turn: np.ndarray = turn) -> np.ndarray:
            index = indices[0].copy()
            index[places[turn]] = indices[1]
            return index

        flat = join(trace, [flat, elements], put)
        kept = np.setdiff1d(kept, turn, assume_unique=True)
    return flat.moved(flat.index.reshape(out.shape))
