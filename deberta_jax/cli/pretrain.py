"""`deberta-jax pretrain RECIPE`: train a model on text files and write model folders."""

from deberta_jax.pretraining.config import PretrainConfig
from deberta_jax.processes.join import join, option_values


def run(config: PretrainConfig) -> None:
    """Train, evaluate and export; with `--steps 0` print the size of the run instead."""
    join(config.processes, option_values(config))
    # Imported here, since `--help` does not need what training needs.
    from deberta_jax.planning.micro_batch import resolve_micro_batch
    from deberta_jax.pretraining.run import check, describe, pretrain
    from deberta_jax.processes.first_process import print_once

    if not config.training.steps:
        print_once(describe(config))
        return
    if config.micro_batch is not None:
        check(config)
        config, line = resolve_micro_batch(config)
        print_once(line)
    pretrain(config)
