"""The metrics of sequence-to-sequence tasks: ROUGE (Lin 2004) for text in any script, and exact match.

See docs/numerics.md, "Task inputs".
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from deberta_jax.errors import InputError

_ROUGE = "rouge1", "rouge2", "rougeL"
# Scripts that do not separate words by spaces: Thai, Lao, Burmese, Khmer, kana, Chinese characters.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


class UnicodeTokenizer:
    """The words that ROUGE counts; the tokenizer of rouge-score drops all letters that are not ASCII.

    Words are in lower case and consist of letters, marks and digits. In scripts without spaces between words, each
    character is a word. The words of ASCII text are those of rouge-score without its stemmer, which is for English.
    """

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        text = unicodedata.normalize("NFKC", text).lower()
        words = "".join(character if unicodedata.category(character)[0] in "LMN" else " " for character in text)
        return _UNSPACED.sub(r" \g<0> ", words).split()


def check_rouge() -> None:
    """Raise InputError if rouge-score is not installed."""
    try:
        import rouge_score  # noqa: F401
    except ImportError:
        raise InputError("sequence-to-sequence metrics require rouge-score: pip install 'deberta-jax[rouge]'") from None


def exact_match(prediction: str, target: str) -> float:
    """Return 1 if two texts are equal after Unicode normalization (NFKC), apart from the amount of white space.

    Case and punctuation count, unlike in SQuAD: a target may be in any language, or not be prose.
    """
    return float(_normalized(prediction) == _normalized(target))


def _normalized(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def seq2seq_scores(examples: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    """Return the mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L, and the mean exact match, from 0 to 1.

    ROUGE-L is that of whole texts, without sentences. Examples without a target are ignored. Raises InputError if none
    has one.
    """
    check_rouge()
    from rouge_score.rouge_scorer import RougeScorer

    pairs = [(e.target, p) for e, p in zip(examples, predictions, strict=True) if e.target is not None]
    if not pairs:
        raise InputError("no example has a target, so nothing can be scored")
    scorer = RougeScorer(list(_ROUGE), tokenizer=UnicodeTokenizer())
    scores = [scorer.score(target, prediction) for target, prediction in pairs]
    means = {name: float(np.mean([score[name].fmeasure for score in scores])) for name in _ROUGE}
    return {**means, "exact_match": float(np.mean([exact_match(p, target) for target, p in pairs]))}
