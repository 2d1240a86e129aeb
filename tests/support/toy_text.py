"""A small text and a tokenizer of bytes; worker processes can import this module."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deberta_jax.data.masking import MaskingVocabulary

LENGTH = 64


def write_texts(folder, files=3, documents=40):
    """Write text files and return a pattern for them."""
    for i in range(files):
        texts = (f"Document {j} of file {i}. " + "Words and words. " * (j % 7) for j in range(documents))
        (folder / f"{i}.txt").write_text("\n\n".join(texts))
    return [str(folder / "*.txt")]


@dataclass(frozen=True)
class ToyTokenizer:
    """Bytes with ids from 4; a space begins a word.

    The first `kills` processes that read "kill me" kill themselves and leave a file in the folder `marks`.
    """

    sha256: str = "5" * 64
    vocab_size: int = 261
    pad_id: int = 0
    cls_id: int = 1
    sep_id: int = 2
    mask_id: int = 260
    marks: str | None = None
    kills: int = 0

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        if self.marks and any("kill me" in text for text in texts):
            folder = Path(self.marks)
            if len(list(folder.iterdir())) < self.kills:
                (folder / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) + 4 for text in texts]

    def vocabulary(self) -> MaskingVocabulary:
        starts = np.arange(self.vocab_size) == 4 + ord(" ")
        return MaskingVocabulary(self.mask_id, self.vocab_size, (0, 1, 2, 3, self.mask_id), starts)
