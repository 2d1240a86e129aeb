"""Small vocabularies: a unigram model with byte fallback, and byte pairs merged by a loop."""

import functools
import itertools
import json
import pickle
import tempfile
from collections import Counter
from pathlib import Path

import regex
import sentencepiece
from hypothesis import strategies

from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.tokenizers.train import train_tokenizer

TEXT = """The quick brown fox jumps over the lazy dog, and eats what it finds there, every day of the year.
Fine offices flow from first efforts; it's 1/2 of what they'd said (in 2021) to be enough - or 12% more than that.
A man eats. A woman sings! Déjà vu: über größere Straßen fuhr er nach Köln. Where do all these words come from?
It is x < 140 > 40 there.
She sells sea shells on the sea shore; the shells she sells are sea shells, she's sure of it, isn't she?
"""
# Characters that normalization changes, and characters of several bytes or code points.
CHARACTERS = [
    *"ﬁ½²№…Ａ１㎏ﷺ¨´ｶÅ", "e\u0301", "a\u0302\u0301", "カ\u3099", "ｶﾞ", "\u1112\u1161\u11ab", "\u0301", "\u0651\u064e",
    "😀", "👩\u200d🚀", "🇩🇪", "日本", "\u00a0", "\u200b", "\u200d", "\u3000", "\ufeff", "\ufffd", "\u2581", "\u2028",
    "\x00", "\x07", "\x1c", "\x7f", "\x85", "\t", "\n", " ", "  ", "the", " of", "Fin", "'s", "12", "<0x41>", "[CLS]",
    "Ġ",
]  # fmt: skip
ANY_TEXT = strategies.lists(
    strategies.sampled_from(CHARACTERS) | strategies.text(strategies.characters(exclude_categories=["Cs"]), max_size=4),
    max_size=10,
).map("".join)
GPT2_WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
CHARACTER_OF_BYTE = {byte: chr(byte) for byte in PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(OTHERS)}


@functools.cache
def unigram_model():
    """The bytes of a SentencePiece model of 360 pieces, trained once in a process."""
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer([TEXT] * 10, Path(folder) / "spm.model", 360)
        return (Path(folder) / "spm.model").read_bytes()


def write_unigram(folder):
    """Write `spm.model` of 360 pieces; returns its tokenizer."""
    (folder / "spm.model").write_bytes(unigram_model())
    return Tokenizer(folder / "spm.model")


def words(text):
    """The words of a text as GPT-2's files spell them."""
    return ["".join(CHARACTER_OF_BYTE[byte] for byte in word.encode()) for word in GPT2_WORDS.findall(text)]


def merge(word, ranks):
    """Byte pair encoding: of the pairs in a word, merge the one that was merged first in training, and repeat."""
    parts = list(word)
    while pairs := [pair for pair in itertools.pairwise(parts) if pair in ranks]:
        best = min(pairs, key=ranks.get)
        merged, position = [], 0
        while position < len(parts):
            size = 2 if tuple(parts[position : position + 2]) == best else 1
            merged.append("".join(parts[position : position + size]))
            position += size
        parts = merged
    return parts


@functools.cache
def byte_pair_merges(number=150):
    """The most frequent pairs of the text, in order of merging."""
    counts, ranks = Counter(words(TEXT)), {}
    while len(ranks) < number:
        pairs = Counter()
        for word, count in counts.items():
            for pair in itertools.pairwise(merge(word, ranks)):
                pairs[pair] += count
        ranks[pairs.most_common(1)[0][0]] = len(ranks)
    return list(ranks)


def gpt2_files():
    """GPT-2's ids of tokens, and its merges; the ids follow the bytes, the merges and an end-of-text token."""
    merges = byte_pair_merges()
    tokens = [*CHARACTER_OF_BYTE.values(), *("".join(pair) for pair in merges), "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}, merges


def microsoft_ids(encoder):
    """Ids of v1: the special tokens, a dictionary in another order than GPT-2's, and a word that occurs nowhere."""
    ordered = sorted(encoder, key=lambda token: (len(token) % 3, token))
    return {token: index for index, token in enumerate(
        ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *ordered, "madeupword0000", "[MASK]"]
    )}  # fmt: skip


def merges_text(merges):
    """The content of `merges.txt`."""
    return "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges), ""])


def write_byte_pair(folder):
    """Write `vocab.json` and `merges.txt`; returns their tokenizer."""
    encoder, merges = gpt2_files()
    (folder / "vocab.json").write_text(json.dumps(microsoft_ids(encoder)))
    (folder / "merges.txt").write_text(merges_text(merges), encoding="utf-8")
    return Tokenizer(folder)


def write_bpe_encoder(path, as_text=False):
    """Write Microsoft's file with the same ids; it contains the merges as pairs or as the text of GPT-2's file."""
    encoder, merges = gpt2_files()
    tokens = list(microsoft_ids(encoder))[4:-1]
    counts = [(str(encoder.get(token, token)), 100 - index) for index, token in enumerate(tokens)]
    vocab = merges_text(merges) if as_text else merges
    path.write_bytes(pickle.dumps({"dict_map": counts, "vocab": vocab, "encoder": encoder}, protocol=2))


def special_tokens_json(ids):
    """The `added_tokens` of a `tokenizer.json`: the five special tokens with their ids."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    names = "[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"
    pairs = sorted(zip(ids, names, strict=True))
    return [{"id": index, "content": name} | flags for index, name in pairs]


def template_json(cls_id, sep_id, separators=1):
    """The `post_processor` of a `tokenizer.json`; transformers 5 writes two separators for version 1."""
    cls, sep = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]"))
    one, two = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokens = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in (("[CLS]", cls_id), ("[SEP]", sep_id))}
    pair = [cls, one, *[sep] * separators, two, sep]
    return {"type": "TemplateProcessing", "single": [cls, one, sep], "pair": pair, "special_tokens": tokens}


def unigram_json(*, byte_fallback=False):
    """As transformers 5 saves versions 2 and 3: its own normalizer, and the pieces of the model."""
    model = sentencepiece.SentencePieceProcessor(model_proto=unigram_model())
    vocab = [[model.id_to_piece(index), model.get_score(index)] for index in range(len(model))]
    steps = [
        {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "},
        {"type": "NFC"},
        {"type": "Strip", "strip_left": False, "strip_right": True},
    ]
    spaces = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    return {
        "added_tokens": special_tokens_json([0, 1, 2, 3, len(vocab)]),
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [spaces]},
        "post_processor": template_json(1, 2),
        "decoder": spaces,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": byte_fallback},
    }


def byte_pair_json(*, add_prefix_space=False):
    """As transformers 5 saves version 1."""
    encoder, merges = gpt2_files()
    ids = microsoft_ids(encoder)
    bytewise = {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": True}
    return {
        "added_tokens": special_tokens_json([0, 1, 2, 3, ids["[MASK]"]]),
        "normalizer": None,
        "pre_tokenizer": bytewise,
        "post_processor": template_json(1, 2, separators=2),
        "decoder": bytewise,
        "model": {"type": "BPE", "vocab": ids, "merges": [list(pair) for pair in merges]},
    }


def word_pieces():
    """A vocabulary of WordPiece: special tokens, characters and some words."""
    letters = sorted({*TEXT} - {" ", "\n"})
    words = ["the", "fox", "##es", "eats", "sing", "##s", "日", "本", "ko", "##ln"]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *words]


def word_piece_json(*, lowercase=True):
    """As transformers saves BertTokenizer."""
    vocab = {token: index for index, token in enumerate(word_pieces())}
    flags = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": lowercase}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": vocab}
    return {
        "added_tokens": special_tokens_json([0, 2, 3, 1, 4]),
        "normalizer": {"type": "BertNormalizer"} | flags,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template_json(2, 3),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": model | {"max_input_chars_per_word": 100},
    }


def write_tokenizer_json(folder, document, settings=None):
    """Write `tokenizer.json` and `tokenizer_config.json`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"version": "1.0", "truncation": None, "padding": None} | document
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings or {}), encoding="utf-8")
    return folder
