"""A tokenizer's folder as transformers 4 and 5 read it."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from deberta_jax.errors import InputError
from deberta_jax.files import make_folder, replace_file
from deberta_jax.tokenizers import byte_pair, sentencepiece
from deberta_jax.tokenizers.byte_pair import BytePairVocabulary
from deberta_jax.tokenizers.sentencepiece import SentencePieceVocabulary
from deberta_jax.tokenizers.special_tokens import ADDED, CONFIG, SPECIAL_MAP, AddedToken
from deberta_jax.tokenizers.tokenizer_json import tokenizer_json

TOKENIZER_JSON = "tokenizer.json"


def write_tokenizer(
    folder: Path,
    vocabulary: SentencePieceVocabulary | BytePairVocabulary,
    special: Mapping[str, AddedToken],
    added: Sequence[AddedToken],
    settings: Mapping[str, object],
) -> None:
    """Write all files of a tokenizer; those of the vocabulary come byte for byte from where they stand."""
    try:
        files = {file.name: file.read_bytes() for file in vocabulary.files}
    except OSError as error:
        raise InputError(f"{vocabulary.path}: cannot be read any more ({error.strerror})") from None
    bytewise = isinstance(vocabulary, BytePairVocabulary)
    if isinstance(vocabulary, BytePairVocabulary):
        merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in vocabulary.merges), ""])
        files = {byte_pair.VOCABULARY: _json(vocabulary.ids), byte_pair.MERGES: merges.encode()} | files
    else:
        # Under the name that a folder is searched for.
        files = {sentencepiece.FILE_NAME: next(iter(files.values()))}
    tokens = {token.id: token.to_dict() for token in (*added, *special.values())}
    contents = tokenizer_json(vocabulary, special, added)
    if contents is not None:
        files[TOKENIZER_JSON] = _json(contents)
    own = "DebertaTokenizer" if bytewise else "DebertaV2Tokenizer"
    roles = {f"{name}_token": token.text for name, token in special.items()}
    values = (
        dict(settings)
        | roles
        | {
            # Under the model's own class transformers 5 makes a tokenizer that leaves `tokenizer.json` aside.
            "tokenizer_class": own if contents is None else "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
            "do_lower_case": False,
            "added_tokens_decoder": {str(index): tokens[index] for index in sorted(tokens)},
        }
    )
    if not bytewise:
        values |= {"split_by_punct": False, "vocab_type": "spm"}
    files[CONFIG] = _json(values)
    files[SPECIAL_MAP] = _json(roles)
    if beside := {token.text: token.id for token in added if vocabulary.id_of(token.text) is None}:
        files[ADDED] = _json(beside)
    make_folder(folder)
    for name, file in files.items():
        replace_file(folder / name, functools.partial(Path.write_bytes, data=file))
    # Of another tokenizer that stood here; two in a folder would be taken for one.
    for name in (sentencepiece.FILE_NAME, byte_pair.VOCABULARY, byte_pair.MERGES, byte_pair.MICROSOFT, ADDED):
        if name not in files:
            (folder / name).unlink(missing_ok=True)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
