"""One pretraining run, from text files to model folders."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from deberta_jax.data.masking import MaskingVocabulary
from deberta_jax.data.mixture import Shards
from deberta_jax.data.unspaced import unspaced_lines
from deberta_jax.errors import InputError
from deberta_jax.files import lock_folder
from deberta_jax.model.attention import check_attention_runs
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.baselines import LabelBaselines, label_baselines
from deberta_jax.pretraining.config import PretrainConfig
from deberta_jax.pretraining.corpus import (
    TextFiles,
    check_text_files,
    evaluation_batches,
    example_documents,
    find_tokenizer,
    masking_vocabulary,
    prepare_stages,
    prepare_text,
    train_run_tokenizer,
    training_batches,
)
from deberta_jax.pretraining.curriculum import make_stages, parse_lengths, stage_at
from deberta_jax.pretraining.initial import InitialFiles, initial_config, weights_digest
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
from deberta_jax.pretraining.sources import shards_sha256, stage_lines
from deberta_jax.pretraining.summary import (
    export_models,
    file_line,
    masked_sentences,
    published_lines,
    size_lines,
)
from deberta_jax.processes.first_process import agree, check_shared, on_first_process, print_once
from deberta_jax.sharding import make_mesh
from deberta_jax.tokenizers.tokenizer import Tokenizer
from deberta_jax.training.branch import check_branch, copy_branch
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.loop import TrainResult, held_out_evaluation, train
from deberta_jax.training.optimizer import learning_rate
from deberta_jax.training.run import check_settings
from deberta_jax.training.state import model_key
from deberta_jax.training.step import check_batch_size
from deberta_jax.training.tracking import check_wandb, tracking

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
    tokenizer = find_tokenizer(config.tokenizer, config.init_from, config.generator, " ".join(data.shards))
    files = objective.find_files(config.init_from, config.generator)
    model_config = None
    if tokenizer is not None:
        model_config = initial_config(files, config.model_config(tokenizer.vocab_size), tokenizer, config.model)
    check_attention_runs(config.attention, model_config or PRESETS[config.model], config.dtype, training=True)
    with ExitStack() as stack:
        on_first_process(lambda: stack.enter_context(lock_folder(folder)))
        check_shared(folder)
        if config.branch_from:
            on_first_process(partial(copy_branch, config.branch_from, folder))
        text = prepare_text(data, folder / "text")
        if tokenizer is None:
            tokenizer = train_run_tokenizer(text, folder / "tokenizer" / "spm.model", config.vocabulary)
        shards = prepare_stages(text, data, folder / "shards", tokenizer)
        stages = config.stages()
        training_shards = [shards[stage.length].training for stage in stages]
        rows_sha256 = shards_sha256([shards[length].training for length in data.lengths])
        content = _content([shards[length].held_out for length in data.lengths], tokenizer, files)
        settings = config.settings() | {"rows": rows_sha256, "content": content}
        agree({f"the content of {name}": digest for name, digest in {"text": rows_sha256, **content}.items()})
        _check_settings(config, settings)
        # A run that trains its tokenizer is not initialized from files.
        model_config = model_config or config.model_config(tokenizer.vocab_size)
        options = model_options(config, model_config)
        method = objective.method(options, training, config.rtd)
        stage_sizes = [measure(config.at_stage(stage), options, mesh) for stage in stages]
        vocabulary = masking_vocabulary(tokenizer)
        print_once("\n".join([f"{config.model}: {stage_sizes[0]}", *_text_lines(config, training_shards, vocabulary)]))
        rows = [batch_rows(config.at_stage(stage), vocabulary, mesh) for stage in stages]
        held_out = evaluation_batches(shards[stages[-1].length].held_out, tokenizer, rows[-1].held_out, config, mesh)
        baselines = cache(lambda prefix: label_baselines(held_out, prefix, options.config.vocab_size))
        if jax.process_index() == 0:
            method = method._replace(curves=objective.curves(baselines))
        inputs = list(zip(stages, training_shards, [stage_rows.training for stage_rows in rows], strict=True))
        load_files = partial(objective.load_files, files, options, config.rtd, model_key(training.seed), mesh)
        tracker = stack.enter_context(tracking(config.wandb, folder, settings))
        result = train(
            training,
            folder,
            settings,
            method,
            batches=training_batches(inputs, tokenizer, config, mesh),
            evaluate=held_out_evaluation(method, mesh, lambda: held_out),
            initial_model=load_files if any(files) else None,
            flops=lambda step: stage_sizes[stage_at(stages, step - 1)].step_flops,
            log=tracker.log,
        )
        tracker.summarize(result.metrics)
        _finish(config, result, baselines, text, tokenizer, method.warning(training.steps, result.metrics))


def _content(held_out: Sequence[Shards], tokenizer: Tokenizer, files: InitialFiles) -> dict[str, str]:
    """Digests of what a run reads beside its training text."""
    return {
        "held_out": shards_sha256(held_out),
        "tokenizer": tokenizer.sha256,
        "weights": weights_digest(files),
    }


def _text_lines(config: PretrainConfig, shards: Sequence[Shards], vocabulary: MaskingVocabulary) -> list[str]:
    """The stages and sources of the run, and how much text without spaces they have, if words are masked."""
    lines = stage_lines(config.stages(), shards)
    if config.objective != "clm":
        lines += unspaced_lines(shards[0], vocabulary, config.data.masking)
    return lines


def _finish(
    config: PretrainConfig,
    result: TrainResult,
    baselines: Callable[[str], LabelBaselines],
    text: TextFiles,
    tokenizer: Tokenizer,
    warning: str | None,
) -> None:
    """Export the models, and print results and the next command."""
    objective, model, folder = OBJECTIVES[config.objective], result.state.model, config.folder
    if jax.process_count() > 1:
        model = multihost_utils.process_allgather(model, tiled=True)
    if jax.process_index() > 0:
        return
    exported = export_models(folder, objective.models(model), tokenizer)
    sentences = masked_sentences(example_documents(text), tokenizer, _EXAMPLES)
    lines = objective.report(Results(folder, result.metrics, baselines, tokenizer, sentences))
    lines += [f"warning: {warning}"] * bool(warning)
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
    stages = make_stages(parse_lengths(config.data.length), training.steps or recipe_steps, training.batch_size)
    sizes = [(stage, measure(config.at_stage(stage), options, mesh)) for stage in stages]
    lines = size_lines(config.model, sizes)
    lines += published_lines(config.model) if config.objective == "rtd" else []
    return "\n".join([*lines, "next: set --steps above 0 to train"])


def check(config: PretrainConfig) -> Mesh:
    """The mesh of a run; raises InputError for options that are known to fail before any text is read.

    These are a mesh that does not match the devices, another run in the folder, missing files, a warm-up that is longer
    than the run, a batch that is too small for its kinds of rows, and Weights & Biases without a key.
    """
    mesh = _training_mesh(config.training)
    for stage in config.stages():
        check_batch_size(stage.batch_size, mesh, config.training.accumulate)
        batch_rows(config.at_stage(stage), ANY_VOCABULARY, mesh)
    learning_rate(config.training.optimizer, config.training.steps)
    _check_settings(config, config.settings())
    check_text_files(config.data)
    check_wandb(config.wandb)
    return mesh


def _check_settings(config: PretrainConfig, settings: Mapping[str, Any]) -> None:
    """Raise InputError for other settings than those of the run in the folder, and of the run to branch off from."""
    check_settings(config.folder, settings)
    if config.branch_from:
        check_branch(config.branch_from, settings)


def _training_mesh(training: TrainingConfig) -> Mesh:
    axes = training.mesh
    mesh = make_mesh(axes.data, axes.fsdp, axes.tensor)
    check_batch_size(training.batch_size, mesh, training.accumulate)
    return mesh
