"""`deberta-jax upload FOLDER NAME`: upload a model folder to the Hugging Face Hub."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True)
class UploadCommand:
    """Upload the model folder FOLDER to the repository NAME of the Hugging Face hub, in one commit.

    The config, the weights, the tokenizer and the model card (README.md) are uploaded, no other files. A folder without
    a card gets a short one. The token is the one of HF_TOKEN or of `hf auth login`; it needs the role write.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Model folder, such as the folder `model` of a run."""
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Repository, owner/name; it is created if it does not exist."""
    public: bool = False
    """Create the repository as public; by default it is private. An existing one stays as it is."""


OPTIONS = UploadCommand


def run(config: UploadCommand) -> None:
    """Check the folder and the token, write a card if there is none, and upload."""
    from deberta_jax.hub.card import write_minimal_card
    from deberta_jax.hub.upload import check_upload, upload_files, upload_folder

    upload_files(config.folder)
    check_upload(config.name)
    write_minimal_card(config.folder, config.name)
    print(f"uploaded to {upload_folder(config.folder, config.name, public=config.public)}")
