"""The options of a pretrained model's layers: fresh weights, and no training."""

import dataclasses

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError, check_at_least


@dataclasses.dataclass(frozen=True)
class LayersConfig:
    """Which layers start with fresh weights, and which parameters stay as they are."""

    reinitialize_layers: int = 0
    """Layers at the top that start with random weights, drawn by the seed, instead of those of the model."""
    freeze_embeddings: bool = False
    """Keep the embeddings as they are, the relative ones too."""
    freeze_layers: int = 0
    """Layers at the bottom that stay as they are, and with them all embeddings."""

    def __post_init__(self) -> None:
        check_at_least("reinitialize_layers", self.reinitialize_layers, 0)
        check_at_least("freeze_layers", self.freeze_layers, 0)

    @property
    def freezes(self) -> bool:
        """Whether parameters stay as they are."""
        return self.freeze_embeddings or self.freeze_layers > 0

    def check(self, config: DebertaConfig, *, lora_rank: int, from_scratch: bool) -> None:
        """Raise InputError for numbers that do not fit the model, and for options that exclude each other."""
        L, size = config.num_hidden_layers, config.num_hidden_layers // config.num_groups
        for name in ("reinitialize_layers", "freeze_layers"):
            if (number := getattr(self, name)) > L:
                raise InputError(f"{name} is {number}, but the model has {L} layers")
            if number % size:
                raise InputError(
                    f"{name} is {number}; it must be a multiple of {size}, the layers that share parameters"
                )
        if self.reinitialize_layers + self.freeze_layers > L:
            raise InputError(
                f"reinitialize_layers {self.reinitialize_layers} and freeze_layers {self.freeze_layers} overlap in a "
                f"model of {L} layers: fresh weights must be trained"
            )
        if lora_rank and (self.freezes or self.reinitialize_layers):
            raise InputError("lora.rank freezes the whole encoder: omit freeze and reinitialize_layers, or lora.rank")
        if from_scratch and (self.freezes or self.reinitialize_layers):
            raise InputError("from_scratch initializes all weights: omit freeze and reinitialize_layers")
