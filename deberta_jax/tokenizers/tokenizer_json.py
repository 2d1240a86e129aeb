"""`tokenizer.json`, the file of Hugging Face tokenizers."""

from collections.abc import Mapping, Sequence

from deberta_jax.tokenizers.special_tokens import AddedToken

TOKENIZER_JSON = "tokenizer.json"


def tokenizer_json(
    pipeline: Mapping[str, object], special: Mapping[str, AddedToken], added: Sequence[AddedToken]
) -> dict[str, object]:
    """The content of the file: the `pipeline` of a vocabulary, `special` tokens by role, and `added` tokens.

    The post-processor adds [CLS] A [SEP] B [SEP] with token types 0 and 1.
    """
    cls, sep = special["cls"], special["sep"]
    first = [_piece("SpecialToken", cls.text, 0), _piece("Sequence", "A", 0), _piece("SpecialToken", sep.text, 0)]
    second = [_piece("Sequence", "B", 1), _piece("SpecialToken", sep.text, 1)]
    names = {token.text: {"id": token.text, "ids": [token.id], "tokens": [token.text]} for token in (cls, sep)}
    tokens = {token.id: token.to_dict() for token in (*added, *special.values())}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index} | tokens[index] for index in sorted(tokens)],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": first,
            "pair": first + second,
            "special_tokens": names,
        },
        **pipeline,
    }


def _piece(kind: str, name: str, type_id: int) -> dict:
    return {kind: {"id": name, "type_id": type_id}}
