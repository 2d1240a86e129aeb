"""What is said of examples and of how well they are predicted."""

from collections.abc import Sequence

from deberta_jax.finetuning.evaluate import Judgement
from deberta_jax.tasks.examples import ReadReport
from deberta_jax.training.first_process import print_once


def tell_account(account: ReadReport) -> None:
    """How many rows were read and used, and the first of those that were not."""
    print_once(str(account))
    for line in account.named:
        print_once(f"  {line}")


def tell_metrics(found: Sequence[Judgement]) -> None:
    """A line for each split."""
    for judgement in found:
        number = f"{len(judgement.examples):,} examples"
        if judgement.metrics:
            listed = ", ".join(f"{name} {value:.4f}" for name, value in judgement.metrics.items())
            print_once(f"{judgement.split}: {listed} ({number})")
        else:
            print_once(f"{judgement.split}: {number} predicted, without labels")
