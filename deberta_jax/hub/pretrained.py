"""Pretrained models: folders with `config.json`, weights and a tokenizer, in the form of Hugging Face or Microsoft."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import jax
from jax.sharding import Mesh
from jaxtyping import DTypeLike, PRNGKeyArray

from deberta_jax.config import Precision
from deberta_jax.errors import InputError
from deberta_jax.files import make_folder
from deberta_jax.hub.adapter import ADAPTER_CONFIG, find_base
from deberta_jax.hub.config_file import config_of, config_text, with_labels
from deberta_jax.hub.download import resolve
from deberta_jax.hub.folder import read_folder, readable_tokenizer, tokenizer_folder
from deberta_jax.hub.heads import Head, Model, head_of_model, head_options, head_spec
from deberta_jax.hub.layout import DECODER_BIAS, TIED, file_tensors
from deberta_jax.hub.load import floating_dtype, load_model
from deberta_jax.hub.options import FolderOptions, Options
from deberta_jax.hub.sentence import load_sentence, read_sentence, stored_sentence, write_sentence
from deberta_jax.hub.tensors import MAX_FILE_BYTES, write_safetensors
from deberta_jax.hub.tied import masked_lm_tensors, warn_of_masked_lm
from deberta_jax.model.attention import AttentionChoice
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.entity_scoring import EntityScoring
from deberta_jax.model.heads import (
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.multiple_choice import MultipleChoice
from deberta_jax.model.replaced_token_detection import ReplacedTokenDetection
from deberta_jax.model.sentence import without_layers
from deberta_jax.model.surgery import check_parameters
from deberta_jax.tokenizers.formats import check_tokenizer
from deberta_jax.tokenizers.tokenizer import Tokenizer

_Name = str | Path
_True = Literal[True]


@overload
def from_pretrained(
    name: _Name, head: None = None, *, require_tokenizer: _True = True, **options: Unpack[Options]
) -> tuple[Deberta, Tokenizer]: ...
@overload
def from_pretrained(
    name: _Name, head: Literal["masked_lm"], *, require_tokenizer: _True = True, **options: Unpack[Options]
) -> tuple[MaskedLM, Tokenizer]: ...
@overload
def from_pretrained(
    name: _Name,
    head: Literal["sequence_classification"],
    *,
    require_tokenizer: _True = True,
    **options: Unpack[Options],
) -> tuple[SequenceClassification, Tokenizer]: ...
@overload
def from_pretrained(
    name: _Name, head: Literal["token_classification"], *, require_tokenizer: _True = True, **options: Unpack[Options]
) -> tuple[TokenClassification, Tokenizer]: ...
@overload
def from_pretrained(
    name: _Name, head: Literal["question_answering"], *, require_tokenizer: _True = True, **options: Unpack[Options]
) -> tuple[QuestionAnswering, Tokenizer]: ...
@overload
def from_pretrained(
    name: _Name, head: Literal["multiple_choice"], *, require_tokenizer: _True = True, **options: Unpack[Options]
) -> tuple[MultipleChoice, Tokenizer]: ...
@overload
def from_pretrained(
    name: _Name,
    head: Literal["replaced_token_detection"],
    *,
    require_tokenizer: _True = True,
    **options: Unpack[Options],
) -> tuple[ReplacedTokenDetection, Tokenizer]: ...
@overload
def from_pretrained(
    name: _Name, head: Literal["entity_scoring"], *, require_tokenizer: _True = True, **options: Unpack[Options]
) -> tuple[EntityScoring, Tokenizer]: ...
@overload
def from_pretrained(  # type: ignore[overload-overlap]  # the overlap is covered by the overloads above
    name: _Name, head: Head | None = None, *, require_tokenizer: _True = True, **options: Unpack[Options]
) -> tuple[Model, Tokenizer]: ...
@overload
def from_pretrained(
    name: _Name, head: None = None, *, require_tokenizer: bool, **options: Unpack[Options]
) -> tuple[Deberta, Tokenizer | None]: ...
@overload
def from_pretrained(
    name: _Name, head: Literal["masked_lm"], *, require_tokenizer: bool, **options: Unpack[Options]
) -> tuple[MaskedLM, Tokenizer | None]: ...
@overload
def from_pretrained(
    name: _Name, head: Literal["sequence_classification"], *, require_tokenizer: bool, **options: Unpack[Options]
) -> tuple[SequenceClassification, Tokenizer | None]: ...
@overload
def from_pretrained(
    name: _Name, head: Literal["token_classification"], *, require_tokenizer: bool, **options: Unpack[Options]
) -> tuple[TokenClassification, Tokenizer | None]: ...
@overload
def from_pretrained(
    name: _Name, head: Literal["question_answering"], *, require_tokenizer: bool, **options: Unpack[Options]
) -> tuple[QuestionAnswering, Tokenizer | None]: ...
@overload
def from_pretrained(
    name: _Name, head: Literal["multiple_choice"], *, require_tokenizer: bool, **options: Unpack[Options]
) -> tuple[MultipleChoice, Tokenizer | None]: ...
@overload
def from_pretrained(
    name: _Name, head: Literal["replaced_token_detection"], *, require_tokenizer: bool, **options: Unpack[Options]
) -> tuple[ReplacedTokenDetection, Tokenizer | None]: ...
@overload
def from_pretrained(
    name: _Name, head: Literal["entity_scoring"], *, require_tokenizer: bool, **options: Unpack[Options]
) -> tuple[EntityScoring, Tokenizer | None]: ...
@overload
def from_pretrained(
    name: _Name, head: Head | None = None, *, require_tokenizer: bool, **options: Unpack[Options]
) -> tuple[Model, Tokenizer | None]: ...
def from_pretrained(
    name: str | Path,
    head: Head | None = None,
    *,
    labels: Sequence[str] | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = "float32",
    precision: Precision = "float32",
    attention: AttentionChoice = "auto",
    mesh: Mesh | None = None,
    generator: bool = False,
    base: str | Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    key: PRNGKeyArray | None = None,
    require_tokenizer: bool = True,
) -> tuple[Model, Tokenizer | None]:
    """Load a model folder, or a model of the Hugging Face Hub, and its tokenizer.

    A sentence-transformers folder gives a `SentenceEncoder`; a PEFT adapter is merged into its base model.

    Args:
        name: a folder, or the id of a model on the Hub, such as "microsoft/deberta-v3-base".
        head: "masked_lm", "sequence_classification", "token_classification", "question_answering", "multiple_choice",
            "replaced_token_detection" or "entity_scoring"; None loads the encoder, a `Deberta`. "masked_lm" has the
            enhanced mask decoder if the file contains its position embeddings, and logs a warning if not.
        labels: the C labels of a classification head, by default the file's. If the file's classifier has other
            labels, a new one is initialized.
        dtype: what the model computes in, such as "bfloat16"; by default the dtype of its parameters.
        param_dtype: the dtype of the parameters.
        precision: "tf32" computes float32 matrix products faster and less exactly on GPU and TPU.
        attention: how attention is computed, as an option of `Deberta` (docs/attention.md).
        mesh: the devices over which parameters are sharded; the host holds one tensor at a time.
        generator: load the generator of a replaced-token detection pair instead of the discriminator.
        base: the base model of a PEFT adapter, a folder or an id; by default the one that the adapter names.
        revision: a branch, tag or commit on the Hub.
        token: an access token of the Hub.
        key: initializes the parts of a head that are missing in the file, whose names are logged; by default seed 0.
        require_tokenizer: raise InputError if no tokenizer can be read; with False, return None and log the reason.

    Returns:
        The model, of the class of its head, and its `Tokenizer`.

    Raises:
        InputError: an unknown head; a name that is neither a folder nor a model on the Hub; a folder without config,
            weights or tokenizer; tensors that do not fit the model, all listed in one message before any is loaded.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("microsoft/deberta-v3-base", "masked_lm")
        >>> model.config.model_type, tokenizer.mask_token
        ('deberta-v2', '[MASK]')
    """
    folder = resolve(name, revision=revision, token=token, generator=generator)
    computation: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "precision": precision}
    computation |= {"attention": attention, "mesh": mesh, "key": jax.random.key(0) if key is None else key}
    base = find_base(folder, base, token=token)
    return load_pretrained(
        folder, head, labels=labels, generator=generator, base=base, require_tokenizer=require_tokenizer, **computation
    )


@overload
def load_pretrained(
    folder: Path, head: Head | None = None, *, require_tokenizer: _True = True, **options: Unpack[FolderOptions]
) -> tuple[Model, Tokenizer]: ...
@overload
def load_pretrained(
    folder: Path, head: Head | None = None, *, require_tokenizer: bool, **options: Unpack[FolderOptions]
) -> tuple[Model, Tokenizer | None]: ...
def load_pretrained(
    folder: Path,
    head: Head | None = None,
    *,
    labels: Sequence[str] | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = "float32",
    precision: Precision = "float32",
    attention: AttentionChoice = "auto",
    mesh: Mesh | None = None,
    generator: bool = False,
    base: str | Path | None = None,
    key: PRNGKeyArray | None = None,
    require_tokenizer: bool = True,
) -> tuple[Model, Tokenizer | None]:
    """As `from_pretrained`, for a local folder; without `key` a missing head is an error."""
    spec = head_spec(head)
    dtype = None if dtype is None else floating_dtype("dtype", dtype)
    param_dtype = floating_dtype("param_dtype", param_dtype)
    base = find_base(folder, base)
    config, tensors, source = read_folder(folder, generator=generator, base=base)
    tokenizer_at = tokenizer_folder(folder, base=base)
    sentence = read_sentence(folder) if head is None else None
    if require_tokenizer:
        check_tokenizer(tokenizer_at, " (to load the model alone from Python, pass require_tokenizer=False)")
    # Before the weights, which take longer.
    tokenizer = Tokenizer(tokenizer_at) if require_tokenizer else readable_tokenizer(tokenizer_at)
    config, tensors = with_labels(config, tensors, head, labels)
    options: dict[str, Any] = {
        "dtype": dtype,
        "precision": precision,
        "attention": attention,
        **head_options(head, tensors),
    }
    if head == "masked_lm":
        warn_of_masked_lm(folder, tensors)
        tensors, options["untied"] = masked_lm_tensors(tensors, config, source=source)

    def build(key: PRNGKeyArray) -> Any:
        return spec.model(config, key=key, **options)

    try:
        model = load_model(build, config, tensors, source=source, key=key, mesh=mesh, dtype=param_dtype)
    except InputError as error:
        problem = str(error)
        raise InputError(f"{folder}: {problem}" if problem.startswith("config: ") else problem) from None
    if sentence is not None:
        model = load_sentence(model, sentence, source=folder, mesh=mesh, dtype=param_dtype)
    return model, tokenizer


def save_pretrained(
    folder: str | Path, model: Model, tokenizer: Tokenizer | None = None, *, max_file_bytes: int = MAX_FILE_BYTES
) -> None:
    """Write a model folder that transformers, and `from_pretrained`, load.

    The names of a masked language model's head are those that transformers expects by default (`cls.predictions`:
    version 4 cannot load Microsoft's names); its position embeddings are written too, which transformers ignores. Heads
    that transformers does not have are written under Microsoft's names. The layers of a `SentenceEncoder` are written
    as sentence-transformers reads them. With several processes, call it in one of them, with fully addressable arrays.

    Args:
        folder: the folder, which is created. On an error the previous model in it is unchanged.
        model: a model with any head or none; pass `merge_lora(model)` of a `LoraModel`, and `pair.detector()` or
            `pair.generator` of a pair.
        tokenizer: its tokenizer, also saved.
        max_file_bytes: weights of more bytes are split into several files.

    Raises:
        InputError: parameters that are not those of the model's config; a file that cannot be written.

    Example:
        >>> import deberta_jax as dj
        >>> model, tokenizer = dj.from_pretrained("microsoft/deberta-base-mnli", "sequence_classification")
        >>> dj.save_pretrained("my-model", model, tokenizer)
        >>> model, tokenizer = dj.from_pretrained("my-model", "sequence_classification")
    """
    check_parameters(model)
    folder = make_folder(folder)
    config = config_of(model)
    projected = isinstance(model, TokenClassification) and model.projection is not None
    dtype = str(jax.tree.leaves(model)[0].dtype)
    untied = isinstance(model, MaskedLM) and model.head.decoder is not None
    text = config_text(config, head_of_model(model), projected=projected, untied=untied, dtype=dtype)
    encoder = without_layers(model) if isinstance(model, Deberta) else model
    tensors = file_tensors(encoder, config, lm_prefix="cls")
    if untied:
        tensors[DECODER_BIAS] = tensors[TIED[DECODER_BIAS]]
    write_safetensors(folder, tensors, max_file_bytes, texts={"config.json": text})
    write_sentence(folder, stored_sentence(model))
    # A previous adapter would be read in place of the model.
    (folder / ADAPTER_CONFIG).unlink(missing_ok=True)
    if tokenizer is not None:
        tokenizer.save(folder)
