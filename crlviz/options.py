"""What options of the command mean, where more than one verb has them."""

from crlviz.errors import UsageError


def read_size(text: str) -> tuple[int, int]:
    """Width and height of ``640x480``, in pixels."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UsageError(f"--size takes WIDTHxHEIGHT in pixels, for example 640x480, not {text!r}")
    return int(width), int(height)


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
