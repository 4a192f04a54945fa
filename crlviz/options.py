"""What options of the command mean, where more than one verb has them."""

from crlviz.errors import UsageError


def read_size(text: str) -> tuple[int, int]:
    """Width and height of ``640x480``, in pixels."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UsageError(f"--size takes WIDTHxHEIGHT in pixels, for example 640x480, not {text!r}")
    return int(width), int(height)
