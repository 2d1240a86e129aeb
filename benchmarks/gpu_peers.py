"""What the GPU benchmark compares with, in torch: each peer is left out if it is not installed."""

import importlib.util
from collections.abc import Callable
from typing import Any

Run = Callable[[], object]
BUCKETS, MAX_DISTANCE = 256, 512


def is_installed(peer: str, *modules: str) -> bool:
    """Whether these modules can be imported; prints the ones that cannot."""
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if absent:
        print(f"skipped {peer}: {', '.join(absent)} not installed")
    return not absent


def encoders() -> dict[str, Callable[[int, bool], Any]]:
    """How to build each installed peer's v3-base encoder, from the number of layers and whether it trains."""
    peers = {
        "HF eager": (_hugging_face, ()),
        "FlashDeBERTa": (_flash_deberta, ("flashdeberta",)),
        "DisentangledFlash": (_disentangled_flash, ("disentangled_flash",)),
    }
    return {
        name: build for name, (build, modules) in peers.items() if is_installed(name, "torch", "transformers", *modules)
    }


def _hugging_face(layers: int, trains: bool) -> Any:
    from hugging_face import v3_config
    from transformers import DebertaV2Model

    return DebertaV2Model(v3_config(layers))


def _flash_deberta(layers: int, trains: bool) -> Any:
    from flashdeberta import FlashDebertaV2Model
    from hugging_face import v3_config

    return FlashDebertaV2Model(v3_config(layers))


def _disentangled_flash(layers: int, trains: bool) -> Any:
    import torch
    from disentangled_flash import optimize_deberta

    model = _hugging_face(layers, trains).to("cuda", torch.bfloat16)
    return optimize_deberta(model, inference=not trains)


def encoder_run(build: Callable[[int, bool], Any], layers: int, trains: bool, batch_size: int, length: int) -> Run:
    """The forward pass or the training step of an encoder in bfloat16, as a function that waits for the device."""
    import torch

    model = build(layers, trains).to("cuda", torch.bfloat16).train(trains)
    ids = torch.randint(5, 100_000, (batch_size, length), device="cuda")
    mask = torch.ones_like(ids)

    def forward() -> None:
        with torch.inference_mode():
            model(ids, mask)
        torch.cuda.synchronize()

    def step() -> None:
        model.zero_grad()
        model(ids, mask).last_hidden_state.float().square().mean().backward()
        torch.cuda.synchronize()

    return step if trains else forward


def layer_run(trains: bool, batch_size: int, length: int, num_heads: int, head_size: int, calls: int) -> Run | None:
    """FlashDeBERTa's attention of one layer, `calls` times; None if it is not installed."""
    if not is_installed("FlashDeBERTa's op", "torch", "flashdeberta"):
        return None
    import torch
    from flashdeberta.ops.flash_attention import flash_attention_with_disentangled

    def tensor(*shape: int) -> Any:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16, requires_grad=trains)

    q, k, v = (tensor(batch_size, num_heads, length, head_size) for _ in range(3))
    rel_k, rel_q = (tensor(1, num_heads, 2 * BUCKETS, head_size) for _ in range(2))

    def run() -> None:
        for _ in range(calls):
            scale = (3 * head_size) ** -0.5
            out = flash_attention_with_disentangled(q, k, v, None, rel_k, rel_q, False, scale, BUCKETS, MAX_DISTANCE)
            if trains:
                out.float().square().sum().backward()
        torch.cuda.synchronize()

    return run
