"""The address of the Hugging Face Hub, and whether it may be used."""

import os


def hub_endpoint() -> str:
    """The address of the Hub: `HF_ENDPOINT`, or that of huggingface_hub."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` is set."""
    from huggingface_hub import constants

    value = os.environ.get("HF_HUB_OFFLINE", "").upper()
    return value in constants.ENV_VARS_TRUE_VALUES or constants.HF_HUB_OFFLINE
