"""`deberta-jax pretrain`: text in, a model folder out."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from deberta_jax.cli.progress import counted
from deberta_jax.cli.sentences import masked_sentences
from deberta_jax.config import DebertaConfig
from deberta_jax.data.batches import Batches, held_out
from deberta_jax.data.documentation import write_documentation
from deberta_jax.data.hold_out import hold_out
from deberta_jax.data.masking import Vocabulary
from deberta_jax.data.prepare import prepare, read_manifest
from deberta_jax.data.sources import documents, find
from deberta_jax.errors import InputError
from deberta_jax.folders import held
from deberta_jax.hub.pretrained import from_pretrained, save_pretrained
from deberta_jax.hub.special_tokens import MASK
from deberta_jax.hub.tokenizer import Tokenizer
from deberta_jax.hub.train_tokenizer import train_tokenizer
from deberta_jax.inference.masks import fill_mask
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.sharding import make_mesh
from deberta_jax.training.loop import HostBatch, train
from deberta_jax.training.objectives import masked_lm
from deberta_jax.training.optimizer import learning_rate, make_optimizer
from deberta_jax.training.pretrain import RECIPES as RECIPES
from deberta_jax.training.pretrain import PretrainConfig
from deberta_jax.training.processes import join
from deberta_jax.training.run import refuse_other
from deberta_jax.training.sizes import Sizes, sizes
from deberta_jax.training.state import Build, abstract_state
from deberta_jax.training.step import check_batch_size, share

FEWEST_SHARDS = 40


def run(config: PretrainConfig) -> None:
    """Prepare what is not there yet, train, evaluate, export; with `steps` 0 report the sizes and do no more."""
    join(config.processes)
    axes = config.training.mesh
    mesh = make_mesh(axes.data, axes.fsdp, axes.tensor)
    check_batch_size(config.training.batch_size, mesh, config.training.accumulate)
    if config.training.steps == 0:
        _check_inputs(config)
        # A vocabulary that is trained gets [MASK] after it.
        vocab_size = Tokenizer(config.tokenizer).vocab_size if config.tokenizer else config.vocabulary + 1
        _say(f"{config.model}: {measure(config, config.model_config(vocab_size))}")
        return
    learning_rate(config.training.optimizer, config.training.steps)
    refuse_other(config.folder, config.settings())
    _check_inputs(config)
    with ExitStack() as stack:
        _on_first(lambda: stack.enter_context(held(config.folder)))
        _run(config, mesh)


def _check_inputs(config: PretrainConfig) -> None:
    """What can be refused before anything is written."""
    if named := [*config.data.files, *config.data.held_out]:
        find(named)
    if config.tokenizer:
        Tokenizer(config.tokenizer)
    elif config.data.shards:
        raise InputError("--data.shards needs the tokenizer they were made with: --tokenizer")


def _run(config: PretrainConfig, mesh: Mesh) -> None:
    text = _Text(config)
    tokenizer = _tokenizer(config, text)
    training_rows, held_out_rows = _shards(config, text, tokenizer)
    settings = config.settings() | {"rows": read_manifest(training_rows).sha256}
    # Here too, by every process: alone, the first would leave the others waiting.
    refuse_other(config.folder, settings)
    model_config = config.model_config(tokenizer.vocab_size)
    size = measure(config, model_config)
    _say(f"{config.model}: {size}")

    vocabulary = Vocabulary(tokenizer.mask_id, tokenizer.vocab_size, tokenizer.special_ids, tokenizer.word_starts())
    host_index, host_count = share(mesh)
    common: dict[str, Any] = {
        "batch_size": config.training.batch_size,
        "vocabulary": vocabulary,
        "masking": config.data.masking,
        "host_index": host_index,
        "host_count": host_count,
        "vocabulary_sha256": tokenizer.sha256,
    }
    evaluated = held_out(held_out_rows, most=config.data.evaluate_batches, **common)

    def batches(start: int) -> Batches:
        workers = config.data.workers
        return Batches(training_rows, seed=config.training.seed, start=start, workers=workers, **common)

    trained = train(
        config.training,
        config.folder,
        settings,
        builder(config, model_config),
        masked_lm,
        batches,
        lambda: evaluated,
        size.step_flops,
    )
    if not trained.complete:
        return
    export = config.folder / "model"
    model: Any = trained.state.model
    if jax.process_count() > 1:
        model = multihost_utils.process_allgather(model, tiled=True)
    if jax.process_index():
        return
    save_pretrained(export, model, tokenizer)
    guess = most_frequent_share(evaluated)
    found = trained.held_out
    _say(
        f"held out: {found['accuracy']:.1%} of masked tokens found "
        f"(always guessing the most frequent one: {guess:.1%}), "
        f"loss {found['loss']:.3f}, perplexity {found['perplexity']:.1f}"
    )
    _show_filled(export, tokenizer, text.held_out_documents())
    _say(f"model {export}; curves {config.folder / 'loss.png'}; metrics {config.folder / 'metrics.jsonl'}")


def builder(config: PretrainConfig, model_config: DebertaConfig) -> Build:
    """How the model is made from a key."""

    def build(key: PRNGKeyArray) -> MaskedLM:
        return MaskedLM(model_config, dtype=jnp.dtype(config.dtype), remat=config.remat, key=key)

    return build


def measure(config: PretrainConfig, model_config: DebertaConfig) -> Sizes:
    """The sizes of a run on the devices that are here, by shapes alone."""
    mesh = make_mesh(config.training.mesh.data, config.training.mesh.fsdp, config.training.mesh.tensor)
    optimizer = make_optimizer(config.training.optimizer, max(config.training.steps, 10**6))
    abstract = abstract_state(builder(config, model_config), optimizer, config.training.seed, mesh)
    rows, length = config.training.batch_size, config.data.length
    slots = config.data.masking.predictions(length)
    shapes = {
        "input_ids": length,
        "segment_ids": length,
        "position_ids": length,
        "masked_positions": slots,
        "labels": slots,
    }
    batch = {name: jax.ShapeDtypeStruct((rows, width), jnp.int32) for name, width in shapes.items()}
    batch["label_weights"] = jax.ShapeDtypeStruct((rows, slots), jnp.float32)
    return sizes(masked_lm, abstract, batch)


def most_frequent_share(batches: Iterable[HostBatch]) -> float:
    """The accuracy of guessing the same token everywhere, the best one."""
    labels = np.concatenate([batch["labels"][batch["label_weights"] > 0] for batch in batches])
    return float(np.bincount(labels).max() / len(labels))


class _Text:
    """The files of a run, found or written."""

    def __init__(self, config: PretrainConfig):
        self.files, self.held_out = config.data.files, config.data.held_out
        self.shards = config.data.shards
        if not self.files and not self.shards:
            before = time.perf_counter()
            _on_first(lambda: write_documentation(config.folder / "text"))
            written = config.folder / "text" / "train.txt", config.folder / "text" / "held_out.txt"
            self.files, self.held_out = ((str(path),) for path in written)
            size = written[0].stat().st_size / 1e6
            _say(f"text: {size:.1f} MB of documentation installed here ({time.perf_counter() - before:.0f} s)")

    def held_out_documents(self) -> list[str]:
        """Documents to show masks of, a thousand at most."""
        named = self.held_out or self.files
        source = documents(named) if named else iter(())
        return [text for _, text in zip(range(1000), source, strict=False)]


def _tokenizer(config: PretrainConfig, text: _Text) -> Tokenizer:
    if config.tokenizer:
        return Tokenizer(config.tokenizer)
    path = config.folder / "tokenizer" / "spm.model"
    before = time.perf_counter()

    def make() -> None:
        if not path.exists():
            train_tokenizer(documents(text.files), path, config.vocabulary)

    _on_first(make)
    tokenizer = Tokenizer(path)
    _say(f"tokenizer: {tokenizer.vocab_size} tokens ({time.perf_counter() - before:.0f} s)")
    return tokenizer


def _shards(config: PretrainConfig, text: _Text, tokenizer: Tokenizer) -> tuple[Path, Path]:
    """Folders of rows to train on and to evaluate on."""
    folder = config.folder / "shards"
    length = config.data.length
    if text.shards and (there := read_manifest(text.shards, tokenizer.sha256).length) != length:
        raise InputError(f"{text.shards}: rows of {there} tokens; give --data.length {there}, or prepare others")
    if text.held_out:
        if not text.shards:
            _prepare(text.files, folder / "train", tokenizer, length, None)
        _prepare(text.held_out, folder / "held_out", tokenizer, length, None)
        return text.shards or folder / "train", folder / "held_out"
    rows = text.shards or folder / "all"
    if not text.shards:
        # Enough of them that one in twenty is a twentieth.
        _prepare(text.files, rows, tokenizer, length, FEWEST_SHARDS)
    _on_first(lambda: hold_out(rows, folder, tokenizer.sha256))
    return folder / "train", folder / "held_out"


def _prepare(files: Sequence[str], folder: Path, tokenizer: Tokenizer, length: int, shards: int | None) -> None:
    def make() -> None:
        with counted("shards") as progress:
            report = prepare(files, folder, tokenizer, length=length, shards=shards, progress=progress)
        manifest = report.manifest
        _say(
            f"shards: {folder}, {manifest.tokens:,} tokens in {manifest.rows:,} rows of {manifest.length} "
            f"({report.seconds:.0f} s, {report.megabytes_per_second:.1f} MB/s, "
            f"{report.tokens_per_second:,.0f} tokens/s)"
        )

    _on_first(make)


def _show_filled(folder: Path, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """Five masks of held-out sentences, filled by the exported model."""
    model, _ = from_pretrained(folder, head="masked_lm")
    found = masked_sentences(texts, tokenizer, 5)
    for (sentence, word), masks in zip(
        found, fill_mask(model, tokenizer, [sentence for sentence, _ in found], top=3), strict=True
    ):
        listed = ", ".join(f"{guess.token} {guess.probability:.0%}" for guess in masks[0])
        _say(f"  {sentence.replace(MASK, '____')}\n    {listed} (it was: {word})")


def _on_first(action: Callable[[], object]) -> None:
    """Do what writes files on the first process; the others wait, and stop where it fails."""
    error: BaseException | None = None
    if jax.process_index() == 0:
        try:
            action()
        except BaseException as caught:
            error = caught
    failed = error is not None
    if jax.process_count() > 1:
        failed = bool(multihost_utils.broadcast_one_to_all(np.asarray(failed)))
    if error is not None:
        raise error
    if failed:
        raise InputError("the first process cannot go on; it says why")


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line, flush=True)
