"""Golden cases of replaced-token detection (d30 to d34): both models, and the gradient of each loss."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from check import BOUND_GRADIENT, Difference, check_inputs, gathered, in_both_dtypes, largest

from deberta_jax.config import read_rtd_pair
from deberta_jax.hub.layout import export_tensors
from deberta_jax.hub.legacy_names import canonical_tensors
from deberta_jax.hub.load import import_tensors
from deberta_jax.hub.tensors import as_tensor
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.pair import ReplacedTokenPair
from deberta_jax.model.replaced_token_detection import ReplacedTokenDetection
from deberta_jax.pretraining.objectives import masked_logits, masked_sums
from deberta_jax.pretraining.replaced_token_losses import detection_sums, replace_tokens
from deberta_jax.training.losses import binary_cross_entropy, cross_entropy


def loaded_pair(folder: Path, dtype: str) -> ReplacedTokenPair:
    """The pair of a case, its differences formed in `dtype`."""
    generator, discriminator, sharing = read_rtd_pair(folder / "config.json")
    configs = {"generator": generator, "discriminator": discriminator}
    weights = safetensors.numpy.load_file(folder / "weights.safetensors")
    tensors = {name: as_tensor(array.astype(dtype)) for name, array in weights.items()}
    models = {}
    for name, kind in (("generator", MaskedLM), ("discriminator", ReplacedTokenDetection)):
        config = configs[name]
        named = canonical_tensors(tensors, config, source=folder, generator=name == "generator")
        build = lambda key, kind=kind, config=config: kind(config, key=key)  # noqa: E731
        models[name], _ = import_tensors(build, config, named, source=folder, dtype=dtype)
    return ReplacedTokenPair(models["generator"], models["discriminator"], sharing)


def run_pair(folder: Path) -> Iterator[Difference]:
    """Every difference of a case in float32 and in float64."""
    yield from in_both_dtypes(functools.partial(_run, folder))


def _run(folder: Path, dtype: str, bound: float) -> Iterator[Difference]:
    pair = loaded_pair(folder, dtype)
    inputs, about = dict(np.load(folder / "inputs.npz")), json.loads((folder / "case.json").read_text())
    check_inputs(folder, inputs, {"input_ids", "input_mask", "labels", "position_ids", "sampled_tokens"})
    labels, real = inputs["labels"], inputs["input_mask"] > 0
    positions, used = gathered(labels > 0)
    written = np.zeros(positions.shape, np.int32)
    written[used] = inputs["sampled_tokens"]
    batch = {
        "input_ids": jnp.asarray(inputs["input_ids"]),
        "segment_ids": jnp.asarray(inputs["input_mask"]),
        "position_ids": jnp.asarray(inputs["position_ids"]),
        "masked_positions": jnp.asarray(positions, jnp.int32),
        "labels": jnp.asarray(np.take_along_axis(labels, positions, 1)),
        "label_weights": jnp.asarray(used, dtype),
    }

    def mlm(pair):
        logits = masked_logits(pair.generator, batch, None)
        sums = masked_sums(logits, batch)
        each = cross_entropy(logits, batch["labels"])
        return sums.loss / sums.weight, {"generator_logits": logits[used], "mlm_loss_per_token": each[used]}

    def rtd(pair):
        read = replace_tokens(batch, jnp.asarray(written))
        arguments = {name: read[name] for name in ("segment_ids", "position_ids")}
        logits = pair.detector()(read["input_ids"], **arguments)
        sums = detection_sums(logits, read)
        return sums.loss / sums.weight, {
            "discriminator_input_ids": read["input_ids"],
            "discriminator_logits": jnp.where(real, logits, 0),
            "discriminator_labels": read["replaced"][real],
            "rtd_loss_per_token": binary_cross_entropy(logits, read["replaced"].astype(logits.dtype))[real],
        }

    losses = {"mlm": mlm, "rtd": rtd}
    if dtype == "float32":
        results = {name: (jax.jit(loss)(pair), None) for name, loss in losses.items()}
    else:
        results = {name: jax.jit(jax.value_and_grad(loss, has_aux=True))(pair) for name, loss in losses.items()}
    outputs = {f"{name}_loss": value for name, ((value, _), _) in results.items()}
    outputs |= results["mlm"][0][1] | results["rtd"][0][1] | {"generator_labels": batch["labels"][used]}
    outputs["total_loss"] = outputs["mlm_loss"] + about["rtd_lambda"] * outputs["rtd_loss"]
    references = dict(np.load(folder / "outputs64.npz"))
    if dtype == "float32":
        references = dict(np.load(folder / "outputs.npz")) | references
    for name, reference in references.items():
        if name == "discriminator_logits":
            # A padded row attends to nothing here as in the original, yet is no output.
            reference = np.where(real, reference, 0)
        yield Difference(name, dtype, largest(np.asarray(outputs[name], np.float64), reference), bound)
    if dtype == "float64":
        for name, (_, gradient) in results.items():
            yield from _gradients(folder, pair, name, gradient, about["grad_table"])


def _gradients(folder: Path, pair: ReplacedTokenPair, loss: str, gradient, table: dict) -> Iterator[Difference]:
    """Which parameter moves by which loss, and by how much."""
    ours = {}
    for part in ("generator", "discriminator"):
        of_part = getattr(gradient, part)
        for name, array in export_tensors(of_part, getattr(pair, part).deberta.config).items():
            difference = part == "discriminator" and pair.sharing == "gdes" and ".embeddings." in f".{name}"
            tail = "_embeddings.weight"
            ours[f"{part}.{name.replace(tail, '_embeddings._weight') if difference else name}"] = array
    gradients = safetensors.numpy.load_file(folder / f"grads_{loss}.safetensors")
    assert set(gradients) == {name for name, norms in table.items() if norms[loss] is not None}
    zero = 1e-10 * max(np.abs(reference).max() for reference in gradients.values())
    for name, reference in gradients.items():
        scale = max(np.abs(reference).max(), zero)
        value = largest(ours[name], reference.astype(np.float64)) / scale if name in ours else np.inf
        yield Difference(f"gradient of {loss} by {name}", "float64", value, BOUND_GRADIENT)
    for name, norms in table.items():
        if norms[loss] is None and name in ours:
            # No gradient at all: zero to the bit.
            yield Difference(f"no gradient of {loss} by {name}", "float64", float(np.abs(ours[name]).max()), 0.0)
