"""Text from files, made safe for where it is shown: a terminal, and the scripts of a page."""

import json
from typing import Any


def printable(text: object) -> str:
    """The text on one line, without what a terminal would obey: each such character, line ends too, is a ``?``.

    That is all that Python does not count as printable: escapes and other controls, marks that turn the reading
    direction, halves of surrogate pairs.
    """
    return "".join(c if c.isprintable() else "?" for c in str(text))


def script_json(value: Any) -> str:
    """A value as JSON that can stand in a ``<script>`` element, as data or in the midst of JavaScript.

    Strings may hold anything: without a ``<``, nothing in them ends the element or opens a comment.

    Raises:
      ValueError: a number that is not finite, which JSON has not.
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
