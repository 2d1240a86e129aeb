"""Small vocabularies for tests: a unigram one with bytes, trained, and a byte pair one, merged by a loop."""

import functools
import itertools
import json
import pickle
from collections import Counter

import regex
from hypothesis import strategies

from deberta_jax.tokenizers.train import train_tokenizer

TEXT = """The quick brown fox jumps over the lazy dog, and eats what it finds there, every day of the year.
Fine offices flow from first efforts; it's 1/2 of what they'd said (in 2021) to be enough - or 12% more than that.
A man eats. A woman sings! Déjà vu: über größere Straßen fuhr er nach Köln. Where do all these words come from?
It is x < 140 > 40 there.
She sells sea shells on the sea shore; the shells she sells are sea shells, she's sure of it, isn't she?
"""
# What normalising does something to, and what is more than one byte or code point.
SIGNS = [
    *"ﬁ½²№…Ａ１㎏ﷺ¨´ｶÅ", "e\u0301", "a\u0302\u0301", "カ\u3099", "ｶﾞ", "\u1112\u1161\u11ab", "\u0301", "\u0651\u064e",
    "😀", "👩\u200d🚀", "🇩🇪", "日本", "\u00a0", "\u200b", "\u200d", "\u3000", "\ufeff", "\ufffd", "\u2581", "\u2028",
    "\x00", "\x07", "\x1c", "\x7f", "\x85", "\t", "\n", " ", "  ", "the", " of", "Fin", "'s", "12", "<0x41>", "[CLS]",
    "Ġ",
]  # fmt: skip
ANY_TEXT = strategies.lists(
    strategies.sampled_from(SIGNS) | strategies.text(strategies.characters(exclude_categories=["Cs"]), max_size=4),
    max_size=10,
).map("".join)
GPT2_WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
HIDDEN = [byte for byte in range(256) if byte not in VISIBLE]
SIGN_OF = {byte: chr(byte) for byte in VISIBLE} | {byte: chr(256 + place) for place, byte in enumerate(HIDDEN)}


def write_unigram(folder):
    """`spm.model` of 360 pieces, and its tokenizer."""
    return train_tokenizer([TEXT] * 10, folder / "spm.model", 360)


def words(text):
    """The words of a text as GPT-2's files write them."""
    return ["".join(SIGN_OF[byte] for byte in word.encode()) for word in GPT2_WORDS.findall(text)]


def merged(word, ranks):
    """Byte pair encoding: the pair first merged in training is merged first (Sennrich et al. 2016)."""
    parts = list(word)
    while pairs := [pair for pair in itertools.pairwise(parts) if pair in ranks]:
        best = min(pairs, key=ranks.get)
        joined, place = [], 0
        while place < len(parts):
            size = 2 if tuple(parts[place : place + 2]) == best else 1
            joined.append("".join(parts[place : place + size]))
            place += size
        parts = joined
    return parts


@functools.cache
def byte_pair_merges(number=150):
    """The commonest pairs of the text, one after the other."""
    counts, ranks = Counter(words(TEXT)), {}
    while len(ranks) < number:
        pairs = Counter()
        for word, count in counts.items():
            for pair in itertools.pairwise(merged(word, ranks)):
                pairs[pair] += count
        ranks[pairs.most_common(1)[0][0]] = len(ranks)
    return list(ranks)


def gpt2_files():
    """GPT-2's own two: ids of tokens, and merges; the ids follow the merges and an end of text."""
    merges = byte_pair_merges()
    tokens = [*SIGN_OF.values(), *("".join(pair) for pair in merges), "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}, merges


def microsoft_ids(encoder):
    """Ids of v1: the special tokens around a dictionary in an order of its own, with a word that no text has."""
    ordered = sorted(encoder, key=lambda token: (len(token) % 3, token))
    return {token: index for index, token in enumerate(
        ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *ordered, "madeupword0000", "[MASK]"]
    )}  # fmt: skip


def write_byte_pair(folder):
    """`vocab.json` and `merges.txt`."""
    encoder, merges = gpt2_files()
    (folder / "vocab.json").write_text(json.dumps(microsoft_ids(encoder)))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")


def write_bpe_encoder(path, as_text=False):
    """Microsoft's file of the same ids; its merges are pairs or the text of GPT-2's file."""
    encoder, merges = gpt2_files()
    tokens = list(microsoft_ids(encoder))[4:-1]
    counts = [(str(encoder.get(token, token)), 100 - place) for place, token in enumerate(tokens)]
    vocab = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges), ""]) if as_text else merges
    path.write_bytes(pickle.dumps({"dict_map": counts, "vocab": vocab, "encoder": encoder}, protocol=2))
