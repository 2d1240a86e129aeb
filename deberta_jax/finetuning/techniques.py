"""The options of techniques for fine-tuning, all of them off by default (docs/tasks.md, "Techniques")."""

import dataclasses

from deberta_jax.errors import InputError, check_at_least, check_fraction


@dataclasses.dataclass(frozen=True)
class FgmConfig:
    """Fast gradient method (FGM): adversarial training on embeddings; a step costs two steps."""

    epsilon: float = 0.0
    """Norm of the perturbation of the embeddings of a sequence, such as 1; 0 turns it off."""

    def __post_init__(self) -> None:
        check_at_least("fgm.epsilon", self.epsilon, 0)


@dataclasses.dataclass(frozen=True)
class AwpConfig:
    """Adversarial weight perturbation (AWP); a step costs two steps."""

    learning_rate: float = 0.0
    """Norm of the perturbation of a matrix, as a share of the norm of the matrix, such as 1e-3; 0 turns it off."""
    epsilon: float = 1e-2
    """Largest change of a weight, as a share of its magnitude."""
    start: float = 0.0
    """First perturbed step: a fraction of the run if below 1, otherwise a number of steps."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "start"):
            check_at_least(f"awp.{name}", getattr(self, name), 0)
        if not self.epsilon > 0:
            raise InputError(f"awp.epsilon is {self.epsilon}; it must be positive")


@dataclasses.dataclass(frozen=True)
class Techniques:
    """Techniques for fine-tuning; all are off by default."""

    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is evaluated and saved, such as 0.999; 0 is off."""
    focal: float = 0.0
    """Gamma of the focal loss, such as 2: easy examples count less (kinds as for --label-smoothing); 0 is off."""
    dropout_samples: int = 1
    """Dropout masks before the classifier per example, whose losses are averaged (multi-sample dropout); 1 is off."""
    fgm: FgmConfig = dataclasses.field(default_factory=FgmConfig)
    awp: AwpConfig = dataclasses.field(default_factory=AwpConfig)

    def __post_init__(self) -> None:
        check_fraction("ema", self.ema)
        check_at_least("focal", self.focal, 0)
        check_at_least("dropout_samples", self.dropout_samples, 1)


def check_one_adversary(sift_weight: float, techniques: Techniques) -> None:
    """Raise InputError if more than one kind of adversarial training is on."""
    values = {
        "--sift.weight": sift_weight,
        "--fgm.epsilon": techniques.fgm.epsilon,
        "--awp.learning-rate": techniques.awp.learning_rate,
    }
    if len(used := [name for name, value in values.items() if value]) > 1:
        raise InputError(f"{' and '.join(used)} are set; use one kind of adversarial training")
