"""Words as lexical matching sees them: lower case, accents and endings removed, function words left out.

The endings are English ones (plural, -ed, -ing, -ly); other languages match by whole words.
"""

from __future__ import annotations

import re
import unicodedata

_ENDINGS = (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("ly", ""), ("es", ""), ("s", ""))
_WORD = re.compile(r"\w+(?:['’]\w+)?")

_FUNCTION_WORDS = """
    a about above after again against all also am an and any are as at be because been before being below between
    both but by can could d did do does doing down during each few for from further get give had has have having he
    her here hers herself him himself his how i if in into is it its itself just ll m me more most my myself no nor not
    now of off on once only or other our ours out over own please re s same she should so some such t tell than that
    the their theirs them themselves then there these they this those through to too under until up ve very was we were
    what when where which while who whom whose why will with would you your yours yourself us may might shall must
    called name named many much
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def words(text: str) -> list[str]:
    """Return all words of `text`, folded and stemmed, in order."""
    return [stem(_fold(found.group())) for found in _WORD.finditer(text)]


def content_words(text: str) -> list[str]:
    """Return the words of `text` that are not function words, folded and stemmed, in order."""
    return [stem(word) for word in spelled_words(text)]


def spelled_words(text: str) -> list[str]:
    """Return the words of `text` that are not function words, folded only, in order."""
    return [word for word in (_fold(found.group()) for found in _WORD.finditer(text)) if is_content(word)]


def is_content(folded: str) -> bool:
    """Say whether a lower-case word carries content."""
    return folded not in FUNCTION_WORDS


def stem(word: str) -> str:
    """Return `word` without its common English ending; at least three characters stay."""
    for ending, replacement in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: len(word) - len(ending)] + replacement
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "ls":
        word = word[:-1]
    return word[:-1] if len(word) > 4 and word.endswith("e") else word


def _fold(word: str) -> str:
    word = re.sub(r"['’]s?$|['’]s$", "", word.lower())
    decomposed = unicodedata.normalize("NFKD", word)
    return "".join(character for character in decomposed if not unicodedata.combining(character))
