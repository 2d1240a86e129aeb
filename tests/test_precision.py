"""Matrix products of float32 request the highest precision, forward and backward, in every model and objective."""

import ast
import collections
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from packed_batches import packed_batch
from small_models import BIASED, IDS, MASK, V1, V2, V3
from task_batches import batch_for, build_for
from toy_configs import toy_config
from toy_training import RELATIVE, one_device

from deberta_jax.errors import InputError
from deberta_jax.finetuning.config import FinetuneConfig, LoraConfig, SiftConfig
from deberta_jax.finetuning.kinds import KINDS
from deberta_jax.finetuning.lora import LoraModel, lora_objective, trainable
from deberta_jax.finetuning.objectives import plain_objective
from deberta_jax.finetuning.sift import sift
from deberta_jax.inference.embeddings import pooled_states
from deberta_jax.inference.fill_mask import top_tokens
from deberta_jax.inference.inputs import ModelInputs
from deberta_jax.model.attention import AttentionInputs
from deberta_jax.model.deberta import Deberta
from deberta_jax.model.heads import TokenClassification
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.module import check_precision
from deberta_jax.model.shardings import shardings
from deberta_jax.model.surgery import first_layers, layer, resized, with_config
from deberta_jax.ops.precision import einsum
from deberta_jax.pretraining.config import PretrainConfig, RtdConfig
from deberta_jax.pretraining.objective_spec import ModelOptions
from deberta_jax.pretraining.run import OBJECTIVES
from deberta_jax.sharding import batch_sharding, make_mesh
from deberta_jax.training.config import TrainingConfig
from deberta_jax.training.method import one_objective
from deberta_jax.training.run import check_settings, claim_folder
from deberta_jax.training.state import abstract_state

PACKAGE = Path(__file__).resolve().parents[1] / "deberta_jax"
# The functions of JAX that multiply matrices.
MODULES = "jnp.", "jax.numpy.", "jax.lax.", "lax.", "jax.nn.", "nnx."
PRODUCTS = {
    "einsum", "matmul", "dot", "vdot", "inner", "tensordot", "vecdot", "matvec", "vecmat", "dot_general",
    "ragged_dot", "ragged_dot_general", "conv", "conv_general_dilated", "conv_transpose", "convolve", "correlate",
    "dot_product_attention", "cov", "corrcoef", "polyfit", "polyval",
}  # fmt: skip
# Two masked positions of each sequence.
POSITIONS = jnp.asarray([[1, 3], [4, 5]])
TRAINING = TrainingConfig(steps=10)
TPU = jax.sharding.AbstractMesh(
    (1, 1, 1),
    ("data", "fsdp", "tensor"),
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
    abstract_device=jax.sharding.AbstractDevice("TPU v5 lite", 1, "tpu"),
)


def products(function, *arguments):
    """The number of matrix products of a function by the dtypes of their operands and their precision."""
    counts = collections.Counter()
    # Optax mixes dtypes.
    with jax.numpy_dtype_promotion("standard"):
        _collect(jax.make_jaxpr(function)(*arguments).jaxpr, counts)
    return counts


def _collect(jaxpr, counts):
    for equation in jaxpr.eqns:
        if "precision" in equation.params:
            precision = equation.params["precision"]
            assert precision is None or precision[0] == precision[1]
            dtypes = " ".join(sorted(str(operand.aval.dtype) for operand in equation.invars[:2]))
            counts[dtypes, str(precision and precision[0])] += 1
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                    _collect(getattr(inner, "jaxpr", inner), counts)


def abstract(build, **options):
    return jax.eval_shape(lambda key: build(key=key, **options), jax.random.key(0))


def training_step(method, batch):
    """The products of a whole training step, without compiling it."""
    state = abstract_state(method.build, method.optimizer, 0, one_device())
    return products(method.make_step(shardings(state, one_device())), state, batch)


def gradient(model, *arguments, **options):
    """The products of a call of a model and of its backward pass."""

    def loss(model):
        return sum(jnp.sum(x.astype(jnp.float32)) for x in jax.tree.leaves(model(*arguments, **options)))

    return products(jax.value_and_grad(loss), model)


def encoder(config):
    return lambda **options: gradient(abstract(lambda **key: Deberta(config, **key), **options), IDS, MASK)


def on_tpu(**options):
    """The encoder with the TPU kernels."""
    with jax.sharding.use_abstract_mesh(TPU):
        model = abstract(lambda **key: Deberta(V3, **key), **options)
        return gradient(model, jnp.zeros((1, 128), int), jnp.ones((1, 128), int))


def pretraining(objective, config, rtd=None):
    def step(dtype="float32", **options):
        model = ModelOptions(config, jnp.dtype(dtype), **options)
        return training_step(OBJECTIVES[objective].method(model, TRAINING, rtd or RtdConfig()), packed_batch(0, 4))

    return step


def fine_tuning(kind, objective=plain_objective):
    def step(**options):
        build = build_for(kind, RELATIVE, **options)
        return training_step(one_objective(TRAINING, build, objective(KINDS[kind].objective)), batch_for(kind))

    return step


def adversarial(task):
    return sift(task, SiftConfig(weight=1.0))


def low_rank(**options):
    build, task = build_for("single_label", RELATIVE, **options), KINDS["single_label"].objective

    def with_adapters(key):
        return LoraModel(build(key), LoraConfig(rank=2, targets="all"), key=key)

    objective = lora_objective(plain_objective(task))
    counts = training_step(one_objective(TRAINING, with_adapters, objective, trainable), batch_for("single_label"))
    return counts + gradient(abstract(with_adapters), IDS, MASK)


def inference(**options):
    """The programs of a pipeline that call parts of a model."""
    inputs = ModelInputs(IDS, MASK, jnp.zeros_like(IDS), POSITIONS)
    words = jnp.ones(V3.vocab_size, bool)
    counts = products(pooled_states, abstract(lambda **key: Deberta(V3, **key), **options), inputs)
    lm = abstract(lambda **key: MaskedLM(V3, **key), **options)
    return counts + products(lambda lm: top_tokens(lm, inputs, known=words, allowed=words, top_k=2), lm)


def projected_tokens(**options):
    return gradient(abstract(lambda **key: TokenClassification(V3, projected=True, **key), **options), IDS, MASK)


PROGRAMS = {
    "v1": encoder(V1),
    "v2 with a convolution": encoder(V2),
    "v3": encoder(V3),
    "projected embeddings": encoder(BIASED),
    "mlm with the mask decoder": pretraining("mlm", toy_config()),
    "mlm without": pretraining("mlm", toy_config(position_biased_input=True)),
    "rtd decoupled": pretraining("rtd", toy_config()),
    "rtd joint": pretraining("rtd", toy_config(), RtdConfig(step="joint")),
    **{kind: fine_tuning(kind) for kind in KINDS},
    "projected tokens": projected_tokens,
    "adversarial": fine_tuning("single_label", adversarial),
    "adapters": low_rank,
}


@pytest.mark.parametrize("program", [*PROGRAMS, "inference", "tpu kernels"])
def test_float32_products_request_the_highest_precision(program):
    counts = (PROGRAMS | {"inference": inference, "tpu kernels": on_tpu})[program]()
    assert counts.keys() == {("float32 float32", "HIGHEST")}


# Other programs with the same modules: objectives differ in their losses, which have no products.
REPEATED = {"mlm without", "rtd joint", "regression", "multi_label", "ordinal", "adversarial"}


@pytest.mark.parametrize("program", [name for name in PROGRAMS if name not in REPEATED])
def test_tf32_products_never_request_the_highest_precision(program):
    counts = PROGRAMS[program](precision="tf32")
    assert counts.keys() == {("float32 float32", "HIGH")}


def test_tf32_products_of_tpu_kernels_are_three_of_bfloat16(monkeypatch):
    # Permutations are exact: they have the highest precision.
    monkeypatch.setattr("deberta_jax.ops.attention_tpu_backward.permute", _shape_of_a_permutation)
    counts = on_tpu(precision="tf32")
    assert counts.keys() == {("float32 float32", "HIGH"), ("bfloat16 bfloat16", "DEFAULT")}
    assert counts["bfloat16 bfloat16", "DEFAULT"] % 3 == 0


def _shape_of_a_permutation(x, y, *, transposed=False):
    # The first factor is transposed only if it is a permutation, which is square.
    return jnp.zeros((x.shape[0], y.shape[0 if transposed else 1]), jnp.float32)


@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.parametrize("program", ["v2 with a convolution", "entity_ranking"])
def test_bfloat16_products_do_not_depend_on_the_precision(program, precision):
    counts = PROGRAMS[program](dtype=jnp.bfloat16, precision=precision)
    # In the backward pass too: none with a float32 gradient.
    assert counts.keys() == {("bfloat16 bfloat16", "DEFAULT")}


def test_a_product_without_a_precision_is_noticed():
    x = jnp.ones((2, 2))
    assert products(lambda x: jnp.einsum("ij,jk->ik", x, x), x).keys() == {("float32 float32", "None")}


def test_products_state_their_precision_in_the_source():
    """`ops.precision.einsum`, or a function of JAX with `precision=`; cuDNN computes in 16 bits only."""
    unstated = []
    for path in set(PACKAGE.rglob("*.py")) - {PACKAGE / "ops" / "attention_cudnn.py"}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_product = isinstance(node, ast.Call) and ast.unparse(node.func).startswith(MODULES)
            if is_product and node.func.attr in PRODUCTS and "precision" not in {key.arg for key in node.keywords}:
                unstated.append(f"{path.name}:{node.lineno}")
            if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
                unstated.append(f"{path.name}:{node.lineno}")
    assert unstated == []


def test_the_setting_of_jax_replaces_the_precision_of_float32_products():
    def product(x):
        return einsum("ij,jk->ik", x, x)

    for name, expected in (("tensorfloat32", "HIGH"), ("default", "DEFAULT"), (None, "HIGHEST")):
        with jax.default_matmul_precision(name):
            assert products(product, jnp.ones((2, 2))).keys() == {("float32 float32", expected)}
            assert products(product, jnp.ones((2, 2), jnp.bfloat16)).keys() == {("bfloat16 bfloat16", "DEFAULT")}


def test_copies_of_a_model_keep_its_precision():
    model = abstract(lambda **key: MaskedLM(V3, precision="tf32", **key))
    changed = jax.eval_shape(lambda model: resized(model, 70, key=jax.random.key(0)), model)
    assert changed.precision == with_config(model, hidden_dropout_prob=0.0).precision == "tf32"
    short = jax.eval_shape(lambda model: first_layers(model, 2), model)
    assert gradient(short, IDS, MASK).keys() == {("float32 float32", "HIGH")}
    first = jax.eval_shape(lambda model: layer(model, 0), model)
    x = jnp.ones((1, 4, V3.hidden_size))
    assert gradient(first, x, AttentionInputs(None, None)).keys() == {("float32 float32", "HIGH")}


def test_a_precision_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="precision is 'tf64'; expected float32 or tf32"):
        check_precision("tf64")


@pytest.mark.parametrize("config", [PretrainConfig, FinetuneConfig])
def test_a_run_records_its_precision_and_does_not_resume_with_another(config, tmp_path):
    claim_folder(tmp_path, config(precision="tf32").settings())
    with pytest.raises(InputError, match=r"precision \(tf32 in the folder, float32 now\)"):
        check_settings(tmp_path, config().settings())


@pytest.mark.parametrize("config", [PretrainConfig, FinetuneConfig])
def test_a_run_may_resume_with_another_implementation_of_attention(config, tmp_path):
    claim_folder(tmp_path, config(attention="pallas_tpu").settings())
    check_settings(tmp_path, config(attention="auto").settings())


@pytest.mark.tpu_compile
def test_a_training_step_compiled_for_tpu_has_the_highest_precision(tpu_devices):
    mesh = make_mesh(1, 1, 1, tpu_devices("v5e:2x2")[:1])
    options = ModelOptions(toy_config(num_hidden_layers=2), jnp.dtype("float32"))
    method = OBJECTIVES["mlm"].method(options, TRAINING, RtdConfig())
    state = abstract_state(method.build, method.optimizer, 0, mesh)
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh))
        for name, x in packed_batch(0, 4).items()
    }
    # Optax mixes dtypes.
    with jax.numpy_dtype_promotion("standard"):
        step = method.make_step(shardings(state, mesh)).lower(state, batch)
    assert tpu_precisions(step.compile()) == {"highest,highest"}
    x = jax.ShapeDtypeStruct((128, 128), jnp.float32, sharding=batch_sharding(mesh))
    default = jax.jit(lambda x: jnp.einsum("ij,jk->ik", x, x)).lower(x)
    assert tpu_precisions(default.compile()) == {None}


def tpu_precisions(compiled):
    """The precisions of all products outside of kernels, which XLA writes as convolutions; None if not written."""
    lines = re.findall(r"^.* (?:convolution|dot)\(.*$", compiled.as_text(), re.MULTILINE)
    counts = [re.search(r"operand_precision={(.*?)}", line) for line in lines]
    return {match and match[1] for match in counts}
