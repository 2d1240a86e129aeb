"""What is said of examples and of how well they are predicted."""

from collections.abc import Sequence

from deberta_jax.finetuning.evaluate import Judgement
from deberta_jax.pretraining.corpus import say
from deberta_jax.tasks.examples import ReadReport


def tell_account(account: ReadReport) -> None:
    """How many rows were read and used, and the first of those that were not."""
    say(str(account))
    for line in account.named:
        say(f"  {line}")


def tell_metrics(found: Sequence[Judgement]) -> None:
    """A line for each split."""
    for judgement in found:
        number = f"{len(judgement.examples):,} examples"
        if judgement.metrics:
            listed = ", ".join(f"{name} {value:.4f}" for name, value in judgement.metrics.items())
            say(f"{judgement.split}: {listed} ({number})")
        else:
            say(f"{judgement.split}: {number} predicted, without labels")
