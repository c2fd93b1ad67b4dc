"""Answers as they are compared: what of their writing counts, and which words they consist of."""

import re
import unicodedata

_QUOTES = "\"'`«»‹›“”„‟‘’‚‛「」『』 "
_BEFORE = _QUOTES + "¡¿"
_AFTER = _QUOTES + ".,;:!?。、"
_AROUND = _BEFORE + _AFTER + "()[]{}<>*_–—"
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff"  # Kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


def normalised(text: str) -> str:
    """`text` in lower case and composed Unicode, single-spaced, without what only closes it in.

    That is quotes around it and the punctuation of a sentence: signs are what is said (`-5`, `C++`,
    `+`), and a text of nothing else stays as it is.
    """
    folded = _folded(text)
    return folded.lstrip(_BEFORE).rstrip(_AFTER) or folded


def words(text: str) -> list[str]:
    """The words of `text`, folded as `normalised` does, without the punctuation around each.

    In writing without spaces (Chinese, Japanese, Thai, …) each character is a word, beside words of
    other scripts: the mixed segmentation of Cui et al., "A span-extraction dataset for Chinese
    machine reading comprehension", EMNLP 2019, which MLQA takes too.
    """
    found = _WORD.findall(_folded(text))
    return [word for word in (one.strip(_AROUND) for one in found) if word] or found


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
