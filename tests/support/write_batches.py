"""Write batches 2 to 6, made by two worker processes, to an `npz` file: `write_batches.py SHARDS FILE [two kinds]`,
or `write_batches.py SHARDS FILE mixture OTHER_SHARDS`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from toy_text import ToyTokenizer

from deberta_jax.data.batches import MaskSequence, TrainingBatches, TwoKinds
from deberta_jax.data.language_modeling import Directions, OrderSequence
from deberta_jax.data.masking import Masking
from deberta_jax.data.mixture import Source

if __name__ == "__main__":
    rows, batch_size = MaskSequence(ToyTokenizer().vocabulary(), Masking()), 8
    if sys.argv[3:] == ["two kinds"]:
        rows, batch_size = TwoKinds(("masked/", "ordered/"), (rows, OrderSequence(Directions(1.0, 1.0, 2.0))), 1, 4), 16
    shards = Path(sys.argv[1])
    if sys.argv[3:4] == ["mixture"]:
        shards = Source("large", shards, 3.0), Source("small", Path(sys.argv[4]), 1.0)
    with TrainingBatches(shards, rows, batch_size=batch_size, seed=3, start=2, workers=2) as batches:
        arrays = {f"{k}/{name}": value for k in range(5) for name, value in next(batches).items()}
    np.savez(sys.argv[2], **arrays)
