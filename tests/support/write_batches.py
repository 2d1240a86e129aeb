"""Batches 2 to 6 made by two worker processes, as an `npz` file: `write_batches.py SHARDS FILE`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from toy_text import ToyTokenizer

from deberta_jax.data.batches import Batches
from deberta_jax.data.masking import Masking

if __name__ == "__main__":
    options = {"batch_size": 8, "seed": 3, "vocabulary": ToyTokenizer().vocabulary(), "masking": Masking()}
    with Batches(Path(sys.argv[1]), start=2, workers=2, **options) as batches:
        found = [next(batches) for _ in range(5)]
    np.savez(sys.argv[2], **{f"{k}/{name}": value for k, batch in enumerate(found) for name, value in batch.items()})
