"""Errors of huggingface_hub as errors of one line, with what to do."""

import errno
import ipaddress
import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from deberta_jax.errors import InputError


class Repository(NamedTuple):
    """A revision of a model on the Hub."""

    name: str
    revision: str | None
    token: str | None
    endpoint: str


def check_endpoint(repository: Repository) -> None:
    """Raise InputError if a token would be sent unencrypted to another machine."""
    from huggingface_hub.utils import build_hf_headers

    name, _, token, endpoint = repository
    try:
        url = urlsplit(endpoint)
        is_plain = url.scheme == "http" and not _is_local(url.hostname or "")
    except ValueError as error:
        raise InputError(f"{name}: HF_ENDPOINT is not a URL ({error}); correct it") from None
    if is_plain and "authorization" in build_hf_headers(token=token):
        raise InputError(
            f"{name}: HF_ENDPOINT {endpoint} would receive your token unencrypted; use https, or remove the token "
            "(HF_TOKEN, `hf auth logout`)"
        )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_unreachable(error: Exception) -> bool:
    """Whether the Hub did not respond, rather than refuse the request; the page of a login portal is not JSON."""
    from huggingface_hub.errors import HTTPError

    if isinstance(error, json.JSONDecodeError):
        return True
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 503)
    return isinstance(error, (HTTPError, OSError)) and (status == 429 or status >= 500)


@contextmanager
def one_line_errors(repository: Repository) -> Generator[None, None, None]:
    """Raise errors of huggingface_hub as InputErrors of one line."""
    from huggingface_hub import errors

    name, revision, _, endpoint = repository
    login = "pass its token, set HF_TOKEN or log in (`hf auth login`)"
    try:
        yield
    except errors.GatedRepoError:
        raise InputError(f"{name}: gated; accept its terms at {endpoint}/{name}, then {login}") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{name}: no such folder, and no such model on the Hub; check the spelling, and if it is private {login}"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{name}: no revision {revision} on the Hub; name a branch, a tag or a full commit") from None
    except errors.HFValidationError as error:
        raise InputError(f"{name}: no such folder, and not a valid name of a model: {first_line(error)}") from None
    except (errors.HTTPError, errors.EntryNotFoundError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", 503)
        if getattr(error, "errno", None) is None and status < 500:
            refused = f"the Hub {endpoint} refused the request ({first_line(error)})"
            raise InputError(f"{name}: {refused}; {login}, or correct HF_ENDPOINT") from None
        raise InputError(f"{name}: {_interruption(error, endpoint)}; the same call resumes the download") from None


def _interruption(error: Exception, endpoint: str) -> str:
    """Why a download stopped, and what to do."""
    from huggingface_hub import constants

    code, cache, line = getattr(error, "errno", None), constants.HF_HUB_CACHE, first_line(error)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of the cache {cache} is full ({line}); free some space, or set HF_HUB_CACHE"
    if code is not None:
        return f"the cache {cache} cannot be used ({line}); fix it, or set HF_HUB_CACHE"
    return f"the connection to the Hub {endpoint} was interrupted ({line}); wait, or check the network"


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
