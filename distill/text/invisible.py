"""Whether a reader would see anything of a text."""

import re
import unicodedata

# Default_Ignorable_Code_Point of Unicode that is not in category Cf, Cc or Z: joiners, fillers and
# variation selectors; and the Braille pattern without dots, which is drawn as nothing.
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U000e0000-\U000e0fff]"
)


def is_invisible(text: str) -> bool:
    """Return whether a text is empty, or all white space, format characters and other ignorables.

    A text that can be seen costs a look at its first character.
    """
    return all(map(_is_invisible, text))


def _is_invisible(character: str) -> bool:
    if character.isspace() or unicodedata.category(character)[0] == "Z":
        return True
    return unicodedata.category(character) in ("Cf", "Cc") or bool(_IGNORABLE.match(character))
