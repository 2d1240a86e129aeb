"""Generator and discriminator of version 3, and what they share (He, Gao and Chen 2023, 3.3; spec 4)."""

from typing import Any, TypeVar

import jax
from flax import nnx
from jaxtyping import DTypeLike, PRNGKeyArray

from deberta_jax.config import DebertaConfig, Remat, Sharing
from deberta_jax.errors import InputError
from deberta_jax.model.embeddings import Embedding
from deberta_jax.model.heads import ReplacedTokenDetection
from deberta_jax.model.masked_lm import MaskedLM

Tables = dict[str, Embedding]
Paired = TypeVar("Paired", MaskedLM, ReplacedTokenDetection)
# The tables that are shared, where a model has them: words, and positions that are added to the input (spec 4.4).
_SHARED = "word", "position"


class ReplacedTokenPair(nnx.Module):
    """A generator, which writes tokens in place of masked ones, and a discriminator, which finds them.

    `sharing` says how the discriminator comes by its tables E_D. "gdes": E_D = ⟦E_G⟧ + E_Δ, the generator's, which its
    loss does not move, and a difference, which it does. "es": E_D = E_G, moved by both losses. "none": its own.

    `discriminator` holds what is its own alone (E_Δ, nothing, or E_D); `detector()` is the model that it makes.
    """

    def __init__(self, generator: MaskedLM, detector: ReplacedTokenDetection, sharing: Sharing = "gdes"):
        """The pair of two models that can stand alone: E_Δ = E_D - E_G; with "es" the generator's tables are both's."""
        own: dict[str, Any] = tables(detector)
        shared = tables(generator)
        if sharing != "none":
            _check_shapes(shared, own)
        if sharing == "gdes":
            own = {
                name: _changed(table, table.embedding[...] - shared[name].embedding[...]) for name, table in own.items()
            }
        elif sharing == "es":
            own = dict.fromkeys(own)
        self.sharing = sharing
        self.generator = generator
        self.discriminator = with_tables(detector, own)

    @property
    def shared(self) -> Tables:
        """The generator's tables that the discriminator reads; empty where it has its own."""
        return {} if self.sharing == "none" else tables(self.generator)

    def detector(self) -> ReplacedTokenDetection:
        """The discriminator with its tables formed, as it reads them; it can stand alone."""
        return detector(self.discriminator, self.shared, self.sharing)


def detector(discriminator: ReplacedTokenDetection, shared: Tables, sharing: Sharing) -> ReplacedTokenDetection:
    """A pair's discriminator with the tables that it reads, of its own and of the generator's."""
    if sharing == "none":
        return discriminator
    if sharing == "es":
        return with_tables(discriminator, shared)
    own = tables(discriminator)
    summed = {
        name: _changed(table, jax.lax.stop_gradient(shared[name].embedding[...]) + table.embedding[...])
        for name, table in own.items()
    }
    return with_tables(discriminator, summed)


def initial_pair(
    generator: DebertaConfig,
    discriminator: DebertaConfig,
    sharing: Sharing = "gdes",
    *,
    dtype: DTypeLike | None = None,
    remat: Remat = "none",
    key: PRNGKeyArray,
) -> ReplacedTokenPair:
    """A pair to be trained from scratch, with E_Δ = 0 (spec 4.5)."""
    keys = jax.random.split(key)
    first = MaskedLM(generator, dtype=dtype, remat=remat, key=keys[0])
    second = ReplacedTokenDetection(discriminator, dtype=dtype, remat=remat, key=keys[1])
    if sharing == "gdes":
        second = with_tables(second, tables(first))
    return ReplacedTokenPair(first, second, sharing)


def tables(model: MaskedLM | ReplacedTokenDetection) -> Tables:
    """The tables of a model that a pair shares."""
    found = {name: getattr(model.deberta.embeddings, name) for name in _SHARED}
    return {name: table for name, table in found.items() if table is not None}


def _check_shapes(shared: Tables, own: Tables) -> None:
    shapes = [{name: table.embedding.shape for name, table in tables.items()} for tables in (shared, own)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"generator and discriminator cannot share tables of different shapes: {shapes[0]} and {shapes[1]}; give "
            'both one config but for their depths, or sharing "none"'
        )


def _changed(table: Embedding, values: jax.Array) -> Embedding:
    return jax.tree.map(lambda _: values, table)


def with_tables(model: Paired, tables: Tables | dict[str, None]) -> Paired:
    """The same model, not the same object, with other tables."""
    copy = jax.tree.map(lambda leaf: leaf, model)
    for name, table in tables.items():
        setattr(copy.deberta.embeddings, name, table)
    return copy
