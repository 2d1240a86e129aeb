"""Generator and discriminator of v3, and the embeddings they share (He, Gao and Chen 2023, section 3.3).

See docs/numerics.md, "Replaced-token detection".
"""

from typing import TypeVar, Unpack

import jax
from jaxtyping import Array, PRNGKeyArray

from deberta_jax.config import DebertaConfig, Sharing
from deberta_jax.errors import InputError
from deberta_jax.model.linear import Embedding
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.module import Model, ModelOptions
from deberta_jax.model.replaced_token_detection import ReplacedTokenDetection
from deberta_jax.model.tree import replace_parts

Tables = dict[str, Embedding]
PairedModel = TypeVar("PairedModel", MaskedLM, ReplacedTokenDetection)
# The tables that are shared, where a model has them: words, and positions that are added to the input.
_SHARED = "word", "position"


class ReplacedTokenPair(Model):
    """A generator, which replaces masked tokens, and a discriminator, which detects them (He, Gao and Chen 2023).

    Args:
        generator: a model that fills masks.
        detector: a complete discriminator.
        sharing: the discriminator's tables E_D (section 3.3; docs/numerics.md, "Replaced-token detection"). "gdes":
            E_D = stop_gradient(E_G) + E_delta, the generator's tables, which the discriminator's loss does not change,
            plus a difference, which it does. "es": E_D = E_G, changed by both losses. "none": E_D is independent.

    Attributes:
        generator, sharing: as given.
        discriminator: the discriminator with only its own tables: E_delta, nothing, or E_D.

    Raises:
        InputError: tables of different shapes, unless `sharing` is "none".

    Example:
        >>> import jax
        >>> import deberta_jax as dj
        >>> config, keys = dj.PRESETS["tiny"], jax.random.split(jax.random.key(0))
        >>> generator = dj.MaskedLM(config, key=keys[0])
        >>> pair = dj.ReplacedTokenPair(generator, dj.ReplacedTokenDetection(config, key=keys[1]))
        >>> type(pair.detector()).__name__
        'ReplacedTokenDetection'
    """

    parts = "pair.detector() or pair.generator"

    def __init__(self, generator: MaskedLM, detector: ReplacedTokenDetection, sharing: Sharing = "gdes"):
        """Combine two complete models: E_delta = E_D - E_G; with "es" both use the generator's tables."""
        detector_tables, shared = tables(detector), tables(generator)
        parts: Tables | dict[str, None] = detector_tables
        if sharing != "none":
            _check_shapes(shared, detector_tables)
        if sharing == "gdes":
            parts = {
                name: _with_values(table, table.embedding[...] - shared[name].embedding[...])
                for name, table in detector_tables.items()
            }
        elif sharing == "es":
            parts = dict.fromkeys(detector_tables)
        self.sharing = sharing
        self.generator = generator
        self.discriminator = with_tables(detector, parts)

    def __repr__(self) -> str:
        return f"ReplacedTokenPair({self.sharing}, {self.generator}, {self.discriminator})"

    @property
    def shared(self) -> Tables:
        """The generator's tables that the discriminator reads; empty for independent tables."""
        return {} if self.sharing == "none" else tables(self.generator)

    def detector(self) -> ReplacedTokenDetection:
        """The discriminator with its tables summed, as a complete model, to save or to call."""
        return detector(self.discriminator, self.shared, self.sharing)


def detector(discriminator: ReplacedTokenDetection, shared: Tables, sharing: Sharing) -> ReplacedTokenDetection:
    """A pair's discriminator with the tables that it reads, from its own and the generator's."""
    if sharing == "none":
        return discriminator
    if sharing == "es":
        return with_tables(discriminator, shared)
    summed = {
        name: _with_values(table, jax.lax.stop_gradient(shared[name].embedding[...]) + table.embedding[...])
        for name, table in tables(discriminator).items()
    }
    return with_tables(discriminator, summed)


def initial_pair(
    generator: DebertaConfig,
    discriminator: DebertaConfig,
    sharing: Sharing = "gdes",
    *,
    key: PRNGKeyArray,
    **options: Unpack[ModelOptions],
) -> ReplacedTokenPair:
    """A pair with random weights, to train from scratch (He, Gao and Chen 2023, section 3.3).

    Args:
        generator: the config of the generator.
        discriminator: the config of the discriminator.
        sharing: "gdes", "es" or "none", as in `ReplacedTokenPair`; with "gdes" E_delta is 0 at first.
        key: initializes the parameters.
        options: `dtype`, `param_dtype`, `remat`, `precision` and `attention` of both models, as for `Deberta`.

    Raises:
        InputError: configs whose tables have different shapes, unless `sharing` is "none"; a generator that cannot have
            an enhanced mask decoder (fewer than 2 layers, or `embedding_size` other than `hidden_size`).

    Example:
        >>> import jax
        >>> import deberta_jax as dj
        >>> pair = dj.initial_pair(dj.PRESETS["tiny"], dj.PRESETS["tiny"], key=jax.random.key(0))
        >>> pair.sharing
        'gdes'
    """
    keys = jax.random.split(key)
    first = MaskedLM(generator, key=keys[0], **options)
    second = ReplacedTokenDetection(discriminator, key=keys[1], **options)
    if sharing == "gdes":
        shared = tables(first)
        _check_shapes(shared, tables(second))
        second = with_tables(second, shared)
    return ReplacedTokenPair(first, second, sharing)


def tables(model: MaskedLM | ReplacedTokenDetection) -> Tables:
    """The tables of a model that a pair shares."""
    named = {name: getattr(model.deberta.embeddings, name) for name in _SHARED}
    return {name: table for name, table in named.items() if table is not None}


def with_tables(model: PairedModel, tables: Tables | dict[str, None]) -> PairedModel:
    """A copy of a model with other tables."""
    return replace_parts(model, {f"deberta.embeddings.{name}": table for name, table in tables.items()})


def _check_shapes(shared: Tables, detector_tables: Tables) -> None:
    shapes = [{name: table.embedding.shape for name, table in tables.items()} for tables in (shared, detector_tables)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"generator and discriminator cannot share tables of different shapes: {shapes[0]} and {shapes[1]}; use "
            'configs that differ only in depth, or sharing "none"'
        )


def _with_values(table: Embedding, values: Array) -> Embedding:
    return jax.tree.map(lambda _: values, table)
