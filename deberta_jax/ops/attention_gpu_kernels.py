"""The kernels of attention_gpu.py (Pallas, Triton): one program per tile of tokens, one loop over the other tokens.

The forward kernel and the kernel of the queries' gradients own a tile of queries and loop over tiles of keys; the
kernel of the keys' and values' gradients owns a tile of keys. What they share does not depend on who is who: `own`
tokens are rows of a tile of scores, `other` tokens are its columns.

Tiles whose distances are all beyond the band are far: their relative scores are one number per query and one per key.
Near tiles read a score by distance for each pair, and store its gradient at the same place: each entry belongs to one
pair, so there are no atomics and results are deterministic.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from deberta_jax.ops.attention_gpu_program import KernelPlan, KernelTensors, Program, start_program
from deberta_jax.ops.dropout import keep_at

# Below every score, but finite: no row has inf - inf.
_LOWEST = float(np.finfo(np.float32).min)


def forward_kernel(plan: KernelPlan, tensors: KernelTensors, context: Any, log_sum: Any) -> None:
    """Context [T, H] of a tile of queries, and the logarithm [T] of the sum of exponentials (softmax, one pass)."""
    program = start_program(plan, tensors)
    q = tensors.queries.content[program.own_tokens, :]

    def add_tile(first: Any, far: Any, carry: Any) -> Any:
        highest, total, sums = carry
        keys = program.other_tokens(first)
        exponents = _exponents(program, _product(plan, q, tensors.keys.content[keys, :].T), first, far)
        new_highest = jnp.maximum(highest, jnp.max(exponents, axis=1))
        weights, correction = jnp.exp2(exponents - new_highest[:, None]), jnp.exp2(highest - new_highest)
        total = total * correction + jnp.sum(weights, axis=1)
        dropped, v = _drop(program, weights, first), tensors.keys.partner[keys, :]
        return new_highest, total, sums * correction[:, None] + _product(plan, dropped.astype(v.dtype), v)

    empty = jnp.full((plan.own_tile,), _LOWEST, jnp.float32), jnp.zeros((plan.own_tile,), jnp.float32)
    highest, total, sums = _over_tiles(program, add_tile, (*empty, jnp.zeros(q.shape, jnp.float32)))
    is_empty = total == 0.0
    # A query without a visible key attends to nothing, and its probabilities are zero in the backward pass too.
    context[...] = (sums / jnp.where(is_empty, 1.0, total)[:, None]).astype(context.dtype)
    log_sum[...] = jnp.where(is_empty, jnp.inf, highest + jnp.log2(total))


def query_gradient_kernel(plan: KernelPlan, tensors: KernelTensors, q_gradient: Any, near_gradient: Any) -> None:
    """Gradients of a tile of queries [T, H] from c2c scores, and of their scores by distance."""
    program = start_program(plan, tensors)

    def add_tile(first: Any, far: Any, carry: Any) -> Any:
        total, sums = carry
        _, gradient = _tile_gradients(program, first, far)
        sums = _store_gradient(program, near_gradient, sums, gradient, first, far)
        k = tensors.keys.content[program.other_tokens(first), :]
        return total + _product(plan, gradient.astype(k.dtype), k), sums

    zeros = jnp.zeros(q_gradient.shape, jnp.float32)
    total, sums = _over_tiles(program, add_tile, (zeros, _far_sums(plan, near_gradient)))
    q_gradient[...] = total.astype(q_gradient.dtype)
    _store_remainder(program, near_gradient, sums)


def key_gradient_kernel(
    plan: KernelPlan, tensors: KernelTensors, k_gradient: Any, v_gradient: Any, near_gradient: Any
) -> None:
    """Gradients of a tile of keys [T, H] from c2c scores, of their values, and of their scores by distance."""
    program = start_program(plan, tensors)

    def add_tile(first: Any, far: Any, carry: Any) -> Any:
        k_total, v_total, sums = carry
        dropped, gradient = _tile_gradients(program, first, far)
        sums = _store_gradient(program, near_gradient, sums, gradient, first, far)
        queries = program.other_tokens(first)
        q, context = tensors.queries.content[queries, :], tensors.queries.partner[queries, :]
        k_total += _product(plan, gradient.astype(q.dtype), q)
        return k_total, v_total + _product(plan, dropped.astype(q.dtype), context), sums

    zeros = jnp.zeros(k_gradient.shape, jnp.float32)
    k_total, v_total, sums = _over_tiles(program, add_tile, (zeros, zeros, _far_sums(plan, near_gradient)))
    k_gradient[...] = k_total.astype(k_gradient.dtype)
    v_gradient[...] = v_total.astype(v_gradient.dtype)
    _store_remainder(program, near_gradient, sums)


def _over_tiles(program: Program, add_tile: Callable[..., Any], carry: Any) -> Any:
    """Apply `add_tile(first token, far, carry)` to each tile of other tokens that is not wholly masked.

    `far` is None for near tiles, 0 for far tiles whose tokens all come before the own ones, 1 for those after.
    """
    plan, (first, last) = program.plan, program.tiles
    near_first, near_last = first, last
    if plan.has_far_tiles:
        begin, end = program.other_tiles(plan.layout.near_tiles(program.start))
        near_first, near_last = jnp.maximum(first, begin), jnp.minimum(last, end)
    carry = jax.lax.fori_loop(near_first, near_last, lambda t, carry: add_tile(t * plan.other_tile, None, carry), carry)
    if not plan.has_far_tiles:
        return carry
    before, after_first = jnp.maximum(jnp.minimum(last, begin) - first, 0), jnp.maximum(first, end)

    def add_far_tile(t: Any, carry: Any) -> Any:
        is_after = t >= before
        tile = jnp.where(is_after, after_first + t - before, first + t)
        return add_tile(tile * plan.other_tile, is_after.astype(jnp.int32), carry)

    return jax.lax.fori_loop(0, before + jnp.maximum(last - after_first, 0), add_far_tile, carry)


def _exponents(program: Program, product: Float[Array, "T S"], first: Any, far: Any) -> Float[Array, "T S"]:
    """The scores of a tile as exponents to base 2, from the products of its contents; -inf where a pair is hidden."""
    plan, total = program.plan, product
    (own, other), sides = program.pairs(first), plan.sides(program.tensors)
    if far is None:
        for side, tile in zip(sides, ((program.start, own, other), (first, other, own)), strict=True):
            if side.near is not None:
                block, offset, _ = plan.layout.position(*tile)
                total += side.near[block, offset].astype(jnp.float32)
    else:
        if program.before is not None:
            total += jnp.where(far == 1, program.after, program.before).astype(jnp.float32)[:, None]
        if sides[1].far is not None:
            # Tokens after the own ones have these before themselves.
            total += sides[1].far[1 - far, program.other_tokens(first)].astype(jnp.float32)[None, :]
    exponents, visible = total * plan.exponent_scale, _visible(program, first)
    return exponents if visible is None else jnp.where(visible, exponents, -jnp.inf)


def _visible(program: Program, first: Any) -> Bool[Array, "T S"] | None:
    """Which pairs of a tile are visible; None if all are."""
    plan, tensors = program.plan, program.tensors
    query, key = plan.by_query(*program.pairs(first))
    restrictions = []
    if tensors.segment_ids is not None:
        own, other = (tensors.segment_ids[tokens] for tokens in (program.own_tokens, program.other_tokens(first)))
        # Hidden tokens do not see each other either.
        own, other = jnp.where(own < 0, -1, own), jnp.where(other < 0, -2, other)
        restrictions.append(own[:, None] == other[None, :])
    if tensors.order is not None:
        own, other = (tensors.order[tokens] for tokens in (program.own_tokens, program.other_tokens(first)))
        of_queries, of_keys = plan.by_query(own[:, None], other[None, :])
        restrictions.append(of_queries >= of_keys)
    if tensors.mask is not None:
        restrictions.append(tensors.mask[tuple(jnp.broadcast_arrays(query, key))] != 0)
    if plan.settings.is_causal:
        restrictions.append(query >= key)
    return functools.reduce(operator.and_, restrictions) if restrictions else None


def _drop(program: Program, x: Float[Array, "T S"], first: Any) -> Float[Array, "T S"]:
    """The entries of a tile after dropout, as `dropout.drop` of the whole tensor."""
    if program.words is None:
        return x
    settings = program.plan.settings
    query, key = (
        position.astype(jnp.uint32) + word
        for position, word in zip(program.plan.by_query(*program.pairs(first)), program.words, strict=True)
    )
    keep = keep_at(query * np.uint32(settings.shape[3]) + key, settings.dropout_rate, program.tensors.seed[1])
    return jnp.where(keep, x * (1 / (1 - settings.dropout_rate)), 0.0)


def _tile_gradients(program: Program, first: Any, far: Any) -> tuple[Float[Array, "T S"], Float[Array, "T S"]]:
    """The probabilities of a tile after dropout, and the gradients of its scores."""
    plan, tensors = program.plan, program.tensors
    own, other = plan.sides(tensors)
    rows, columns = program.own_tokens, program.other_tokens(first)
    product = _product(plan, own.content[rows, :], other.content[columns, :].T)
    if plan.owns_queries:
        log_sum, mean = (x[rows][:, None] for x in (tensors.log_sum, tensors.mean))
    else:
        log_sum, mean = (x[columns][None, :] for x in (tensors.log_sum, tensors.mean))
    probabilities = jnp.exp2(_exponents(program, product, first, far) - log_sum)
    gradient = _drop(program, _product(plan, own.partner[rows, :], other.partner[columns, :].T), first)
    return _drop(program, probabilities, first), probabilities * (gradient - mean) * plan.settings.scale


def _far_sums(plan: KernelPlan, near_gradient: Any) -> tuple[Float[Array, "T"], ...]:
    """Zero sums of the gradients of far entries before and after the own tokens, if there are any."""
    is_present = plan.has_far_tiles and near_gradient is not None
    return (jnp.zeros((plan.own_tile,), jnp.float32),) * (2 * is_present)


def _store_gradient(
    program: Program, near_gradient: Any, sums: Any, gradient: Float[Array, "T S"], first: Any, far: Any
) -> Any:
    """Store the gradients of a near tile by distance, or add those of a far tile to `sums`; returns the sums."""
    if near_gradient is None:
        return sums
    if far is not None:
        total = jnp.sum(gradient, axis=1)
        return tuple(x + jnp.where(far == side, total, 0.0) for side, x in enumerate(sums))
    block, offset, _ = program.plan.layout.position(program.start, *program.pairs(first))
    near_gradient[block, offset] = gradient.astype(near_gradient.dtype)
    return sums


def _store_remainder(program: Program, near_gradient: Any, sums: Any) -> None:
    """Store the sums of far tiles, and zero where no near tile was computed."""
    if near_gradient is None:
        return
    layout, (first, last) = program.plan.layout, program.tiles
    begin, end = program.other_tiles(layout.near_tiles(program.start))
    first = jnp.minimum(jnp.maximum(first, begin), end)
    last = jnp.minimum(jnp.maximum(last, first), end)
    begin, end = program.other_tiles(layout.stored_tiles(program.start))

    def clear(t: Any, _: None) -> None:
        block, offset, column = layout.position(program.start, *program.pairs(t * program.plan.other_tile))
        _store(near_gradient, block, offset, jnp.zeros(offset.shape, jnp.float32), layout.is_stored(column))

    jax.lax.fori_loop(begin, first, clear, None)
    jax.lax.fori_loop(last, end, clear, None)
    if not sums:
        return
    (before, after), (own, _) = sums, program.pairs(0)
    # The far columns and those that fill up a row, fewer than 16, in one store.
    columns = jax.lax.broadcasted_iota(jnp.int32, (1, 16), 1)
    values = jnp.where(columns == 0, before[:, None], jnp.where(columns == 1, after[:, None], 0.0))
    columns = columns + layout.far_column(is_after=False)
    _store(near_gradient, 0, own * layout.width + columns, values, columns < layout.width)


def _store(near_gradient: Any, block: Any, offset: Any, values: Float[Array, "T S"], is_stored: Any) -> None:
    """Store values in a reference [A, M W] where `is_stored`."""
    # Imported here: the package does not depend on Triton.
    from jax.experimental.pallas import triton

    is_stored = jnp.broadcast_to(is_stored, values.shape)
    # Where nothing is stored, the interpreter writes the previous value, but nothing beyond the end.
    offset = jnp.where(is_stored, offset, near_gradient.shape[1])
    triton.store(near_gradient.at[block, offset], values.astype(near_gradient.dtype), mask=is_stored)


def _product(plan: KernelPlan, x: Float[Array, "I J"], y: Float[Array, "J K"]) -> Float[Array, "I K"]:
    return jax.lax.dot_general(
        x, y, (((1,), (0,)), ((), ())), precision=plan.settings.precision, preferred_element_type=jnp.float32
    )
