"""What options of the command mean, where more than one verb has them; functions of Python refuse in the same words."""

from collections.abc import Iterable

from crlviz.errors import UsageError

_SMALLEST, _LARGEST = 16, 4096  # pixels of a picture's side
_MOST_FPS = 240


def read_size(text: str) -> tuple[int, int]:
    """Width and height of ``640x480``, in pixels.

    Raises:
      UsageError: not two whole numbers, or an impossible size.
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UsageError(f"--size takes WIDTHxHEIGHT in pixels, for example 640x480, not {text!r}")
    check_size(int(width), int(height))
    return int(width), int(height)


def check_size(width: int, height: int) -> None:
    """Refuse a picture of an impossible size, in pixels. Raises ``UsageError``."""
    if not all(_SMALLEST <= side <= _LARGEST for side in (width, height)):
        raise UsageError(f"a picture of {width}x{height} pixels: each side takes {_SMALLEST} to {_LARGEST}")


def check_rate(fps: float | None) -> None:
    """Refuse an impossible number of frames a second; None is a choice of ours. Raises ``UsageError``."""
    if fps is not None and not 0 < fps <= _MOST_FPS:
        raise UsageError(f"{fps:g} frames a second; --fps takes more than 0 and at most {_MOST_FPS}")


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Refuse a value that is none of those known. Raises ``UsageError``."""
    known = list(known)
    if value not in known:
        raise UsageError(f"{name} {value!r} is unknown; take {', '.join(known[:-1])} or {known[-1]}")


def check_count(number: int | None, what: str) -> None:
    """Refuse less than one of something; None is a choice of ours. Raises ``UsageError``."""
    if number is not None and number < 1:
        raise UsageError(f"{number} {what}: at least one is needed")


def nearest(word: str, known: Iterable[str]) -> str:
    """What was meant by a word that is not known, to stand behind it: `` (did you mean depth?)``, or nothing."""
    import difflib

    near = difflib.get_close_matches(word, list(known), 3, 0.6)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def read_values(flag: str, text: str) -> list[str]:
    """The single values of ``4,8`` or ``0-4``, each once."""
    values: list[str] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if dash and low.isdecimal() and high.isdecimal():
            values += map(str, range(int(low), int(high) + 1))
        else:
            values.append(part.strip())
    if not all(values) or not values:
        raise UsageError(f"{flag} takes values with commas between, or a range as 0-4, not {text!r}")
    return list(dict.fromkeys(values))
