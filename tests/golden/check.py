"""Run golden cases: `python tests/golden/check.py FOLDER…` prints the largest differences, exits 1 where one is over.

A folder holds config.json, case.json, inputs.npz, weights.safetensors, outputs.npz (float32), outputs64.npz (float64)
and, for some, gradients. `run_case` is what the tests call.
"""

import dataclasses
import functools
import json
import re
import sys
from collections.abc import Callable, Iterator, Set
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from deberta_jax.config import DebertaConfig
from deberta_jax.hub.layout import export_tensors
from deberta_jax.hub.legacy_names import canonical_tensors
from deberta_jax.hub.load import import_tensors
from deberta_jax.hub.tensors import as_tensor
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.entity_scoring import EntityScoring
from deberta_jax.model.heads import (
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.multiple_choice import MultipleChoice
from deberta_jax.ops.positions import log_bucket, relative_index
from deberta_jax.training.losses import binary_cross_entropy, cross_entropy, soft_cross_entropy, squared_error

BOUND_32, BOUND_64, BOUND_GRADIENT = 2e-5, 1e-9, 1e-5
# The kind of a case that holds two models: pairs.py; that of virtual adversarial training: adversaries.py.
PAIR = "ms_rtd"
SIFT = "ms_sift"


@dataclasses.dataclass(frozen=True)
class Difference:
    """Largest difference of one output, or of one gradient relative to its largest value."""

    name: str
    precision: str
    value: float
    bound: float

    @property
    def over(self) -> bool:
        return not self.value <= self.bound


@dataclasses.dataclass(frozen=True)
class Case:
    """A folder, read."""

    folder: Path
    about: dict
    config: DebertaConfig
    inputs: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    outputs64: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]


def read_case(folder: Path) -> Case:
    about = json.loads((folder / "case.json").read_text())
    config = DebertaConfig.from_file(folder / "config.json")
    gradients = folder / "grads.safetensors"
    return Case(
        folder,
        about,
        config,
        dict(np.load(folder / "inputs.npz")),
        safetensors.numpy.load_file(folder / "weights.safetensors"),
        dict(np.load(folder / "outputs.npz")),
        dict(np.load(folder / "outputs64.npz")),
        safetensors.numpy.load_file(gradients) if gradients.exists() else {},
    )


def loaded(case: Case, build: Callable[[jax.Array], object], dtype: str) -> object:
    """The model of a case with the case's weights in `dtype`."""
    tensors = canonical_tensors(
        {name: as_tensor(array) for name, array in case.weights.items()}, case.config, source=case.folder
    )
    model, _ = import_tensors(build, case.config, tensors, source=case.folder, dtype=dtype)
    return model


# The names of the inputs in the files, as the original code and transformers call them.
MASKS = "input_mask", "attention_mask"
OPTIONAL = {"token_type_ids": "token_type_ids", "type_ids": "token_type_ids", "position_ids": "position_ids"}
TARGETS = {"labels", "start_positions", "end_positions"}
KNOWN = {"input_ids", "embedding_mask", "entity_indice", *MASKS, *OPTIONAL, *TARGETS}


def token_mask(inputs: dict[str, np.ndarray]) -> np.ndarray | None:
    """The mask of real tokens or of pairs, under either name."""
    return next((inputs[name] for name in MASKS if name in inputs), None)


def check_inputs(folder: Path, inputs: dict[str, np.ndarray], known: Set[str] = KNOWN) -> None:
    """Raise ValueError for inputs that would be ignored."""
    if unknown := inputs.keys() - known:
        raise ValueError(f"{folder}: unknown inputs {', '.join(sorted(unknown))}")
    if len(inputs.keys() & {*MASKS}) > 1:
        raise ValueError(f"{folder}: both {' and '.join(MASKS)}, expected one of them")


def masks(case: Case) -> dict[str, jax.Array | None]:
    """A case's mask as arguments of the model: which tokens are real, and a mask of pairs if it has one.

    The mask of multiple choice has an axis of choices, and is one of tokens.
    """
    mask = token_mask(case.inputs)
    if mask is None or mask.ndim == 2 or case.inputs["input_ids"].ndim == 3:
        return {"attention_mask": mask}
    if mask.ndim == 3:
        return {"attention_mask": case.inputs["embedding_mask"], "pair_mask": jnp.asarray(mask[:, None] != 0)}
    return {"attention_mask": mask[:, 0, 0], "pair_mask": jnp.asarray(mask != 0)}


def extras(case: Case) -> dict[str, np.ndarray]:
    """Token types and positions, if a case has them, as arguments of the model."""
    return {argument: case.inputs[name] for name, argument in OPTIONAL.items() if name in case.inputs}


def on_host(outputs: dict[str, jax.Array | None]) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in outputs.items() if array is not None}


def run_encoder(case: Case, dtype: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    model = loaded(case, lambda key: Deberta(case.config, key=key), dtype)
    expected = {**case.outputs, **case.outputs64}
    call = lambda model: model(  # noqa: E731
        case.inputs["input_ids"],
        **masks(case),
        **extras(case),
        output_hidden_states=True,
        output_attentions="attentions" in expected,
    )
    output = jax.jit(call)(model)._asdict()
    if "attention_rows" in case.about:
        # Long cases keep a few positions of these two.
        for name in ("attentions", "hidden_states"):
            if output[name] is not None:
                output[name] = output[name][..., case.about["attention_rows"], :]
    return on_host(output), {}


def run_masked_lm(case: Case, dtype: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Hugging Face's (from the last layer, every position) or Microsoft's (enhanced mask decoder, masked positions)."""
    microsoft = case.about["kind"] == "ms_mlm"
    model = loaded(case, lambda key: MaskedLM(case.config, enhanced_mask_decoder=microsoft, key=key), dtype)
    labels = case.inputs["labels"]
    targets = labels > 0 if microsoft else labels != -100
    positions, slots = gathered(targets) if microsoft else (None, None)
    chosen = np.take_along_axis(labels, positions, 1)[slots] if microsoft else labels[targets]

    def loss(model):
        masked = {"masked_positions": positions} if microsoft else {}
        logits = model(case.inputs["input_ids"], **masks(case), **extras(case), **masked)
        picked = logits[slots] if microsoft else logits[targets]
        each = -jnp.take_along_axis(jax.nn.log_softmax(picked), chosen[:, None].astype(int), axis=1)[:, 0]
        outputs = {"loss": each.mean(), "logits": picked if microsoft else logits}
        if microsoft:
            outputs |= {"loss_per_token": each, "labels": jnp.asarray(chosen)}
        depth = None if model.decoder is None else case.config.num_hidden_layers - 1
        states = model.deberta(case.inputs["input_ids"], **masks(case), **extras(case), depth=depth).last_hidden_state
        if model.decoder is not None:
            outputs["last_but_one_hidden_state"] = states
            states = model.states(case.inputs["input_ids"], **masks(case), **extras(case), **masked)
            outputs["emd_states.1"] = states[slots]
        elif not microsoft:
            outputs["last_hidden_state"] = states
        return each.mean(), outputs

    if dtype == "float32" or not case.gradients:
        return on_host(jax.jit(lambda model: loss(model)[1])(model)), {}
    gradients, outputs = jax.jit(jax.grad(loss, has_aux=True))(model)
    head = "cls" if any(name.startswith("cls.") for name in case.weights) else "lm_predictions"
    return on_host(outputs), export_tensors(gradients, case.config, lm_prefix=head)


def run_head(case: Case, dtype: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A model with a head for a task, and the loss that its source gives it."""
    kind, options, outputs_of = HEADS[case.about["class"].removeprefix("DebertaV2").removeprefix("Deberta")]
    rows = case.weights.get("classifier.weight", np.zeros((2, 0))).shape[0]
    config = dataclasses.replace(case.config, labels=tuple(map(str, range(rows))))
    model = loaded(case, lambda key: kind(config, key=key, **options), dtype)

    def loss(model):
        outputs = outputs_of(case, model)
        return outputs["loss"], outputs

    if dtype == "float32" or not case.gradients:
        return on_host(jax.jit(lambda model: loss(model)[1])(model)), {}
    gradients, outputs = jax.jit(jax.grad(loss, has_aux=True))(model)
    return on_host(outputs), export_tensors(gradients, config)


def mean_over(losses: jax.Array, counted: np.ndarray) -> jax.Array:
    return jnp.sum(jnp.where(counted, losses, 0)) / int(counted.sum())


def of_texts(case: Case, model: SequenceClassification) -> dict[str, jax.Array]:
    logits, labels = model(case.inputs["input_ids"], **masks(case), **extras(case)), jnp.asarray(case.inputs["labels"])
    several = case.about["kind"] != "ms_head" and case.config.problem_type == "multi_label_classification"
    if logits.shape[-1] == 1:
        return {"logits": logits[:, 0], "loss": squared_error(logits[:, 0], labels).mean()}
    if labels.ndim == 2:
        each = binary_cross_entropy(logits, labels) if several else soft_cross_entropy(logits, labels)
        return {"logits": logits, "loss": each.mean()}
    return {"logits": logits, "loss": mean_over(cross_entropy(logits, labels), case.inputs["labels"] >= 0)}


def of_tokens(case: Case, model: TokenClassification) -> dict[str, jax.Array]:
    logits, labels = model(case.inputs["input_ids"], **masks(case), **extras(case)), case.inputs["labels"]
    return {"logits": logits, "loss": mean_over(cross_entropy(logits, jnp.asarray(labels)), labels >= 0)}


def of_spans(case: Case, model: QuestionAnswering) -> dict[str, jax.Array]:
    start, end = model(case.inputs["input_ids"], **masks(case), **extras(case))
    # Hugging Face's loss counts the logits at padding, which are of its own making: they are taken from it.
    real = np.asarray(masks(case)["attention_mask"]) != 0
    filled = [
        jnp.where(real, logits, jnp.asarray(case.outputs64[name], logits.dtype))
        for name, logits in (("start_logits", start), ("end_logits", end))
    ]
    ends = zip(filled, (case.inputs["start_positions"], case.inputs["end_positions"]), strict=True)
    # A place before the text is its first token, one beyond its end is left out.
    inside = [(logits, at.clip(0), at < logits.shape[1]) for logits, at in ends]
    losses = [mean_over(cross_entropy(logits, jnp.asarray(at)), counted) for logits, at, counted in inside]
    return {"start_logits": start, "end_logits": end, "loss": sum(losses) / 2}


def of_choices(case: Case, model: MultipleChoice) -> dict[str, jax.Array]:
    logits = model(case.inputs["input_ids"], **masks(case), **extras(case))
    return {"logits": logits, "loss": cross_entropy(logits, jnp.asarray(case.inputs["labels"])).mean()}


def of_entities(case: Case, model: EntityScoring) -> dict[str, jax.Array]:
    at, labels = case.inputs["entity_indice"], case.inputs["labels"]
    logits = model(case.inputs["input_ids"], **masks(case), **extras(case), entity_positions=at)
    losses = binary_cross_entropy(logits, jnp.asarray(labels, logits.dtype))
    return {"logits": logits, "loss": mean_over(losses, (at > 0).any(-1))}


HEADS = {
    "ForSequenceClassification": (SequenceClassification, {}, of_texts),
    "ForTokenClassification": (TokenClassification, {}, of_tokens),
    "ForQuestionAnswering": (QuestionAnswering, {}, of_spans),
    "ForMultipleChoice": (MultipleChoice, {}, of_choices),
    "SequenceClassificationModel": (SequenceClassification, {}, of_texts),
    "MultiChoiceModel": (MultipleChoice, {}, of_choices),
    "NERModel": (TokenClassification, {"projected": True}, of_tokens),
    "ReCoRDQAModel": (EntityScoring, {}, of_entities),
}


def gathered(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Target positions as [B, M], and which of those slots are in use."""
    width = targets.sum(1).max()
    order = np.argsort(~targets, axis=1, kind="stable")[:, :width]
    return order, np.take_along_axis(targets, order, 1)


RUNNERS = {
    "hf_encoder": run_encoder,
    "ms_encoder": run_encoder,
    "ms_mlm": run_masked_lm,
    "DebertaForMaskedLM": run_masked_lm,
    "DebertaV2ForMaskedLM": run_masked_lm,
    **{f"{model}{head}": run_head for head in HEADS for model in ("Deberta", "DebertaV2", "") if head},
}


def runner(case_json: dict) -> Callable | None:
    """What runs a case, by its class or its kind; None where this version knows no such model."""
    return RUNNERS.get(case_json.get("class")) or RUNNERS.get(case_json["kind"])


def known(case_json: dict) -> bool:
    """Whether this version runs such a case."""
    return case_json["kind"] in (PAIR, SIFT) or runner(case_json) is not None


def attended(case: Case, name: str, array: np.ndarray) -> np.ndarray:
    """The part of an output that is compared: real tokens, and with Hugging Face no fully masked row."""
    of_token = "start_logits", "end_logits"
    if name not in (
        "last_hidden_state",
        "hidden_states",
        "last_but_one_hidden_state",
        "attentions",
        "logits",
        *of_token,
    ):
        return array
    if name == "logits" and (case.about["kind"] == "ms_mlm" or array.shape[:2] != case.inputs["input_ids"].shape):
        return array
    if name in of_token:
        array = array[..., None]
    mask = masks(case)["attention_mask"]
    full = masks(case).get("pair_mask")
    if mask is None:
        return array
    real = np.asarray(mask) != 0
    if full is not None:
        # A real query that may see no key is padding to the scores, and reaches others where they may see it.
        real = real & np.broadcast_to(np.asarray(full).any(-1)[:, 0], real.shape)
    if name in ("attentions", "hidden_states") and "attention_rows" in case.about:
        real = real[:, case.about["attention_rows"]]
    if name == "attentions":
        return np.where(real[None, :, None, :, None], array, 0)
    return np.where(real[(None,) * (array.ndim - real.ndim - 1)][..., None], array, 0)


def run_case(folder: Path) -> Iterator[Difference]:
    """Every difference of a case in float32 and in float64."""
    if not (folder / "case.json").exists():
        yield from run_tables(folder)
        return
    about = json.loads((folder / "case.json").read_text())
    if about["kind"] == PAIR:
        import pairs

        yield from pairs.run_pair(folder)
        return
    if about["kind"] == SIFT:
        import adversaries

        yield from adversaries.run_sift(folder)
        return
    case = read_case(folder)
    check_inputs(folder, case.inputs)
    yield from in_both_dtypes(functools.partial(compare_outputs, case))


def in_both_dtypes(run: Callable[[str, float], Iterator[Difference]]) -> Iterator[Difference]:
    """The differences of `run(dtype, bound)` in float32 and in float64."""
    before = jax.config.jax_enable_x64
    try:
        for dtype, bound in (("float32", BOUND_32), ("float64", BOUND_64)):
            jax.config.update("jax_enable_x64", dtype == "float64")
            yield from run(dtype, bound)
    finally:
        jax.config.update("jax_enable_x64", before)


def compare_outputs(case: Case, dtype: str, bound: float) -> Iterator[Difference]:
    """Every difference of outputs, and in float64 of gradients."""
    outputs, gradients = runner(case.about)(case, dtype)
    references = {**case.outputs, **case.outputs64} if dtype == "float32" else case.outputs64
    for name in sorted(set(references) & set(outputs)):
        ours, reference = (attended(case, name, x.astype(np.float64)) for x in (outputs[name], references[name]))
        yield Difference(name, dtype, largest(ours, reference), bound)
    if dtype == "float64":
        # Gradients that are zero in exact arithmetic (a key bias under softmax) hold rounding only.
        zero = 1e-10 * max((np.abs(reference).max() for reference in case.gradients.values()), default=0)
        for name, reference in case.gradients.items():
            if name not in gradients:
                yield Difference(f"gradient of {name}", dtype, np.inf, BOUND_GRADIENT)
                continue
            scale = max(np.abs(reference).max(), zero)
            value = largest(gradients[name], reference.astype(np.float64)) / scale
            yield Difference(f"gradient of {name}", dtype, value, BOUND_GRADIENT)


def largest(ours: np.ndarray, reference: np.ndarray) -> float:
    if ours.shape != reference.shape:
        return float("inf")
    return float(np.abs(ours - reference).max()) if ours.size else 0.0


def run_tables(folder: Path) -> Iterator[Difference]:
    """The tables of e01: buckets in exact arithmetic, the originals' where they are exact themselves; their rows."""
    outputs = dict(np.load(folder / "outputs.npz"))
    distances = outputs["distances"]
    exact = {name.split(".")[1]: table for name, table in outputs.items() if name.startswith("bucket_exact.")}
    for size, table in exact.items():
        buckets, distance = (int(part[1:]) for part in size.split("_"))
        ours = log_bucket(distances, buckets, distance)
        yield Difference(f"bucket_exact.{size}", "integer", largest(ours, table), 0)
        if f"bucket_hf.{size}" in outputs:
            ours = log_bucket(distances, buckets, distance, clamp=False)
            inside = np.abs(distances) < distance - 1
            reference = outputs[f"bucket_hf.{size}"]
            yield Difference(f"bucket_hf.{size}", "integer", largest(ours[inside], reference[inside]), 0)
            yield Difference(f"bucket_hf.{size} beyond", "integer", largest(ours, reference), 0)
    for name, table in outputs.items():
        source, _, size = name.partition(".")
        if source in ("ms", "hf"):
            Q, K, buckets, distance = (int(re.sub("^[a-z]", "", part)) for part in size.split("_"))
            span = buckets if buckets > 0 else distance
            ours = relative_index(Q, K, buckets=buckets, max_distance=distance, clamp=source == "ms")
            # Of the longest, the file keeps every 103rd query.
            queries = np.arange(Q)[:: -(-Q // table.shape[1])]
            rows = ours[Q - 1 - queries[:, None] + np.arange(K)]
            yield Difference(f"rows of {name}", "integer", largest(rows, np.clip(table[0] + span, 0, 2 * span - 1)), 0)


def main(folders: list[str]) -> int:
    status = 0
    for folder in map(Path, folders):
        about = folder / "case.json"
        if about.exists() and not known(json.loads(about.read_text())):
            print(f"{folder.name}: no runner for kind {json.loads(about.read_text())['kind']!r}")
            status = 1
            continue
        if not about.exists() and not (folder / "outputs.npz").exists():
            print(f"{folder}: not a case folder (no case.json, no outputs.npz)")
            status = 1
            continue
        for difference in run_case(folder):
            mark = "OVER" if difference.over else "ok"
            print(
                f"{folder.name:32s} {difference.precision:8s} {difference.value:9.2e} of {difference.bound:7.0e} "
                f"{mark:4s} {difference.name}"
            )
            status |= difference.over
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
