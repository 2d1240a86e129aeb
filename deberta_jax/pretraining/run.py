"""One pretraining run, from text files to model folders."""

from contextlib import ExitStack
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from deberta_jax.data.manifest import read_manifest
from deberta_jax.errors import InputError
from deberta_jax.files import lock_folder
from deberta_jax.model.attention import check_attention_runs
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import PretrainConfig
from deberta_jax.pretraining.corpus import (
    check_text_files,
    evaluation_batches,
    example_documents,
    find_tokenizer,
    masking_vocabulary,
    prepare_shards,
    prepare_text,
    train_run_tokenizer,
    training_batches,
)
from deberta_jax.pretraining.initial import initial_config, weights_digest
from deberta_jax.pretraining.objective_spec import Results
from deberta_jax.pretraining.program import (
    ANY_VOCABULARY,
    OBJECTIVES,
    batch_rows,
    measure,
    model_options,
    model_to_train,
)
from deberta_jax.pretraining.recipes import Selection, recipe
from deberta_jax.pretraining.summary import (
    export_models,
    file_line,
    majority_accuracy,
    masked_sentences,
    published_lines,
    size_lines,
)
from deberta_jax.processes.first_process import agree, on_first_process, print_once
from deberta_jax.sharding import make_mesh
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.loop import held_out_evaluation, train
from deberta_jax.training.optimizer import learning_rate
from deberta_jax.training.run import check_settings
from deberta_jax.training.state import model_key
from deberta_jax.training.step import check_batch_size

_EXAMPLES = 5


def pretrain(config: PretrainConfig) -> None:
    """Prepare the text, train, evaluate and export; what the run folder already contains is not done again.

    Raises InputError for options that do not fit each other, the files they name, or the run in the folder, in most
    cases before anything is written; raises StopRequested if the run is asked to stop.
    """
    objective, training, data, folder = OBJECTIVES[config.objective], config.training, config.data, config.folder
    if config.micro_batch is not None:
        raise InputError(f"micro_batch is {config.micro_batch}; set training.accumulate, or use the command line")
    mesh = check(config)
    tokenizer = find_tokenizer(config.tokenizer, config.init_from, config.generator, data.shards)
    files = objective.find_files(config.init_from, config.generator)
    model_config = None
    if tokenizer is not None:
        model_config = initial_config(files, config.model_config(tokenizer.vocab_size), tokenizer, config.model)
    check_attention_runs(config.attention, model_config or PRESETS[config.model], config.dtype, training=True)
    with ExitStack() as stack:
        on_first_process(lambda: stack.enter_context(lock_folder(folder)))
        text = prepare_text(data, folder / "text")
        if tokenizer is None:
            tokenizer = train_run_tokenizer(text.training, folder / "tokenizer" / "spm.model", config.vocabulary)
        shards = prepare_shards(text, data.shards, folder / "shards", tokenizer, data.length)
        content = {
            "held_out": read_manifest(shards.held_out).sha256,
            "tokenizer": tokenizer.sha256,
            "weights": weights_digest(files),
        }
        settings = config.settings() | {"rows": read_manifest(shards.training).sha256, "content": content}
        agree({"the training text": settings["rows"], **{f"the content of {name}": content[name] for name in content}})
        check_settings(folder, settings)
        # A run that trains its tokenizer is not initialized from files.
        model_config = model_config or config.model_config(tokenizer.vocab_size)
        options = model_options(config, model_config)
        method = objective.method(options, training, config.rtd)
        size = measure(config, options, mesh)
        print_once(f"{config.model}: {size}")
        rows = batch_rows(config, masking_vocabulary(tokenizer), mesh)
        held_out = evaluation_batches(shards.held_out, tokenizer, rows.held_out, config, mesh)

        def load_files() -> Any:
            return objective.load_files(files, options, config.rtd, model_key(training.seed), mesh)

        result = train(
            training,
            folder,
            settings,
            method,
            batches=training_batches(shards.training, tokenizer, rows.training, config, mesh),
            evaluate=held_out_evaluation(method, mesh, lambda: held_out),
            initial_model=load_files if any(files) else None,
            flops_per_step=size.step_flops,
        )
        model, metrics = result.state.model, result.metrics
        if jax.process_count() > 1:
            model = multihost_utils.process_allgather(model, tiled=True)
        if jax.process_index() == 0:
            exported = export_models(folder, objective.models(model), tokenizer)
            sentences = masked_sentences(example_documents(text), tokenizer, _EXAMPLES)
            baseline = majority_accuracy(held_out, objective.masked_prefix)
            lines = objective.report(Results(folder, metrics, baseline, tokenizer, sentences))
            if warning := method.warning(training.steps, metrics):
                lines.append(f"warning: {warning}")
            lines += [file_line(folder, exported), f"next: {objective.next_command(folder)}"]
            print("\n".join(lines), flush=True)


def describe(config: PretrainConfig) -> str:
    """The size of a run on the available devices: parameters, memory, tokens and FLOPs. Reads no text, writes nothing.

    The number of steps is the recipe's.
    """
    training, mesh = config.training, _training_mesh(config.training)
    check_text_files(config.data)
    options = model_options(config, model_to_train(config))
    recipe_steps = recipe(config.recipe, Selection(config.objective)).training.steps if config.recipe else 0
    steps = training.steps or recipe_steps
    size = measure(config, options, mesh)
    lines = size_lines(config.model, size, batch_size=training.batch_size, length=config.data.length, steps=steps)
    lines += published_lines(config.model) if config.objective == "rtd" else []
    return "\n".join([*lines, "next: set --steps above 0 to train"])


def check(config: PretrainConfig) -> Mesh:
    """The mesh of a run; raises InputError for options that are known to fail before any text is read.

    These are a mesh that does not match the devices, another run in the folder, missing files, a warm-up that is longer
    than the run, and a batch that is too small for its kinds of rows.
    """
    mesh = _training_mesh(config.training)
    batch_rows(config, ANY_VOCABULARY, mesh)
    learning_rate(config.training.optimizer, config.training.steps)
    check_settings(config.folder, config.settings())
    check_text_files(config.data)
    return mesh


def _training_mesh(training: TrainingConfig) -> Mesh:
    axes = training.mesh
    mesh = make_mesh(axes.data, axes.fsdp, axes.tensor)
    check_batch_size(training.batch_size, mesh, training.accumulate)
    return mesh
