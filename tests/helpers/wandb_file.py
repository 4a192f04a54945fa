"""Reads the history of a .wandb file: after seven bytes a log in LevelDB's format, of protocol buffers."""

import json
import struct
from pathlib import Path

_BLOCK, _HEADER = 32768, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(path: Path) -> list[bytes]:
    """The records of the log; one may be spread over several pieces, and no piece crosses the end of a block."""
    data, at, found, piece = path.read_bytes(), _HEADER, [], b""
    while at + _HEADER <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER:
            at += _BLOCK - at % _BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + _HEADER])
        piece += data[at + _HEADER : at + _HEADER + size]
        at += _HEADER + size
        if kind in (_FULL, _LAST):
            found.append(piece)
            piece = b""
    return found


def history(path: Path) -> list[dict]:
    """The rows that were logged, as JSON values by name, with their ``_step``."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for data in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            rows.append(items)
    return rows
