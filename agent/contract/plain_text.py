"""What somebody else wrote, made fit for a terminal and for a line of a log.

Rule 1: a character that is not printed, but moves the cursor, colours, erases or turns the
        direction of reading, is shown as its escape: it must not change what is read.
Rule 2: what ends a line or moves along it becomes a space: one text is one line.
"""

from typing import Final

_BLANKS: Final = str.maketrans(dict.fromkeys("\n\r\t\v\f\x1c\x1d\x1e\x85\u2028\u2029", " "))


def plain(text: str) -> str:
    r"""Return a text that says no more than it shows.

    >>> plain("low on space\nall is well \x1b[2K")
    'low on space all is well \\x1b[2K'
    >>> plain("r²=0.9, 温度")
    'r²=0.9, 温度'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text.translate(_BLANKS))


def plain_json(text: str) -> str:
    r"""Return JSON text that a terminal may show; it means the same.

    >>> plain_json('{"why":"\u202e"}')
    '{"why":"\\u202e"}'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escape_json(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _escape_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
