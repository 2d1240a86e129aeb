"""Writes a tokenizer folder that transformers 4 and 5 read."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from deberta_jax.files import make_folder, write_bytes, write_json
from deberta_jax.tokenizers.formats import FILES
from deberta_jax.tokenizers.special_tokens import ADDED_TOKENS, SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG, AddedToken
from deberta_jax.tokenizers.template import Template
from deberta_jax.tokenizers.tokenizer_json import TOKENIZER_JSON, tokenizer_json
from deberta_jax.tokenizers.vocabulary import Vocabulary

# What a library notes about itself and the machine, and what is written under another name.
_NOT_KEPT = {
    "backend", "extra_special_tokens", "is_local", "local_files_only", "name_or_path", "tokenizer_file", "vocab_file",
}  # fmt: skip


def write_tokenizer(
    folder: Path,
    vocabulary: Vocabulary,
    special: Mapping[str, AddedToken],
    added: Sequence[AddedToken],
    template: Template,
    settings: Mapping[str, object],
) -> None:
    """Write all files of a tokenizer: `special` tokens by role, `added` tokens, template, and `settings` to keep.

    Raises InputError if a file cannot be written; each file is written atomically.
    """
    saved = vocabulary.saved()
    tokens = {token.id: token.to_dict() for token in (*added, *special.values())}
    names = {f"{role}_token": token.text for role, token in special.items()}
    roles = set(names.values())
    config = {
        **{name: value for name, value in settings.items() if name not in _NOT_KEPT},
        **names,
        # With the class of the model, transformers 5 would ignore `tokenizer.json`.
        "tokenizer_class": saved.tokenizer_class if saved.pipeline is None else "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        # Not `extra_special_tokens`: version 4 expects an object there, and version 5 a list.
        "additional_special_tokens": [token.text for token in added if token.special and token.text not in roles],
        "added_tokens_decoder": {str(index): tokens[index] for index in sorted(tokens)},
        **saved.settings,
    }
    documents: dict[str, object] = {TOKENIZER_CONFIG: config, SPECIAL_TOKENS_MAP: names}
    if saved.pipeline is not None:
        documents[TOKENIZER_JSON] = tokenizer_json(saved.pipeline, vocabulary.size, special, added, template)
    if missing := {token.text: token.id for token in added if vocabulary.id_of(token.text) is None}:
        documents[ADDED_TOKENS] = missing
    make_folder(folder)
    for name, content in saved.files.items():
        write_bytes(folder / name, content)
    for name, document in documents.items():
        write_json(folder / name, document)
    # Remove the files of a tokenizer of another format: it would be detected in place of this one.
    for name in set(FILES) - saved.files.keys() - documents.keys():
        (folder / name).unlink(missing_ok=True)
