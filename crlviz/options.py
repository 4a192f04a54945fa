"""Parsing and checks of options that several verbs share. The Python functions use the same checks and messages."""

from collections.abc import Iterable, Mapping
from typing import Any

import click

from crlviz.errors import UsageError

_SMALLEST, _LARGEST = 16, 4096  # pixels of each side of a picture
_MOST_FPS = 240


class Command(click.Command):
    """A command that also takes the old names of its options, which ``--help`` does not show.

    Args:
      arguments, options: those of ``click.Command``.
      old_options: old name of an option to its current name. Using one prints a hint on stderr.
    """

    def __init__(self, *arguments: Any, old_options: Mapping[str, str], **options: Any):
        super().__init__(*arguments, **options)
        self.old_options = old_options

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(map(self._current, args)))

    def _current(self, argument: str) -> str:
        name, equals, value = argument.partition("=")
        if name not in self.old_options:
            return argument
        hint_at_new_name(name, self.old_options[name])
        return self.old_options[name] + equals + value


def hint_at_new_name(old: str, new: str) -> None:
    """Tell the user on stderr what an option is called now."""
    click.echo(f"{old} is called {new} now", err=True)


# How agents choose actions; ``action_choice.read`` parses it.
policy = click.option(
    "--policy",
    default="mean",
    show_default=True,
    help="The policy's action: its mean, a sample, or by the critic best-of-K or softmax-K of K samples, such as "
    "best-of-16.",
)
# Old names of its values, for ``Command``.
OLD_POLICIES = {
    "--deterministic": "--policy=mean",
    "--stochastic": "--policy=sample",
    "--sampled": "--policy=sample",
}


def read_size(text: str) -> tuple[int, int]:
    """Parse ``640x480`` into width and height in pixels.

    Raises:
      UsageError: not two whole numbers, or a size out of range.
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UsageError(f"--size takes WIDTHxHEIGHT in pixels, for example 640x480, not {text!r}")
    check_size(int(width), int(height))
    return int(width), int(height)


def check_size(width: int, height: int) -> None:
    """Check the size of a picture in pixels. Raises ``UsageError`` if it is out of range."""
    if not all(_SMALLEST <= side <= _LARGEST for side in (width, height)):
        raise UsageError(f"a picture of {width}x{height} pixels: each side must be {_SMALLEST} to {_LARGEST}")


def check_rate(fps: float | None) -> None:
    """Check frames per second; None means the default. Raises ``UsageError`` if out of range."""
    if fps is not None and not 0 < fps <= _MOST_FPS:
        raise UsageError(f"{fps:g} frames a second; --fps takes more than 0 and at most {_MOST_FPS}")


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Check that a value is one of those known. Raises ``UsageError`` if not."""
    known = list(known)
    if value not in known:
        raise UsageError(f"{name} {value!r} is unknown; take {', '.join(known[:-1])} or {known[-1]}")


def check_count(number: int | None, what: str) -> None:
    """Check that a count is at least 1; None means the default. Raises ``UsageError`` if not."""
    if number is not None and number < 1:
        raise UsageError(f"{number} {what}: at least one is needed")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown word: `` (did you mean depth?)``, or an empty string."""
    import difflib

    near = difflib.get_close_matches(word, list(known), 3, 0.6)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def read_values(flag: str, text: str) -> list[str]:
    """Parse ``4,8`` or ``0-4`` into its values, without duplicates.

    Raises:
      UsageError: an empty value.
    """
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
