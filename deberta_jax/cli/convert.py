"""`deberta-jax convert`: convert a model to another format, with every tensor of its files."""

import contextlib
import logging
import shutil
from collections.abc import Generator
from pathlib import Path

from deberta_jax.cli.convert_options import ConvertConfig
from deberta_jax.errors import InputError, list_names
from deberta_jax.files import lock_output
from deberta_jax.hub.adapter import find_base
from deberta_jax.hub.config_file import config_text
from deberta_jax.hub.download import resolve
from deberta_jax.hub.folder import StoredModel, read_folder, tokenizer_folder
from deberta_jax.hub.heads import HEADS, head_of_file, head_options
from deberta_jax.hub.layout import DECODER, DECODER_BIAS, TIED, masked_lm_prefix, with_lm_prefix
from deberta_jax.hub.load import check_tensors
from deberta_jax.hub.microsoft import write_microsoft
from deberta_jax.hub.sentence import StoredSentence, read_sentence, write_sentence
from deberta_jax.hub.tensors import write_safetensors
from deberta_jax.hub.tied import masked_lm_tensors
from deberta_jax.pretraining.checkpoints import is_run, read_run, write_run
from deberta_jax.tokenizers.formats import has_tokenizer
from deberta_jax.tokenizers.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


def run(config: ConvertConfig) -> None:
    """Check the names and shapes of all tensors, then write them one by one."""
    _check_target(config.target)
    model, tokenizer, sentence = _read(config)
    head = head_of_file(model.config, model.tensors)
    options = head_options(head, model.tensors)
    tensors, untied = masked_lm_tensors(model.tensors, model.config, source=model.source)
    model = model._replace(tensors=tensors)
    if untied and config.to != "huggingface":
        raise InputError(f"{model.source}: {DECODER} is not the word embeddings; convert it with --to huggingface")
    if head == "masked_lm":
        options["untied"] = untied
    check_tensors(
        lambda key: HEADS[head].model(model.config, key=key, **options),
        model.config,
        model.tensors,
        source=model.source,
    )
    model = _without_copies(model)
    with _new_folder(config.target) as folder:
        if config.to == "checkpoint":
            next_step = write_run(folder, model, tokenizer, config.target)
        elif config.to == "microsoft":
            write_microsoft(folder, model.config, model.tensors)
            next_step = f"pass {config.target / 'pytorch_model.bin'} to microsoft/DeBERTa as --init_model"
        else:
            dtype = str(model.tensors["deberta.embeddings.word_embeddings.weight"].dtype)
            projected = options.get("projected", False)
            text = config_text(model.config, head, projected=projected, untied=untied, dtype=dtype)
            tensors = {with_lm_prefix(name, "cls"): tensor for name, tensor in model.tensors.items()}
            if untied:
                tensors[DECODER_BIAS] = tensors[TIED[DECODER_BIAS]]
            write_safetensors(folder, tensors, texts={"config.json": text})
            write_sentence(folder, sentence)
            argument = "" if tokenizer else ", require_tokenizer=False"
            next_step = f'load it with `deberta_jax.from_pretrained("{config.target}"{argument})` or with transformers'
        if tokenizer is not None and config.to != "checkpoint":
            tokenizer.save(folder)
    missing = "" if tokenizer else "; the source has no tokenizer"
    print(f"{config.target}: {len(model.tensors)} tensors of {model.source}{missing}")
    print(f"next: {next_step}")


def _read(config: ConvertConfig) -> tuple[StoredModel, Tokenizer | None, StoredSentence | None]:
    """The model of a run, of a folder or of the hub, with its tokenizer and the layers after a sentence encoder.

    Tensors are not read yet.
    """
    if is_run(Path(config.source)):
        if config.revision:
            raise InputError(f"{config.source}: a run has no revisions; --revision is for models on the hub")
        return *read_run(Path(config.source), generator=config.generator), None
    folder = resolve(config.source, revision=config.revision, generator=config.generator)
    base = find_base(folder, config.base)
    tokenizer_at = tokenizer_folder(folder, base=base)
    tokenizer = Tokenizer(tokenizer_at) if has_tokenizer(tokenizer_at) else None
    sentence = read_sentence(folder)
    if sentence is not None and config.to != "huggingface":
        _log.warning("%s: pooling and the other modules of sentence-transformers are not converted", folder)
    return read_folder(folder, generator=config.generator, base=base), tokenizer, sentence


def _without_copies(model: StoredModel) -> StoredModel:
    """The model without buffers, and with one masked-LM head of two."""
    other_heads = {"cls", "lm_predictions"} - {masked_lm_prefix(model.tensors, model.config)}
    second_head = [name for name in model.tensors if name.partition(".")[0] in other_heads]
    if second_head:
        _log.warning("%s: contains two masked-LM heads; not converted: %s", model.source, list_names(second_head))
    excluded = {*second_head, "deberta.embeddings.position_ids"}
    return model._replace(tensors={name: tensor for name, tensor in model.tensors.items() if name not in excluded})


def _check_target(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: not an empty folder; choose another target")


@contextlib.contextmanager
def _new_folder(target: Path) -> Generator[Path, None, None]:
    """Yield a folder to write in, which becomes `target` at the end; after an error nothing is left."""
    with lock_output(target.absolute(), ".partial") as partial:
        # Another process may have written it before this one got the lock.
        _check_target(target)
        content = partial / "content"
        # A killed conversion may have left some.
        shutil.rmtree(content, ignore_errors=True)
        content.mkdir()
        try:
            yield content
            if target.exists():
                target.rmdir()
            content.rename(target.absolute())
        finally:
            shutil.rmtree(content, ignore_errors=True)
