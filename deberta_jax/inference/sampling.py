"""How a language model chooses the next token."""

import dataclasses
import math
from typing import Any

from deberta_jax.errors import InputError, check_at_least

# The default of `max_new_tokens`.
NEW_TOKENS = 64


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; see `generate`."""

    max_new_tokens: int = NEW_TOKENS
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    is_bidirectional: bool = False
    use_cache: bool = True

    @property
    def choice(self) -> dict[str, Any]:
        """The arguments of `next_token`."""
        return {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}

    def __post_init__(self) -> None:
        check_at_least("max_new_tokens", self.max_new_tokens, 1)
        if self.top_k is not None:
            check_at_least("top_k", self.top_k, 1)
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature is {self.temperature}; it must be 0 (the most likely token) or positive")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.temperature == 0 and (self.top_k is not None or self.top_p < 1):
            raise InputError("top_k and top_p choose among sampled tokens; set temperature above 0")
