"""The published settings of each task and released model; see docs/numerics.md, "Published settings"."""

from typing import NamedTuple


class Published(NamedTuple):
    """Published settings; `warmup` is in steps, or a share of all steps if below 1.

    Without `head_dropout`, that of the model's config is used.
    """

    epochs: int
    warmup: float
    learning_rate: float
    batch_size: int
    head_dropout: float | None


class Grid(NamedTuple):
    """The values that a paper searched: every learning rate, and the least and most of the others; warm-up in steps."""

    learning_rates: tuple[float, ...]
    batch_size: tuple[int, int]
    warmup: tuple[int, int]

    def __str__(self) -> str:
        rates = ", ".join(f"{rate:g}" for rate in self.learning_rates)
        sizes, steps = ("{} to {}".format(*limits) for limits in (self.batch_size, self.warmup))
        return f"learning rate {rates}; batch size {sizes}; warm-up {steps} steps"


MODELS = "v1-base", "v1-large", "v1-xlarge", "v2-xlarge", "v2-xxlarge", "v3-large"


def _by_model(*rows: tuple[float | int, ...]) -> dict[str, Published]:
    """The settings of the first models of `MODELS`."""
    return {
        model: Published(int(epochs), float(warmup), float(rate), int(batch_size), float(dropout))
        for model, (epochs, warmup, rate, batch_size, dropout) in zip(MODELS, rows, strict=False)
    }


# The longest sequence of each task, in tokens.
MAX_LENGTHS = {
    "mnli": 256,
    "cola": 64,
    "mrpc": 128,
    "qnli": 512,
    "qqp": 320,
    "rte": 320,
    "sst-2": 128,
    "sts-b": 128,
    "ner": 512,
    "copa": 136,
    "record": 512,
    "race": 320,
}
# Epochs, warmup, learning rate, batch size and head dropout.
PUBLISHED: dict[str, dict[str, Published]] = {
    "mnli": _by_model(
        (3, 1000, 3e-5, 64, 0.1),
        (3, 1000, 1e-5, 64, 0.2),
        (3, 1000, 5e-6, 64, 0.3),
        (3, 1000, 4e-6, 64, 0.25),
        (3, 1000, 3e-6, 64, 0.3),
        (2, 500, 7e-6, 64, 0.3),
    )
    | {
        "v3-xsmall": Published(3, 1000, 4.5e-5, 64, 0.1),
        "v3-small": Published(3, 1500, 4.5e-5, 64, 0.2),
        "v3-base": Published(3, 1000, 1.5e-5, 64, 0.1),
    },
    "cola": _by_model(
        (6, 100, 2e-5, 32, 0.15),
        (6, 100, 7e-6, 32, 0.15),
        (8, 100, 5e-6, 32, 0.2),
        (8, 100, 3e-6, 32, 0.2),
        (10, 100, 2.5e-6, 32, 0.2),
        (10, 50, 5.5e-6, 32, 0.1),
    ),
    "mrpc": _by_model(
        (6, 50, 2e-5, 32, 0.15),
        (6, 50, 1e-5, 32, 0.15),
        (8, 50, 7e-6, 32, 0.3),
        (6, 50, 3.5e-6, 32, 0.2),
        (6, 50, 2e-6, 32, 0.2),
        (6, 50, 6e-6, 32, 0.2),
    ),
    "qnli": _by_model(
        (4, 500, 2e-5, 32, 0.15),
        (4, 500, 1e-5, 32, 0.15),
        (4, 500, 7e-6, 32, 0.2),
        (4, 500, 4e-6, 64, 0.2),
        (4, 500, 3e-6, 64, 0.2),
        (6, 200, 7e-6, 64, 0.2),
    ),
    "qqp": _by_model(
        (8, 500, 2e-5, 64, 0.15),
        (8, 500, 1e-5, 64, 0.15),
        (8, 500, 7e-6, 64, 0.2),
        (10, 1000, 4e-6, 64, 0.2),
        (10, 1000, 3e-6, 64, 0.2),
        (6, 1000, 1e-5, 64, 0.2),
    ),
    "rte": _by_model(
        (6, 100, 2e-5, 32, 0.2),
        (6, 50, 1e-5, 32, 0.2),
        (6, 50, 5e-6, 48, 0.2),
        (6, 50, 4e-6, 48, 0.2),
        (6, 50, 3e-6, 48, 0.2),
        (6, 50, 1e-5, 32, 0.3),
    ),
    "sst-2": _by_model(
        (6, 500, 2e-5, 32, 0.15),
        (6, 500, 1e-5, 32, 0.15),
        (6, 500, 3e-6, 32, 0.2),
        (4, 500, 4e-6, 32, 0.2),
        (4, 500, 3e-6, 32, 0.2),
        (8, 500, 6e-6, 32, 0.1),
    ),
    "sts-b": _by_model(
        (6, 100, 2e-5, 32, 0.15),
        (4, 100, 7e-6, 32, 0.15),
        (4, 100, 7e-6, 32, 0.2),
        (4, 100, 4e-6, 32, 0.2),
        (4, 100, 3e-6, 32, 0.2),
        (4, 50, 7e-6, 32, 0.1),
    ),
    "ner": _by_model(
        (15, 0.1, 2e-5, 16, 0.0),
        (15, 0.1, 1e-5, 16, 0.0),
        (15, 0.1, 7e-6, 16, 0.0),
        (15, 0.1, 4e-6, 16, 0.0),
        (15, 0.1, 2.5e-6, 16, 0.0),
        (10, 10, 9e-6, 16, 0.0),
    ),
    "copa": _by_model(
        (3, 50, 1e-5, 32, 0.1),
        (4, 30, 5e-6, 16, 0.1),
        (4, 30, 3e-6, 24, 0.1),
        (4, 30, 2e-6, 24, 0.1),
        (8, 30, 1e-6, 24, 0.1),
    ),
    "record": _by_model(
        (3, 1000, 2e-5, 64, 0.3),
        (3, 1000, 1e-5, 64, 0.3),
        (3, 1000, 7e-6, 64, 0.3),
        (3, 1000, 5e-6, 64, 0.15),
        (3, 1000, 3e-6, 64, 0.15),
        (3, 500, 7e-6, 64, 0.1),
    ),
    "race": _by_model(
        (6, 100, 2e-5, 32, 0.2),
        (6, 100, 8e-6, 32, 0.2),
        (6, 100, 7e-6, 48, 0.2),
        (6, 100, 4e-6, 48, 0.2),
        (6, 100, 3e-6, 48, 0.2),
    ),
}
# MNLI with virtual adversarial training: the settings, and the weight of the adversarial loss.
SIFT: dict[str, tuple[Published, float]] = {
    "v1-base": (Published(6, 1000, 1.5e-5, 64, 0.1), 5.0),
    "v2-xxlarge": (Published(6, 1000, 3e-6, 64, 0.3), 5.0),
    "v3-xsmall": (Published(10, 1500, 5e-5, 64, 0.1), 3.0),
    "v3-small": (Published(6, 1000, 3.5e-5, 64, 0.1), 5.0),
    "v3-base": (Published(6, 1000, 1.5e-5, 64, 0.1), 5.0),
}
# He et al. 2021, table 9, for all tasks. For the SuperGLUE tasks without a script it is all that was published.
GRIDS: dict[str, Grid] = {"v2-xxlarge": Grid((1e-6, 3e-6, 5e-6), (16, 64), (50, 1000))}

# What a search tries for a task without published settings: values that were published for at least two tasks, and for
# the decay of the learning rate per layer, which no DeBERTa script has, those of ELECTRA (Clark et al. 2020, table 7).
DEFAULT_VALUES: dict[str, tuple[float, ...]] = {
    "epochs": (3.0, 4.0, 6.0, 8.0),
    "batch-size": (16.0, 32.0, 64.0),
    "warmup": (50.0, 100.0, 500.0, 1000.0),
    "dropout": (0.1, 0.15, 0.2, 0.3),
    "layer-decay": (0.8, 0.9, 1.0),
}
# Learning rates for the models of minutes, around the one that their recipe uses.
SMALL_MODEL_RATES = (1e-4, 3e-4, 1e-3)
