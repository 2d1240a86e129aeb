"""The recipes of docs/research.md run as they are written, and their results are what the text says."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_tokenizers import write_unigram

import deberta_jax as dj

PAGE = Path(__file__).parents[1] / "docs/research.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MAX_LINES = 15
Names = dict[str, Any]


def sections() -> dict[str, list[str]]:
    """The blocks below each heading; those before the first recipe are the setup."""
    first, *others = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {"": BLOCK.findall(first)} | {text.partition("\n")[0]: BLOCK.findall(text) for text in others}


SECTIONS = sections()


def assert_close(actual: Any, expected: Any, atol: float = 2e-5) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), actual, expected)


@functools.partial(jax.jit, static_argnames=("output_hidden_states", "output_attentions"))
def call(model: Any, ids: jax.Array, mask: jax.Array, **options: Any) -> Any:
    return model(ids, mask, **options)


@jax.jit
def loss_and_gradient(model: Any, ids: jax.Array, mask: jax.Array, labels: jax.Array) -> tuple[jax.Array, Any]:
    def loss(model: Any) -> jax.Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(model(ids, mask)), labels[:, None], 1).mean()

    return jax.value_and_grad(loss)(model)


def mean_loss(names: Names, model: Any) -> tuple[jax.Array, Any]:
    """The mean cross entropy over the batch, and its gradient."""
    return loss_and_gradient(model, names["ids"], names["mask"], names["labels"])


def outputs(names: Names, model: Any, **options: Any) -> Any:
    return jax.device_get(call(model, names["ids"], names["mask"], **options))


def numpy_arrays(names: Names) -> Names:
    """The arrays of a recipe as numpy arrays: operations on them compile nothing."""
    arrays = {name: value for name, value in names.items() if isinstance(value, jax.Array)}
    return {name: np.asarray(x) for name, x in arrays.items() if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)}


def parameters(model: Any) -> dict[str, np.ndarray]:
    """Parameters by path, as numpy arrays."""
    return jax.device_get(dj.parameters(model))


def first_layer(model: dj.Deberta, names: Names, **options: Any) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """The output of a model with its attention, the projections of its first layer, and their queries and keys."""
    output = outputs(names, model, output_hidden_states=True, output_attentions=True, **options)
    attention = dj.layer(model, 0).attention
    x = np.asarray(output.hidden_states[0])
    q, k = (np.tensordot(x, part.kernel, 1) + np.asarray(part.bias) for part in (attention.query, attention.key))
    return output, attention, q, k


def attend(
    q: np.ndarray, k: np.ndarray, score: Callable[[int, int, int, int], float], scale: float, *, causal: bool = False
) -> np.ndarray:
    """Probabilities [B, N, T, S] of the scaled products of queries and keys plus `score(b, n, t, s)`."""
    B, T, N, _ = q.shape
    scores = np.full((B, N, T, T), -np.inf)
    for b, n, t, s in np.ndindex(scores.shape):
        if s <= t or not causal:
            scores[b, n, t, s] = scale * (q[b, t, n] @ k[b, s, n]) + score(b, n, t, s)
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def attend_disentangled(names: Names, *, causal: bool) -> np.ndarray:
    """The result of disentangled attention from the projections of a recipe, element by element (equation 4)."""
    q, k, v, rel_k, rel_q = (np.asarray(names[name], np.float64) for name in ("q", "k", "v", "rel_k", "rel_q"))
    (T, H), index = q.shape[1::2], names["index"]
    scale = 1 / np.sqrt(3 * H)

    def positions(b: int, n: int, t: int, s: int) -> float:
        row = index[T - 1 - t + s]
        return scale * (q[b, t, n] @ rel_k[row, n] + k[b, s, n] @ rel_q[row, n])

    return np.einsum("bnts,bsnh->btnh", attend(q, k, positions, scale, causal=causal), v)


def check_saliency(names: Names) -> None:
    baseline = outputs(names | {"ids": np.full_like(names["ids"], names["mask_id"])}, names["model"])
    assert_close(names["attributions"].sum(1), (outputs(names, names["model"]) - baseline)[:, 1], atol=5e-3)
    assert names["saliency"].shape == (8, 8)
    assert (names["saliency"] > 0).all()


def check_per_example_gradients(names: Names) -> None:
    mean = jax.tree.map(lambda g: np.asarray(g).mean(0), names["gradients"])
    assert_close(mean, mean_loss(names, names["model"])[1])
    assert names["norms"].shape == (8,)


def check_hessian_vector(names: Names) -> None:
    def gradient_at(step: float) -> Any:
        moved = jax.tree.map(
            lambda w, v: jnp.asarray(np.asarray(w) + step * np.asarray(v)), names["model"], names["vector"]
        )
        return jax.tree.map(np.asarray, mean_loss(names, moved)[1])

    expected = jax.tree.map(lambda a, b: (a - b) / 2e-3, gradient_at(1e-3), gradient_at(-1e-3))
    assert_close(names["product"], expected, atol=1e-2)
    assert max(abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 0.5
    products = jax.tree.map(lambda v, p: (np.asarray(v) * np.asarray(p)).sum(), names["vector"], names["product"])
    assert_close(names["trace"], sum(jax.tree.leaves(products)), atol=1e-3)


def check_patching(names: Names) -> None:
    model, mask, logits, clean = names["model"], names["mask"], names["logits"], names["clean"]
    assert logits.shape == (2, 8, 8, 2)
    corrupted, expected = outputs(names | {"ids": names["corrupted"]}, model), outputs(names, model)
    assert abs(logits - corrupted).max() > 1e-3
    # The classifier reads only the first state of the last layer.
    assert_close(logits[1, 0], expected)
    assert_close(logits[1, 1:], np.broadcast_to(corrupted, (7, 8, 2)))
    # All positions of the first layer together restore the output too.
    restored = jax.jit(lambda ids: model(ids, mask, each=lambda x, n: jnp.where(n == 0, clean[0], x)))(
        names["corrupted"]
    )
    assert_close(restored, expected)


def check_alibi(names: Names) -> None:
    output, attention, q, k = first_layer(names["encoder"], names, bias=names["bias"][None])
    slope = [2.0**-4, 2.0**-8]
    assert_close(output.attentions[0], attend(q, k, lambda b, n, t, s: -slope[n] * abs(t - s), 1 / np.sqrt(8)))
    assert attention.position_key is attention.position_query is None
    assert_close(output.last_hidden_state, names["output"].last_hidden_state)


def check_without_p2c(names: Names) -> None:
    encoder = names["changed"].deberta
    output, attention, q, k = first_layer(encoder, names)
    index = dj.relative_index(8, 8, buckets=4, max_distance=512)
    part, table = attention.position_key, np.asarray(encoder.encoder.relative.embedding)
    rel_k = np.tensordot(table, part.kernel, 1) + np.asarray(part.bias)
    scale = 1 / np.sqrt(2 * 8)
    expected = attend(q, k, lambda b, n, t, s: scale * (q[b, t, n] @ rel_k[index[7 - t + s], n]), scale)
    assert_close(output.attentions[0], expected)
    before, after = (dj.parameters(names[name]) for name in ("model", "changed"))
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)


def check_contrastive(names: Names) -> None:
    assert names["state"].step == 10
    assert names["losses"][-1] < 0.5 * names["losses"][0]


def check_ensemble(names: Names) -> None:
    for number, key in enumerate(jax.random.split(names["key"], 5)):
        member = dj.SequenceClassification(names["config"], key=key)
        assert_close(names["logits"][number], outputs(names, member))
        if number == 2:
            assert_close(names["third"], member)
    assert_close(names["probabilities"].sum(-1), np.ones(8))


def check_lora(names: Names) -> None:
    model, adapters = names["model"], names["adapters"]
    adapted = names["adapted"](adapters)
    before, after = parameters(model), parameters(adapted)
    changed = {name for name in before if not (before[name] == after[name]).all()}
    assert changed == set(names["kernels"]) == set(adapters)
    down, up = adapters[names["kernels"][0]]
    product = np.tensordot(np.asarray(down[1]), np.asarray(up[1]), 1)
    assert_close(after[names["kernels"][0]][1] - before[names["kernels"][0]][1], product)
    assert mean_loss(names, adapted)[0] < mean_loss(names, model)[0]
    for (down, up), adapter in zip(adapters.values(), names["packaged"].adapters, strict=True):
        assert (down.shape, up.shape) == (adapter.down.shape, adapter.up.shape)


def check_int8(names: Names) -> None:
    stored = dict(zip(parameters(names["model"]), jax.device_get(names["stored"]), strict=True))
    quantized = {name for name, w in stored.items() if isinstance(w, tuple)}
    # Six kernels of attention, two of the feed-forward network, and the words.
    assert len(quantized) == 9
    for name in quantized:
        (values, scale), w = stored[name], parameters(names["model"])[name]
        assert values.dtype == jnp.int8 and values.size >= 8 * scale.size
        assert (abs(values * scale - w) <= 0.51 * scale).all()
    assert_close(names["logits"], outputs(names, names["model"]), atol=0.1)


def check_layers(names: Names) -> None:
    before, short, after = (parameters(names[name]) for name in ("model", "short", "trained"))
    assert names["short"].config.num_hidden_layers == 1
    for part, whole in zip(short.values(), before.values(), strict=True):
        np.testing.assert_array_equal(part, whole[: len(part)])
    moved = {name: float(abs(after[name] - before[name]).max()) for name in before}
    assert all(moved[name] == 0 for name in moved if "embeddings" in name or "relative" in name)
    name = "deberta.encoder.layers.up.kernel"
    assert (after[name][0] == before[name][0]).all()
    # The first update of Adam is the learning rate, here times the scale of the layer.
    assert moved[name] == pytest.approx(0.5e-4, rel=0.05)
    assert moved["classifier.kernel"] == pytest.approx(1e-3, rel=0.05)


def check_average(names: Names) -> None:
    first, second, average = (parameters(names[name]) for name in ("model", "other", "average"))
    assert_close(average, {name: (first[name] + second[name]) / 2 for name in first})
    models = [names["model"], names["average"], names["other"]]
    assert_close(names["losses"][::2], [mean_loss(names, model)[0] for model in models])


def check_mesh(names: Names) -> None:
    specs = {name: tuple(leaf.sharding.spec) for name, leaf in dj.parameters(names["placed"]).items()}
    assert specs["deberta.embeddings.word.embedding"] == ("y", "x")
    assert specs["deberta.encoder.layers.up.kernel"] == (None, "x", "y")
    assert specs["deberta.encoder.layers.attention.query.kernel"] == (None, "x", "y", None)
    assert len(names["batch"][0].addressable_shards[0].data) == 2
    assert_close(names["logits"], outputs(names, names["model"]))


def check_export(names: Names) -> None:
    assert names["loaded"].platforms == ("cpu", "cuda", "tpu")
    assert_close(names["logits"], outputs(names, names["model"])[:3])
    assert_close(names["loaded"].call(names["ids"], names["mask"]), outputs(names, names["model"]))


def check_decoder(names: Names) -> None:
    assert_close(names["states"], attend_disentangled(names, causal=True))
    assert_close(names["new"], names["states"][:, -1:])


def check_images(names: Names) -> None:
    patch = names["patches"][1, 6].reshape(4, 4, 3)
    np.testing.assert_array_equal(patch, names["images"][1, 4:8, 8:12])
    assert len(set(names["index"].tolist())) == 31
    assert_close(names["states"], attend_disentangled(names, causal=False))


def check_tokens(names: Names) -> None:
    tokenizer, extended = names["tokenizer"], names["extended"]
    size = tokenizer.vocab_size
    assert [tokenizer.encode(token).tolist() for token in ("<gene>", "<protein>")] == [[size - 2], [size - 1]]
    assert {size - 2, size - 1} < set(names["batch"].input_ids[0].tolist())
    assert extended.config.vocab_size == size
    assert np.isfinite(names["logits"]).all()
    before, after = parameters(names["model"]), parameters(extended)
    assert after["deberta.embeddings.word.embedding"].shape == (size, 16)
    assert all((after[name][: len(before[name])] == before[name]).all() for name in before)


CHECKS: dict[str, Callable[[Names], None]] = {
    "Saliency and integrated gradients": check_saliency,
    "Per-example gradients": check_per_example_gradients,
    "Hessian-vector products": check_hessian_vector,
    "Activation patching": check_patching,
    "ALiBi in place of relative positions": check_alibi,
    "Attention without position-to-content scores": check_without_p2c,
    "A contrastive sentence encoder": check_contrastive,
    "Ensembles": check_ensemble,
    "Low-rank adapters by hand": check_lora,
    "Weights in int8": check_int8,
    "The first layers, learning rates by layer, and freezing": check_layers,
    "Averages of models": check_average,
    "A mesh with other axes": check_mesh,
    "One exported file for CPU, GPU and TPU": check_export,
    "Disentangled attention in a decoder": check_decoder,
    "Disentangled attention on images": check_images,
    "Additional tokens": check_tokens,
}


@pytest.fixture(scope="module")
def setup() -> Names:
    names: Names = {}
    execute(SECTIONS[""], names)
    return names


def execute(blocks: list[str], names: Names) -> None:
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)


@pytest.mark.parametrize("heading", CHECKS)
def test_the_recipe_runs_as_written(heading, setup, tmp_path, monkeypatch):
    names = dict(setup)
    write_unigram(tmp_path)
    monkeypatch.chdir(tmp_path)
    # The default of JAX, under which readers run the recipes; the other tests forbid implicit promotion.
    with jax.numpy_dtype_promotion("standard"):
        execute(SECTIONS[heading], names)
        CHECKS[heading](names | numpy_arrays(names))


def test_every_recipe_is_one_short_block_and_has_a_check():
    assert list(SECTIONS) == ["", *CHECKS]
    assert {heading: len(blocks) for heading, blocks in SECTIONS.items() if len(blocks) != 1} == {}
    lines = {heading: len(block.splitlines()) for heading, (block,) in SECTIONS.items()}
    assert {heading: number for heading, number in lines.items() if number > MAX_LINES} == {}
