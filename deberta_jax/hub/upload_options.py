"""The options of an upload to the Hugging Face Hub."""

import dataclasses

from deberta_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class UploadConfig:
    """Upload of the finished model, with its model card."""

    push_to_hub: str | None = None
    """Upload the model at the end, to owner/name on the Hugging Face hub; the token is checked before training."""
    public: bool = False
    """Create the repository on the hub as public; by default it is private. An existing one stays as it is."""

    def __post_init__(self) -> None:
        if self.public and self.push_to_hub is None:
            raise InputError("public is set without push_to_hub; add --push-to-hub owner/name")
