"""Write batches 2 to 6, made by two worker processes, to an `npz` file: `write_batches.py SHARDS FILE`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from toy_text import ToyTokenizer

from deberta_jax.data.batches import MaskSequence, TrainingBatches
from deberta_jax.data.masking import Masking

if __name__ == "__main__":
    mask = MaskSequence(ToyTokenizer().vocabulary(), Masking())
    with TrainingBatches(Path(sys.argv[1]), mask, batch_size=8, seed=3, start=2, workers=2) as batches:
        arrays = {f"{k}/{name}": value for k in range(5) for name, value in next(batches).items()}
    np.savez(sys.argv[2], **arrays)
