"""Fine-tuning against transformers' plain PyTorch loop on this CPU, float32, no dropout. Needs the extra `reference`.

`python benchmarks/finetuning.py curves DATA [MODEL]`: 200 steps on SST-2, STS-B and a part of SQuAD from the same
weights with the same batches, schedule and optimizer. Prints the largest difference of the losses of a step, and the
metric on the development set of both. MODEL is a pretrained folder; without one, a random model of two layers.

`python benchmarks/finetuning.py speed DATA [REPETITIONS]`: steps of (32, 128), and an epoch of 512 sentences of SST-2,
ours in buckets of lengths, theirs in the order given and padded to the longest of a batch; v3-small geometry,
gradients, clipping and AdamW, medians of alternated runs, each peer in a process of its own. Compiling is told apart.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS, BATCH = 200, 32
TASKS = {"sst-2": "glue/SST-2", "sts-b": "glue/STS-B", "squad": "squad"}
# Units to train on, examples to evaluate on: enough for 200 steps, little enough for two cores.
UNITS, HELD_OUT = 6400, 1000
SENTENCES, LIMIT = 512, 128
PEERS = "hugging_face", "deberta_jax"
BARS = {"step": 1.0, "epoch": 1.5}


def curves(data: Path, model: str | None) -> int:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        missed = 0
        for task, where in TASKS.items():
            found = _ours(task, data / where, folder / task, model)
            theirs = _theirs(task, folder / task)
            apart = [abs(a - b) for a, b in zip(found["losses"], theirs["losses"], strict=True)]
            value, other = found["metric"], theirs["metric"]
            bad = max(apart) > 1e-3 or abs(value - other) > 0.005
            missed += bad
            print(
                f"{task}: losses from {found['losses'][0]:.4f} to {found['losses'][-1]:.4f}, at most {max(apart):.1e} "
                f"apart (step {apart.index(max(apart)) + 1}); {found['name']} {value:.4f}, theirs {other:.4f}"
                f"{' MISSED' * bad}",
                flush=True,
            )
    return missed


def _ours(task_name: str, data: Path, folder: Path, model: str | None) -> dict:
    """Train by the library's own loop; leaves the first model and all batches for the other."""
    import numpy as np

    from deberta_jax.finetuning.batches import Batches
    from deberta_jax.finetuning.initial import initial_model, model_spec, open_pretrained
    from deberta_jax.finetuning.kinds import KINDS
    from deberta_jax.finetuning.objectives import plain_objective
    from deberta_jax.finetuning.predictions import predict
    from deberta_jax.finetuning.training_set import features_of
    from deberta_jax.hub.pretrained import save_pretrained
    from deberta_jax.inference.buckets import Batching
    from deberta_jax.model.shardings import shardings
    from deberta_jax.sharding import make_mesh
    from deberta_jax.tasks.catalogue import TASKS as KNOWN
    from deberta_jax.tasks.catalogue import find_splits, labels_of, load
    from deberta_jax.training.method import one_objective
    from deberta_jax.training.optimizer import OptimizerConfig, learning_rate
    from deberta_jax.training.run import TrainingConfig
    from deberta_jax.training.state import abstract_state, initial_state
    from deberta_jax.training.step import place

    task = KNOWN[task_name]
    if model is None:
        model = str(_random_model(data, folder.with_name("random")))
    pretrained, kind = open_pretrained(model), KINDS[task.kind]
    tokenizer = pretrained.tokenizer
    paths = find_splits(task, data)
    train = load(task, paths["train"], "train").examples
    held_out = load(task, paths["dev"], "dev").examples[:HELD_OUT]
    labels = labels_of(task, train)
    spec = model_spec(pretrained, kind, labels, head_dropout=0.0)
    features, _ = features_of(kind, tokenizer, train[:UNITS], labels, LIMIT)
    iterator = Batches(kind, features, batch_size=BATCH, seed=0, max_length=LIMIT, pad_id=tokenizer.pad_id)
    batches = [next(iterator) for _ in range(STEPS)]
    mesh = make_mesh()
    training = TrainingConfig(steps=STEPS, batch_size=BATCH, optimizer=OptimizerConfig(learning_rate=3e-4, warmup=0.1))
    method = one_objective(training, spec.build, plain_objective(kind.objective))
    first = initial_model(spec, 0, mesh)()
    save_pretrained(folder / "first", first, tokenizer)
    abstract = abstract_state(method.build, method.optimizer, 0, mesh)
    state = initial_state(method.build, method.optimizer, 0, mesh, first)
    step = method.make_step(shardings(abstract, mesh))
    losses = []
    for batch in batches:
        state, metrics = step(state, place(batch, mesh))
        losses.append(float(metrics["loss"]))
    batching = Batching(max_length=LIMIT)
    outcomes = predict(kind, state.model, tokenizer, held_out, batching)
    rate = learning_rate(training.optimizer, STEPS)
    np.savez(
        folder / "batches.npz",
        **{f"{number}.{name}": value for number, batch in enumerate(batches) for name, value in batch.items()},
        rates=np.asarray([float(rate(number)) for number in range(STEPS)]),
    )
    (folder / "held_out.json").write_text(json.dumps([str(data), len(held_out)]))
    metric = task.metrics(held_out, [task.resolve(outcome.prediction) for outcome in outcomes])[task.best_metric]
    return {"losses": losses, "metric": metric, "name": task.best_metric}


def _random_model(data: Path, folder: Path) -> Path:
    import dataclasses

    import jax

    from deberta_jax.hub.pretrained import save_pretrained
    from deberta_jax.model.deberta import Deberta
    from deberta_jax.presets import PRESETS
    from deberta_jax.tokenizers.train import train_tokenizer

    folder.mkdir(exist_ok=True)
    lines = [line for path in sorted(data.glob("train*")) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [text[:4000] for line in lines for text in line.split("\t")]
    if data.name == "squad":
        texts = [
            paragraph["context"]
            for path in sorted(data.glob("train*"))
            for article in json.loads(path.read_text(encoding="utf-8"))["data"]
            for paragraph in article["paragraphs"]
        ]
    tokenizer = train_tokenizer(texts, folder / "spm.model", 8000)
    config = dataclasses.replace(PRESETS["tiny"], vocab_size=8064)
    save_pretrained(folder, jax.jit(lambda key: Deberta(config, key=key))(jax.random.key(0)), tokenizer)
    return folder


def _theirs(task_name: str, folder: Path) -> dict:
    """The same work by transformers and torch, on the batches that were left; predictions read by our own rules."""
    import numpy as np
    import torch
    from transformers import (
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
    )

    from deberta_jax.finetuning.kinds import KINDS
    from deberta_jax.finetuning.predictions import predict
    from deberta_jax.hub.pretrained import load_pretrained
    from deberta_jax.inference.buckets import Batching
    from deberta_jax.tasks.catalogue import TASKS as KNOWN
    from deberta_jax.tasks.catalogue import find_splits, load

    task = KNOWN[task_name]
    kind = KINDS[task.kind]
    head = AutoModelForQuestionAnswering if task.kind == "extractive_qa" else AutoModelForSequenceClassification
    model = head.from_pretrained(folder / "first", attn_implementation="eager").train()
    for module in model.modules():
        if "Dropout" in type(module).__name__:
            for name in ("p", "drop_prob"):
                if hasattr(module, name):
                    setattr(module, name, 0.0)
    decayed = [
        p for name, p in model.named_parameters() if not name.endswith("bias") and "LayerNorm.weight" not in name
    ]
    others = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm.weight" in name]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-6)
    saved = np.load(folder / "batches.npz")
    losses = []
    for number in range(STEPS):
        batch = {
            name.partition(".")[2]: torch.tensor(saved[name])
            for name in saved.files
            if name.partition(".")[0] == str(number)
        }
        for group in optimizer.param_groups:
            group["lr"] = float(saved["rates"][number])
        output = model(batch["input_ids"].long(), attention_mask=batch["attention_mask"].long())
        loss = _their_loss(task.kind, output, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    model.eval().save_pretrained(folder / "theirs")
    for path in (folder / "first").iterdir():
        if not (folder / "theirs" / path.name).exists():
            (folder / "theirs" / path.name).write_bytes(path.read_bytes())
    data, number = json.loads((folder / "held_out.json").read_text())
    held_out = load(task, find_splits(task, Path(data))["dev"], "dev").examples[:number]
    ours, tokenizer = load_pretrained(folder / "theirs", kind.head)
    outcomes = predict(kind, ours, tokenizer, held_out, Batching(max_length=LIMIT))
    metric = task.metrics(held_out, [task.resolve(outcome.prediction) for outcome in outcomes])[task.best_metric]
    return {"losses": losses, "metric": metric}


def _their_loss(kind, output, batch):
    import torch.nn.functional as F

    weights, labels = batch["weights"], batch["labels"]
    if kind == "extractive_qa":
        hidden = batch["attention_mask"] == 0
        ends = (output.start_logits.masked_fill(hidden, -1e9), output.end_logits.masked_fill(hidden, -1e9))
        each = sum(F.cross_entropy(x, labels[:, k].long(), reduction="none") for k, x in enumerate(ends)) / 2
    elif kind == "regression":
        each = (output.logits[:, 0] - labels) ** 2
    else:
        each = F.cross_entropy(output.logits, labels.long(), reduction="none")
    return (each * weights).sum() / weights.sum()


def speed(data: Path, repetitions: int) -> int:
    missed = 0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _prepare_speed(data / TASKS["sst-2"], folder)
        processes = {peer: _start(peer, folder) for peer in PEERS}
        for what, bar in BARS.items():
            times: dict[str, list[float]] = {peer: [] for peer in PEERS}
            for _ in range(repetitions):
                for peer, process in processes.items():
                    times[peer].append(_ask(process, what))
            medians = {peer: statistics.median(its) for peer, its in times.items()}
            ratio = medians["hugging_face"] / medians["deberta_jax"]
            missed += ratio < bar
            print(
                f"{what}: Hugging Face {medians['hugging_face']:.2f} s, ours {medians['deberta_jax']:.2f} s, ratio "
                f"{ratio:.2f} (bar {bar}){' MISSED' * (ratio < bar)}",
                flush=True,
            )
        for process in processes.values():
            process.stdin.close()
            process.wait()
    return missed


def _start(peer: str, folder: Path) -> subprocess.Popen:
    environment = dict(os.environ, OMP_NUM_THREADS="2", JAX_PLATFORMS="cpu")
    command = [sys.executable, __file__, "worker", peer, str(folder)]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while (line := process.stdout.readline()) and line.strip() != "ready":
        pass
    return process


def _ask(process: subprocess.Popen, what: str) -> float:
    process.stdin.write(f"{what}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def _prepare_speed(data: Path, folder: Path) -> None:
    """Token ids of sentences, and the batches of both."""
    import numpy as np

    from deberta_jax.finetuning.batches import Batches, batches_in_epoch
    from deberta_jax.finetuning.kinds import KINDS
    from deberta_jax.finetuning.training_set import features_of
    from deberta_jax.tasks.catalogue import TASKS as KNOWN
    from deberta_jax.tokenizers.train import train_tokenizer

    examples = KNOWN["sst-2"].read(data / "train.tsv", "train").examples
    tokenizer = train_tokenizer([example.text for example in examples[:20_000]], folder / "spm.model", 8000)
    kind = KINDS["single_label"]
    features, _ = features_of(kind, tokenizer, examples[:SENTENCES], ("0", "1"), LIMIT)
    batches = Batches(kind, features, batch_size=BATCH, seed=0, max_length=LIMIT, pad_id=0)
    saved = {}
    for number in range(batches_in_epoch(len(features), BATCH)):
        for name, value in next(batches).items():
            saved[f"ours.{number}.{name}"] = value
        chunk = features[number * BATCH : (number + 1) * BATCH]
        ids = np.zeros((len(chunk), max(feature.length for feature in chunk)), np.int32)
        for row, feature in zip(ids, chunk, strict=True):
            row[: feature.length] = feature.sequences[0]
        saved |= {f"theirs.{number}.input_ids": ids, f"theirs.{number}.attention_mask": (ids > 0).astype(np.int32)}
        saved[f"theirs.{number}.labels"] = np.asarray([feature.targets["labels"] for feature in chunk])
    np.savez(folder / "batches.npz", **saved)


def _batches(folder: Path, peer: str) -> list[dict]:
    import numpy as np

    saved = np.load(folder / "batches.npz")
    found: dict[int, dict] = {}
    for name in saved.files:
        whose, number, field = name.split(".")
        if whose == peer:
            found.setdefault(int(number), {})[field] = saved[name]
    return [found[number] for number in sorted(found)]


def worker(peer: str, folder: Path) -> None:
    """Print the seconds of a step, or of an epoch, for each line that asks for one."""
    import time

    step, epoch = {"hugging_face": _their_loop, "deberta_jax": _our_loop}[peer](folder)
    before = time.perf_counter()
    step()
    epoch()
    print(f"{peer}: first step and epoch, with compiling, {time.perf_counter() - before:.0f} s", file=sys.stderr)
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        (step if line.strip() == "step" else epoch)()
        print(time.perf_counter() - start, flush=True)


def _our_loop(folder: Path):
    import dataclasses

    import jax
    import numpy as np

    from deberta_jax.finetuning.objectives import classification_objective, plain_objective
    from deberta_jax.model.heads import SequenceClassification
    from deberta_jax.model.shardings import shardings
    from deberta_jax.presets import PRESETS
    from deberta_jax.sharding import make_mesh
    from deberta_jax.training.method import one_objective
    from deberta_jax.training.optimizer import OptimizerConfig
    from deberta_jax.training.run import TrainingConfig
    from deberta_jax.training.state import abstract_state, initial_state
    from deberta_jax.training.step import place

    config = dataclasses.replace(PRESETS["v3-small"], labels=("0", "1"))
    training = TrainingConfig(steps=10_000, batch_size=BATCH, optimizer=OptimizerConfig(learning_rate=1e-5))
    mesh = make_mesh()
    method = one_objective(
        training, lambda key: SequenceClassification(config, key=key), plain_objective(classification_objective())
    )
    state = [initial_state(method.build, method.optimizer, 0, mesh)]
    step = method.make_step(shardings(abstract_state(method.build, method.optimizer, 0, mesh), mesh))
    batches = _batches(folder, "ours")
    rng = np.random.default_rng(0)
    whole = {
        "input_ids": rng.integers(5, 8000, (BATCH, 128)).astype(np.int32),
        "attention_mask": np.ones((BATCH, 128), np.int32),
        "token_type_ids": np.zeros((BATCH, 128), np.int32),
        "labels": rng.integers(0, 2, BATCH).astype(np.int32),
        "weights": np.ones(BATCH, np.float32),
    }

    def run(its):
        for batch in its:
            state[0], metrics = step(state[0], place(batch, mesh))
        jax.block_until_ready(metrics)

    return lambda: run([whole]), lambda: run(batches)


def _their_loop(folder: Path):
    import torch
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    torch.set_num_threads(2)
    config = DebertaV2Config(
        vocab_size=128100,
        hidden_size=768,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=3072,
        relative_attention=True,
        position_buckets=256,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        num_labels=2,
    )
    model = DebertaV2ForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01)
    tensors = [
        {name: torch.tensor(value).long() for name, value in batch.items()} for batch in _batches(folder, "theirs")
    ]
    ids = torch.randint(5, 8000, (BATCH, 128))
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.randint(0, 2, (BATCH,))}

    def run(its):
        for batch in its:
            loss = model(batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return lambda: run([whole]), lambda: run(tensors)


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "worker":
        worker(words[0], Path(words[1]))
    elif what == "curves":
        sys.exit(curves(Path(words[0]), words[1] if len(words) > 1 else None))
    else:
        sys.exit(speed(Path(words[0]), int(words[1]) if len(words) > 1 else 3))
