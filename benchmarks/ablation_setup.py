"""What the ablation compares: sizes, models, fine-tuning tasks and pretraining objectives."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from deberta_jax.config import DebertaConfig
from deberta_jax.pretraining.config import RtdConfig


class Finetuning(NamedTuple):
    """How a task is fine-tuned: its folder below DATA, training and evaluated rows, epochs, tokens, and its metric."""

    folder: str
    rows: int
    dev_rows: int
    epochs: int
    max_length: int
    metric: str
    title: str


@dataclasses.dataclass(frozen=True)
class Scale:
    """The size of the models and the budget of each run."""

    layers: int
    width: int
    vocabulary: int
    length: int
    batch_size: int
    steps: int
    learning_rate: float
    initializer_range: float
    dropout: float
    dtype: Literal["float32", "bfloat16"]
    finetuning_rate: float
    evaluate_batches: int
    seeds: int
    # Tasks after the pretraining of each variant, and tasks that compare SiFT with plain fine-tuning.
    downstream: Mapping[str, Finetuning]
    sift: Mapping[str, Finetuning]

    def config(self, vocab_size: int) -> DebertaConfig:
        """DeBERTa with a row per distance, both relative terms and projections of their own for the positions.

        The relative table is normalized, as in the released v2 and v3 models.
        """
        return DebertaConfig(
            vocab_size=-(-vocab_size // 128) * 128,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=max(1, self.width // 64),
            intermediate_size=4 * self.width,
            max_position_embeddings=self.length,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            initializer_range=self.initializer_range,
            norm_rel_ebd="layer_norm",
        )


class Variant(NamedTuple):
    """A model of the ablation: fields of its config that differ from DeBERTa, and whether it has the mask decoder."""

    fields: Mapping[str, Any] = {}
    enhanced_mask_decoder: bool = True


DEBERTA = "DeBERTa"
VARIANTS: dict[str, Variant] = {
    DEBERTA: Variant(),
    "without EMD": Variant(enhanced_mask_decoder=False),
    "without c2p": Variant({"pos_att_type": ("p2c",)}),
    "without p2c": Variant({"pos_att_type": ("c2p",)}),
    "without EMD and c2p": Variant({"pos_att_type": ("p2c",)}, enhanced_mask_decoder=False),
    "without EMD and p2c": Variant({"pos_att_type": ("c2p",)}, enhanced_mask_decoder=False),
    "absolute positions (BERT)": Variant(
        {"relative_attention": False, "pos_att_type": (), "position_biased_input": True}, enhanced_mask_decoder=False
    ),
    "with convolution": Variant({"conv_kernel_size": 3, "conv_act": "gelu"}),
    "with shared projections": Variant({"share_att_key": True}),
    "with shared layers": Variant({"num_hidden_groups": 1}),
}
# Replaced-token detection: sharing of the embeddings, and the kind of step. ES needs the joint step.
RTD: dict[str, RtdConfig] = {
    "GDES, decoupled steps": RtdConfig("gdes", "decoupled"),
    "GDES, joint step": RtdConfig("gdes", "joint"),
    "ES, joint step": RtdConfig("es", "joint"),
    "no sharing, joint step": RtdConfig("none", "joint"),
}

_SST2 = Finetuning("glue/SST-2", 800, 872, 3, 64, "accuracy", "SST-2 accuracy")
_STSB = Finetuning("glue/STS-B", 800, 1500, 3, 64, "pearson", "STS-B Pearson")
_SIFT = {
    "sst-2": _SST2,
    "sts-b": _STSB,
    "rte": Finetuning("glue/RTE", 500, 277, 3, 96, "accuracy", "RTE accuracy"),
    "cb": Finetuning("superglue/CB", 250, 56, 6, 96, "mean", "CB accuracy and F1"),
    "copa": Finetuning("superglue/COPA", 400, 100, 4, 48, "accuracy", "COPA accuracy"),
    "squad": Finetuning("squad", 400, 300, 3, 160, "f1", "SQuAD 1.1 F1"),
}
NER = Finetuning("", 14_000, 4000, 5, 128, "f1", "CoNLL-2003 F1")


def _toy(tasks: Mapping[str, Finetuning]) -> dict[str, Finetuning]:
    return {name: task._replace(rows=8, dev_rows=4, epochs=1) for name, task in tasks.items()}


SCALES: dict[str, Scale] = {
    # Hours on one core of a CPU.
    "small": Scale(
        layers=3,
        width=128,
        vocabulary=4000,
        length=64,
        batch_size=16,
        steps=240,
        learning_rate=2e-3,
        initializer_range=0.05,
        dropout=0.0,
        dtype="float32",
        finetuning_rate=5e-4,
        evaluate_batches=120,
        seeds=3,
        downstream={"sst-2": _SST2, "sts-b": _STSB},
        sift=_SIFT,
    ),
    # For a GPU.
    "base": Scale(
        layers=6,
        width=512,
        vocabulary=16_000,
        length=128,
        batch_size=128,
        steps=3000,
        learning_rate=5e-4,
        initializer_range=0.025,
        dropout=0.1,
        dtype="bfloat16",
        finetuning_rate=1e-4,
        evaluate_batches=40,
        seeds=5,
        downstream={"sst-2": _SST2._replace(rows=20_000), "sts-b": _STSB},
        sift=_SIFT | {"squad": _SIFT["squad"]._replace(rows=4000, dev_rows=2000, max_length=384)},
    ),
    # For a test of the script.
    "toy": Scale(
        layers=2,
        width=16,
        vocabulary=600,
        length=32,
        batch_size=8,
        steps=2,
        learning_rate=1e-3,
        initializer_range=0.1,
        dropout=0.0,
        dtype="float32",
        finetuning_rate=1e-3,
        evaluate_batches=1,
        seeds=2,
        downstream=_toy({"sst-2": _SST2, "sts-b": _STSB}),
        sift=_toy(_SIFT),
    ),
}
