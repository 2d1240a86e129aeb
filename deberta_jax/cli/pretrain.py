"""`deberta-jax pretrain`: text in, model folders out."""

from contextlib import ExitStack
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from deberta_jax.data.batches import Batches, held_out
from deberta_jax.data.masking import Vocabulary
from deberta_jax.data.prepare import read_manifest
from deberta_jax.files import lock_folder
from deberta_jax.pretraining.config import PretrainConfig, measure
from deberta_jax.pretraining.corpus import Text, check_inputs, named_tokenizer, on_first, say, shards_of, tokenizer_of
from deberta_jax.pretraining.initial import check_start, config_with_start, first_model
from deberta_jax.pretraining.summary import export, report, totals
from deberta_jax.sharding import make_mesh
from deberta_jax.training.loop import held_out_evaluation, train
from deberta_jax.training.optimizer import learning_rate
from deberta_jax.training.processes import join
from deberta_jax.training.run import check_settings
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
    check_settings(config.folder, config.settings())
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
    check_settings(config.folder, settings)
    size = measure(config, model_config)
    say(f"{config.model}: {size}")

    vocabulary = Vocabulary(tokenizer.mask_id, tokenizer.vocab_size, tokenizer.special_ids, tokenizer.word_starts())
    host_index, host_count = batch_share(mesh)
    common: dict[str, Any] = {
        "batch_size": config.training.batch_size,
        "vocabulary": vocabulary,
        "host_index": host_index,
        "host_count": host_count,
        "vocabulary_sha256": tokenizer.sha256,
    }
    masking = config.evaluation_masking()
    evaluated = held_out(held_out_rows, most=config.data.evaluate_batches, masking=masking, **common)

    def batches(start: int) -> Batches:
        return Batches(
            training_rows,
            seed=config.training.seed,
            start=start,
            masking=config.data.masking,
            workers=config.data.workers,
            **common,
        )

    method = config.method(model_config)
    result = train(
        config.training,
        config.folder,
        settings,
        method,
        batches=batches,
        evaluate=held_out_evaluation(method, mesh, lambda: evaluated),
        initial_model=(lambda: first_model(config, model_config, mesh)) if config.start or config.generator else None,
        flops_per_step=size.step_flops,
    )
    model: Any = result.state.model
    if jax.process_count() > 1:
        model = multihost_utils.process_allgather(model, tiled=True)
    if jax.process_index():
        return
    export(config, model, tokenizer)
    report(config, result.metrics, evaluated, tokenizer, text.held_out_documents())
