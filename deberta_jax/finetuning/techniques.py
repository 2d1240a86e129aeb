"""The options of techniques for fine-tuning, all of them off by default (docs/tasks.md, "Techniques")."""

import dataclasses

from deberta_jax.errors import check_fraction


@dataclasses.dataclass(frozen=True)
class Techniques:
    """Techniques for fine-tuning; all are off by default."""

    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is evaluated and saved, such as 0.999; 0 is off."""

    def __post_init__(self) -> None:
        check_fraction("ema", self.ema)
