"""The speed of fine-tuning compared with a plain PyTorch loop over transformers: CPU, float32, v3-small geometry.

`python benchmarks/finetuning_speed.py DATA [REPETITIONS]` measures steps of 32 sequences of 128 tokens, and an epoch of
512 sentences of SST-2: ours in buckets of similar length, transformers in the given order and padded to the longest of
each batch. Gradients, clipping and AdamW are included. Prints medians of alternating runs, each peer in its own
process; compilation is reported separately. Needs the extra `reference`.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from timing import Worker, alternate, seconds, serve

BATCH_SIZE, MAX_LENGTH, NUM_SENTENCES, VOCABULARY = 32, 128, 512, 8000
# Minimum speed relative to transformers.
BARS = {"step": 1.0, "epoch": 1.5}
# Named runs of a peer.
Runs = dict[str, Callable[[], object]]
Batch = dict[str, np.ndarray]


def main(data: Path, repetitions: int = 3) -> int:
    missed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(data / "glue/SST-2/train.tsv", folder)
        workers = {peer: Worker(__file__, peer, str(folder), threads=2, quiet=False) for peer in PEERS}
        for run, bar in BARS.items():
            measures = {peer: lambda run=run, w=process: float(w.ask(run)) for peer, process in workers.items()}
            medians = alternate(measures, repetitions)
            ratio = medians["hugging_face"] / medians["deberta_jax"]
            missed += ratio < bar
            print(
                f"{run}: transformers {medians['hugging_face']:.2f} s, ours {medians['deberta_jax']:.2f} s, ratio "
                f"{ratio:.2f} (bar {bar}){' MISSED' * (ratio < bar)}",
                flush=True,
            )
        for process in workers.values():
            process.close()
    return missed


def prepare(path: Path, folder: Path) -> None:
    """Write the batches of both peers."""
    from deberta_jax.finetuning.batches import Batches, batches_in_epoch
    from deberta_jax.finetuning.kinds import KINDS
    from deberta_jax.finetuning.training_set import features_of
    from deberta_jax.tasks.catalogue import TASKS
    from deberta_jax.tokenizers.train import train_tokenizer

    examples = TASKS["sst-2"].read(path, "train").examples
    tokenizer = train_tokenizer([example.text for example in examples[:20_000]], folder / "spm.model", VOCABULARY)
    kind = KINDS["single_label"]
    features, _ = features_of(kind, tokenizer, examples[:NUM_SENTENCES], ("0", "1"), MAX_LENGTH)
    bucketed = Batches(kind, features, batch_size=BATCH_SIZE, seed=0, max_length=MAX_LENGTH, pad_id=0)
    number = batches_in_epoch(len(features), BATCH_SIZE)
    save_batches(folder / "deberta_jax.npz", [next(bucketed) for _ in range(number)])
    chunks = [features[start : start + BATCH_SIZE] for start in range(0, len(features), BATCH_SIZE)]
    save_batches(folder / "hugging_face.npz", [padded(chunk) for chunk in chunks])


def padded(features: list) -> Batch:
    """Token ids padded to the longest sequence, with labels."""
    ids = np.zeros((len(features), max(feature.length for feature in features)), np.int32)
    for row, feature in zip(ids, features, strict=True):
        row[: feature.length] = feature.sequences[0]
    labels = np.asarray([feature.targets["labels"] for feature in features])
    return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int32), "labels": labels}


def save_batches(path: Path, batches: list[Batch]) -> None:
    np.savez(path, **{f"{k}.{name}": array for k, batch in enumerate(batches) for name, array in batch.items()})


def load_batches(path: Path) -> list[Batch]:
    batches: dict[int, Batch] = {}
    for key, array in np.load(path).items():
        number, name = key.split(".")
        batches.setdefault(int(number), {})[name] = array
    return [batches[number] for number in sorted(batches)]


def deberta_jax(batches: list[Batch]) -> Runs:
    from steps import Trainer, random_batch, v3_small_classifier

    from deberta_jax.finetuning.objectives import classification_objective, plain_objective
    from deberta_jax.sharding import make_mesh

    method = v3_small_classifier(plain_objective(classification_objective()), ("0", "1"), BATCH_SIZE)
    trainer = Trainer(method, make_mesh())
    full = random_batch(BATCH_SIZE, MAX_LENGTH, 2, VOCABULARY)
    return {"step": lambda: trainer.run(full), "epoch": lambda: trainer.run(*batches)}


def hugging_face(batches: list[Batch]) -> Runs:
    import torch
    from hugging_face import v3_config
    from transformers import DebertaV2ForSequenceClassification

    torch.set_num_threads(2)
    model = DebertaV2ForSequenceClassification(v3_config(6, num_labels=2)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01)
    tensors = [{name: torch.tensor(array).long() for name, array in batch.items()} for batch in batches]
    ids = torch.randint(5, VOCABULARY, (BATCH_SIZE, MAX_LENGTH))
    full = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.randint(0, 2, (BATCH_SIZE,))}

    def step(batch):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return {"step": lambda: step(full), "epoch": lambda: [step(batch) for batch in tensors]}


PEERS = {"hugging_face": hugging_face, "deberta_jax": deberta_jax}


def worker(peer: str, folder: Path) -> None:
    """Answer each request, "step" or "epoch", with its duration."""
    runs = PEERS[peer](load_batches(folder / f"{peer}.npz"))
    first = sum(map(seconds, runs.values()))
    print(f"{peer}: first step and epoch, including compilation, {first:.0f} s", file=sys.stderr)
    serve(lambda name: seconds(runs[name]))


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        worker(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:3])))
