"""Settings that a config file holds; it may come from elsewhere and hold anything."""

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from crlviz.errors import UsageError

_T = TypeVar("_T")


def build(kind: type[_T], values: Any, whose: str) -> _T:
    """Build a dataclass of settings that all have defaults; check names and types.

    Args:
      kind: the dataclass.
      values: settings by name, as the file has them. A whole number serves as a float.
      whose: the owner of the settings, in words for messages.

    Raises:
      UsageError: an unknown setting, as of a newer crlviz, or a value of another type; or an error of the dataclass.
    """
    assert is_dataclass(kind)
    defaults = {field.name: field.default for field in fields(kind)}
    if unknown := sorted(values.keys() - defaults.keys()):
        raise UsageError(f"this crlviz has no setting {unknown[0]!r} {whose}; upgrade crlviz")
    values = {
        name: float(value) if type(value) is int and type(defaults[name]) is float else value
        for name, value in values.items()
    }
    for name, value in values.items():
        if type(value) is not type(defaults[name]):
            raise UsageError(f"{name} is {value!r}, not of type {type(defaults[name]).__name__}")
    return kind(**values)
