"""`deberta-jax pretrain`: text in, model folders out."""

from contextlib import ExitStack
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from deberta_jax.data.batches import TrainingBatches, held_out_batches
from deberta_jax.data.masking import MaskingVocabulary
from deberta_jax.data.manifest import read_manifest
from deberta_jax.files import lock_folder
from deberta_jax.pretraining.config import PretrainConfig, measure
from deberta_jax.pretraining.corpus import Text, check_inputs, named_tokenizer, on_first, say, shards_of, tokenizer_of
from deberta_jax.pretraining.initial import check_start, config_with_start, first_model
from deberta_jax.pretraining.recipes import RECIPES as RECIPES
from deberta_jax.pretraining.summary import export, report, totals
from deberta_jax.sharding import make_mesh
from deberta_jax.training.loop import over_batches, train
from deberta_jax.training.optimizer import learning_rate
from deberta_jax.training.processes import join
from deberta_jax.training.run import refuse_other
from deberta_jax.training.step import batch_share, check_batch_size


def run(config: PretrainConfig) -> None:
    """Prepare what is not there yet, train, evaluate, export; with `steps` 0 report the sizes and do no more."""
    join(config.processes)
    axes = config.training.mesh
    mesh = make_mesh(axes.data, axes.fsdp, axes.tensor)
    check_batch_size(config.training.batch_size, mesh, config.training.accumulate)
    if config.training.steps == 0:
        check_inputs(config)
        tokenizer = named_tokenizer(config)
        # A vocabulary that is trained gets [MASK] after it.
        plain = config.model_config(config.vocabulary + 1)
        say(totals(config, config_with_start(config, tokenizer) if tokenizer else plain))
        return
    learning_rate(config.training.optimizer, config.training.steps)
    refuse_other(config.folder, config.settings())
    check_inputs(config)
    check_start(config)
    with ExitStack() as stack:
        on_first(lambda: stack.enter_context(lock_folder(config.folder)))
        _run(config, mesh)


def _run(config: PretrainConfig, mesh: Mesh) -> None:
    text = Text(config)
    tokenizer = tokenizer_of(config, text)
    model_config = config_with_start(config, tokenizer)
    training_rows, held_out_rows = shards_of(config, text, tokenizer)
    settings = config.settings() | {"rows": read_manifest(training_rows).sha256}
    # Here too, by every process: alone, the first would leave the others waiting.
    refuse_other(config.folder, settings)
    size = measure(config, model_config)
    say(f"{config.model}: {size}")

    vocabulary = MaskingVocabulary(
        tokenizer.mask_id, tokenizer.vocab_size, tokenizer.special_ids, tokenizer.word_starts()
    )
    host_index, host_count = batch_share(mesh)
    common: dict[str, Any] = {
        "batch_size": config.training.batch_size,
        "vocabulary": vocabulary,
        "host_index": host_index,
        "host_count": host_count,
        "vocabulary_sha256": tokenizer.sha256,
    }
    masking = config.evaluation_masking()
    evaluated = held_out_batches(held_out_rows, limit=config.data.evaluate_batches, masking=masking, **common)

    def batches(start: int) -> TrainingBatches:
        return TrainingBatches(
            training_rows,
            seed=config.training.seed,
            start=start,
            masking=config.data.masking,
            workers=config.data.workers,
            **common,
        )

    method = config.method(model_config)
    trained = train(
        config.training,
        config.folder,
        settings,
        method,
        batches,
        over_batches(method, mesh, lambda: evaluated),
        size.step_flops,
        (lambda: first_model(config, model_config, mesh)) if config.start or config.generator else None,
    )
    if not trained.complete:
        return
    model: Any = trained.state.model
    if jax.process_count() > 1:
        model = multihost_utils.process_allgather(model, tiled=True)
    if jax.process_index():
        return
    export(config, model, tokenizer)
    report(config, trained.held_out, evaluated, tokenizer, text.held_out_documents())
