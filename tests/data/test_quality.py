"""Each rule of a filter rejects what it is for, and ordinary text passes all of them."""

from hypothesis import given
from hypothesis import strategies as st

from deberta_jax.data.quality import _repeated_ngrams, reasons, rejection

# 70 distinct words in sentences, with the usual small words between them.
WORDS = [f"{first}{last}" for first in ("bar", "cel", "dom", "fen", "gul", "hap", "jit") for last in "aeioumnrst"]
PROSE = ". ".join(
    f"The {WORDS[i]} of the {WORDS[i + 1]} and {WORDS[i + 2]} that {WORDS[i + 3]} " for i in range(0, len(WORDS) - 3, 4)
)
NAMES = " ".join(WORDS)

REJECTED = {
    "length": "Too short.",
    "word length": " ".join(f"{word}{word}{word}" for word in WORDS),
    "symbols": " ".join(f"#{word}" for word in WORDS),
    "bullets": "\n".join(f"- {word}{word} {word}" for word in WORDS),
    "ellipses": "\n".join(f"{' '.join(WORDS[i : i + 10])}..." for i in range(0, 70, 10)),
    "alphabetic words": NAMES + " 100" * 30,
    "repeated lines": "\n".join([NAMES[:60]] * 3 + [NAMES[i : i + 60] for i in range(0, 300, 60)]),
    "repeated paragraphs": "".join(
        f"{PROSE[i : i + 200]}\n{PROSE[i + 200 : i + 400]}\n\nMore\n\n" for i in range(0, 1200, 400)
    ),
    "repeated n-grams": f"{NAMES} {' '.join(WORDS[:12])}. {' '.join(WORDS[:12])} {' '.join(WORDS[:12])}",
}
ENGLISH = {
    "stop words": NAMES,
    "placeholder text": f"{PROSE} Lorem ipsum dolor.",
    "curly brackets": f"{PROSE} function() {{ }}",
}


def test_ordinary_text_passes():
    assert rejection(PROSE, "english") is None
    assert rejection(NAMES, "gopher") is None
    assert rejection("x", "none") is None


def test_each_rule_rejects_its_example():
    assert {reason: rejection(document, "gopher") for reason, document in REJECTED.items()} == {
        reason: reason for reason in reasons("gopher")
    }
    assert {reason: rejection(document, "english") for reason, document in ENGLISH.items()} == {
        reason: reason for reason in reasons("english")[len(reasons("gopher")) :]
    }


def has_repeated_ngrams(words):
    """The same rule as loops over n-grams."""
    total = sum(map(len, words))
    for n, limit in {2: 0.20, 3: 0.18, 4: 0.16}.items():
        ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        # Of n-grams with equal counts, the first in order of its words, as numbered by their first occurrence.
        counts = {ngram: ngrams.count(ngram) for ngram in ngrams}
        shares = {sum(map(len, ngram)) * count for ngram, count in counts.items() if count == max(counts.values())}
        if max(counts.values(), default=0) > 1 and min(shares) > limit * total:
            return True
        if max(counts.values(), default=0) > 1 and max(shares) > limit * total:
            return None  # depends on which of several equally frequent n-grams is measured
    for n in range(5, 11):
        ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        repeated = {i + j for i, ngram in enumerate(ngrams) for j in range(n) if ngram in ngrams[:i]}
        if sum(len(words[i]) for i in repeated) > (0.20 - n / 100) * total + 1e-9:
            return True
    return False


@given(
    st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "eeeee", "f", "gg"]), min_size=1, max_size=40),
    st.integers(0, 30),
)
def test_repeated_ngrams_are_counted_as_in_a_loop(words, copied):
    words = words + [f"w{i}" for i in range(30)] + words[:copied]
    expected = has_repeated_ngrams(words)
    assert expected is None or _repeated_ngrams(" ".join(words)) == expected
