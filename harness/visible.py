"""Text of a model or a file, on a terminal or a page, as text and nothing else."""

from __future__ import annotations

import unicodedata

# Joiners: without them Persian, Hindi and many emoji cannot be read, and they move nothing.
_HARMLESS = "\u200c\u200d\n"


def visible(text: str, *, tabs: bool = False) -> str:
    """The text with every control and invisible formatting character written as an escape.

    An escape sequence could recolour, move or rewrite what a terminal shows; a bidirectional
    override would turn a line around, so that a page shows what nobody said; an invisible character
    makes two different texts look the same. Newlines stay, tabs only with ``tabs``; a carriage
    return becomes ``\\r``. What is visible already is given back as it is.
    """
    if text.replace("\n", "").isprintable():  # the usual case, quickly
        return text
    kept = _HARMLESS + "\t" if tabs else _HARMLESS
    return "".join(c if c in kept or _plain(c) else _escaped(c) for c in text)


def _plain(character: str) -> bool:
    # Cc, Cf, Cs, Co, Cn: control, format, surrogate, private, unassigned; Zl, Zp: separators.
    category = unicodedata.category(character)
    return not (category[0] == "C" or category in ("Zl", "Zp"))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
