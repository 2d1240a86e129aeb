"""Golden cases of virtual adversarial training (f01 to f06): every pass, and the gradients of both losses."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from check import (
    BOUND_GRADIENT,
    Case,
    Difference,
    check_inputs,
    in_both_dtypes,
    largest,
    loaded,
    read_case,
    token_mask,
)

from deberta_jax.finetuning.config import SiftConfig
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.objectives import TaskObjective, categorical_divergence, classification_objective
from deberta_jax.finetuning.sift import NORM_EPSILON, adversarial_passes
from deberta_jax.hub.layout import export_tensors
from deberta_jax.model.heads import SequenceClassification
from deberta_jax.model.linear import normalize


def over_the_batch() -> TaskObjective:
    """Regression as the original has it: a softmax over the numbers of the batch."""
    plain = KINDS["regression"].objective

    def divergence(name, logits, target, batch):
        over = len(batch["labels"]) if name == "mse" else 1
        return over * categorical_divergence(name, logits[:, 0], target[:, 0])

    return plain._replace(divergence=divergence)


def run_sift(folder: Path) -> Iterator[Difference]:
    """Every difference of a case in float32 and in float64."""
    case = read_case(folder)
    check_inputs(folder, case.inputs, {"input_ids", "input_mask", "labels", "noise"})
    yield from in_both_dtypes(functools.partial(_run, case))


def _run(case: Case, dtype: str, bound: float) -> Iterator[Difference]:
    about, one = case.about, case.about["num_labels"] == 1
    config = dataclasses.replace(case.config, labels=tuple(map(str, range(about["num_labels"]))))
    model = loaded(case, lambda key: SequenceClassification(config, key=key), dtype)
    task = over_the_batch() if one else classification_objective()
    settings = SiftConfig(
        weight=float(about["vat_lambda"]),
        learning_rate=about["vat_learning_rate"],
        initial=about["vat_init_perturbation"],
        divergence=about["vat_loss_fn"].replace("-", "_"),
    )
    rows = len(case.inputs["labels"])
    batch = {
        "input_ids": jnp.asarray(case.inputs["input_ids"], jnp.int32),
        "attention_mask": jnp.asarray(token_mask(case.inputs), jnp.int32),
        "token_type_ids": jnp.zeros(case.inputs["input_ids"].shape, jnp.int32),
        "labels": jnp.asarray(case.inputs["labels"], dtype if one else jnp.int32),
        "weights": jnp.ones(rows, dtype),
    }
    noise = jnp.asarray(case.inputs["noise"], dtype)
    # A sum over the batch where the softmax is, else a mean.
    over = 1 if one else rows

    def losses(model):
        passes = adversarial_passes(task, settings, model, batch, noise)
        plain = task.outputs(model, batch, None)
        summed = model.deberta.embeddings.lookup(batch["input_ids"])
        e = normalize(summed, NORM_EPSILON)
        flat = (lambda x: x[:, 0]) if one else (lambda x: x)
        clean_loss, adv_loss = passes.task.loss / passes.task.weight, passes.adversarial / over
        outputs = {
            "plain_logits": flat(plain),
            "plain_loss": task.sums(plain, batch).loss / rows,
            "normalized_embedding_input": e,
            "clean_logits": flat(passes.clean),
            "clean_loss": clean_loss,
            "delta.0": passes.initial_perturbation,
            "perturbed_input.0": e + passes.initial_perturbation,
            "delta_grad": passes.gradient,
            "delta.1": passes.perturbation,
            "perturbed_input.1": e + passes.perturbation,
            "pert_logits.0": flat(passes.first),
            "pert_logits.1": flat(passes.second),
            "adv_loss": adv_loss,
            "total_loss": clean_loss + settings.weight * adv_loss,
        }
        return jnp.stack([adv_loss, outputs["total_loss"]]), outputs

    def with_gradients(model):
        """The outputs, and the gradients of both losses, stacked."""
        _, pull_back, outputs = jax.vjp(losses, model, has_aux=True)
        return outputs, jax.vmap(pull_back)(jnp.eye(2, dtype=dtype))[0]

    if dtype == "float64":
        outputs, stacked = jax.jit(with_gradients)(model)
    else:
        outputs = jax.jit(lambda model: losses(model)[1])(model)
    references = case.outputs64 if dtype == "float64" else case.outputs
    for name, reference in references.items():
        yield Difference(
            name, dtype, largest(np.asarray(outputs[name], np.float64), reference.astype(np.float64)), bound
        )
    if dtype == "float64":
        # What is zero in exact arithmetic holds the rounding of terms as large as the task's own, which cancel.
        total = safetensors.numpy.load_file(case.folder / "grads_total.safetensors")
        zero = 1e-10 * max(np.abs(reference).max() for reference in total.values())
        for row, loss in enumerate(("adv", "total")):
            ours = export_tensors(jax.tree.map(lambda x, row=row: np.asarray(x)[row], stacked), config)
            gradients = safetensors.numpy.load_file(case.folder / f"grads_{loss}.safetensors")
            for name, reference in gradients.items():
                scale = max(np.abs(reference).max(), zero)
                value = largest(ours[name], reference.astype(np.float64)) / scale if name in ours else np.inf
                yield Difference(f"gradient of {loss} by {name}", dtype, value, BOUND_GRADIENT)
