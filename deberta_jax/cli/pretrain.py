"""`deberta-jax pretrain RECIPE`: train a model on text files and write model folders."""

from deberta_jax.pretraining.config import PretrainConfig
from deberta_jax.processes.join import join, option_values


def run(config: PretrainConfig) -> None:
    """Train, evaluate and export; with `--steps 0` print the size of the run instead."""
    join(config.processes, option_values(config))
    # Imported here, since `--help` does not need what training needs.
    from deberta_jax.pretraining.run import describe, pretrain
    from deberta_jax.processes.first_process import print_once

    if config.training.steps:
        pretrain(config)
    else:
        print_once(describe(config))
