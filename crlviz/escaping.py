"""Escaping of text from files for a terminal and for scripts in HTML."""

import json
from typing import Any


def printable(text: object) -> str:
    """The text on one line, with each unprintable character, line ends included, replaced by ``?``.

    Unprintable, by ``str.isprintable``, are escape and other control characters, marks that change the reading
    direction, and lone surrogates. A terminal might obey them.
    """
    return "".join(c if c.isprintable() else "?" for c in str(text))


def script_json(value: Any) -> str:
    """A value as JSON that is safe inside a ``<script>`` element, as data or within JavaScript.

    Strings may hold anything: each ``<`` is escaped, so no string can end the element or open a comment.

    Raises:
      ValueError: a number is not finite; JSON cannot express it.
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
