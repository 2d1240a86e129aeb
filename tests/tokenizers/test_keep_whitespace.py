"""Vocabularies that keep white space, for code: the text is restored, and saved tokenizers give the same ids."""

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.cli.main import main
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.tokenizers.train import train_tokenizer

CODE = [
    f"""def function_{name}(self, value):
\tif value  >  {number}:
\t\treturn self.{name}(value)

    # Two  spaces, then text: a ﬁne Ｗｏｒｄ.
    for index in range({number}):
        while index  <  value:
            self.{name} = [index, value]
    return None
"""
    for number, name in enumerate(["read", "write", "close", "open", "flush", "count", "seek", "tell"])
]
TEXTS = [
    *CODE,
    "",
    " ",
    "\n",
    "\n\n\t a  b \r\n",
    "  x",
    "x  ",
    "ﬁ Ａ é e\u0301\u200b 今天 😀",
    "a\x00b",
    "\u3000x\u00a0",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(CODE * 4, tmp_path_factory.mktemp("code") / "spm.model", 336, keep_whitespace=True)


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_restores_the_text(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None)
@given(st.text("ab \t\n\r=(é今😀", max_size=40))
def test_decoding_restores_any_text(tokenizer, text):
    (ids,) = tokenizer.encode_many([text])
    assert tokenizer.decode(ids) == text


def test_tabs_line_ends_and_indentation_are_pieces_that_begin_words(tokenizer):
    pieces = tokenizer.vocabulary.pieces
    assert {"\t", "\n", "\u2581\u2581\u2581\u2581"} <= set(pieces)
    starts = tokenizer.word_starts()
    assert all(start for piece, start in zip(pieces, starts, strict=False) if piece[0].isspace())
    assert len(tokenizer.encode("            x")) <= 5


def test_saved_and_loaded_again_the_ids_are_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = Tokenizer(tmp_path)
    assert loaded.sha256 == tokenizer.sha256
    exported = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    (tmp_path / "spm.model").unlink()
    alone = Tokenizer(tmp_path)
    for text in [*TEXTS, "a [MASK] b", "\t[SEP]\n  x"]:
        ids = tokenizer.encode(text).tolist()
        assert loaded.encode(text).tolist() == ids
        assert alone.encode(text).tolist() == ids
        assert exported.encode(text, add_special_tokens=False).ids == ids
        assert "[" in text or exported.decode(ids) == alone.decode(ids) == text


def test_without_the_option_white_space_is_a_space(tmp_path):
    plain = train_tokenizer(CODE * 4, tmp_path / "spm.model", 325)
    assert plain.decode(plain.encode("a\tb\n  c")) == "a b c"


def test_the_command_trains_on_source_files(tmp_path, capsys):
    for number, text in enumerate(CODE * 2):
        (tmp_path / f"{number}.py").write_text(text)
    words = ["--files", str(tmp_path / "*.py"), "--document", "file", "--keep-whitespace", "--vocabulary", "330"]
    assert main(["tokenizer", *words, "--output", str(tmp_path / "spm.model")]) == 0
    assert capsys.readouterr().out.rstrip().endswith("spm.model --document file")
    tokenizer = Tokenizer(tmp_path / "spm.model")
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in CODE)
