"""Where a model's files are: a local folder, the cache of huggingface_hub, or the hub."""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError
from deberta_jax.files import read_json
from deberta_jax.hub.tensors import WEIGHTS

CONFIGS = ("config.json", "model_config.json")
TOKENIZERS = (
    *("spm.model", "vocab.json", "merges.txt", "bpe_encoder.bin", "tokenizer.json"),
    *("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"),
)
GENERATOR = "pytorch_model.generator.bin"
_log = logging.getLogger(__name__)


def resolve(
    name: str | Path, *, revision: str | None = None, token: str | None = None, generator: bool = False
) -> Path:
    """The folder that holds a model: a local one as it is, or what the hub has by this id, in the usual cache.

    From the hub come the config, the tokenizer and one kind of weights, safetensors before `.bin`; `generator` asks for
    Microsoft's generator besides. Large files are checked against the sha256 that the hub lists, and an interrupted
    download goes on where it stopped. A hub that does not answer is replaced by the cache, with a warning, where that
    holds all of `revision` (a branch, a tag or a commit; `main` by default). `HF_ENDPOINT`, `HF_HUB_OFFLINE` and
    `HF_TOKEN` count as they are at the call.

    Raises `InputError`, one line with what to do: no such folder, repository or revision; no DeBERTa in it; a token
    that does not open it; a hub that does not answer or breaks off; a full disk; a file that is not the one listed.
    """
    name = os.fspath(name)
    if name and Path(name).is_dir():
        if revision is not None:
            raise InputError(
                f"{name}: a local folder has no revision {revision}; leave it out, or name a model of the hub"
            )
        return Path(name)
    if not re.fullmatch(r"[^./~\\:][^/\\:]*(/[^/\\:]+)?", name) or Path(name).exists():
        raise InputError(f"{name!r}: no such folder; name a model's folder, or a model of the hub as owner/name")

    from huggingface_hub import HfApi, constants

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES or constants.HF_HUB_OFFLINE
    with _told(name, revision, endpoint):
        try:
            if offline:
                raise ConnectionError("HF_HUB_OFFLINE is set")
            api = HfApi(endpoint=endpoint, token=token)
            timeout = constants.HF_HUB_ETAG_TIMEOUT
            info = api.model_info(name, revision=revision, files_metadata=True, timeout=timeout)
        except Exception as error:
            if not _is_away(error):
                raise
            folder = _cached(name, revision, generator)
            if folder is None:
                what = f"{name}{f' at {revision}' if revision else ''}"
                raise InputError(
                    f"{what}: no such folder here, not whole in the cache {constants.HF_HUB_CACHE}, and the hub "
                    f"{endpoint} is not reached ({_first_line(error)}); go online, or name a folder"
                ) from None
            if not offline:
                _log.warning("%s: the hub %s is not reached, so the cache is used: %s", name, endpoint, folder)
            return folder
        siblings = info.siblings or ()
        large = {file.rfilename: (file.lfs.sha256, file.lfs.size) if file.lfs else None for file in siblings}
        return _fetched(name, revision, token, generator, endpoint, str(info.sha), large)


def _fetched(
    name: str,
    revision: str | None,
    token: str | None,
    generator: bool,
    endpoint: str,
    commit: str,
    large: dict[str, tuple[str, int] | None],
) -> Path:
    """Bring what is wanted of a repository's files, those that are large with their sha256 and size, into the cache.

    The weights come last: a snapshot that has them is whole.
    """
    from huggingface_hub import hf_hub_download, hf_hub_url, snapshot_download

    def fetch_large(file: str) -> None:
        described = large[file]
        if described is not None:
            url = hf_hub_url(name, file, revision=commit, endpoint=endpoint)
            _fetch_large(name, file, url, token, commit, *described)

    weights = next((file for file in WEIGHTS if file in large), None)
    if weights is None or not large.keys() & set(CONFIGS):
        raise InputError(f"{name}: no DeBERTa on the hub: {CONFIGS[0]}, and {WEIGHTS[0]} or {WEIGHTS[2]} are wanted")
    if generator and GENERATOR not in large:
        raise InputError(f"{name}: has no {GENERATOR} on the hub; load it without its generator")
    first = [file for file in (*CONFIGS, *TOKENIZERS, weights) if file in large and file not in WEIGHTS[::2]]
    for file in first:
        fetch_large(file)
    folder = Path(snapshot_download(name, revision=revision, allow_patterns=first, token=token, endpoint=endpoint))
    if CONFIGS[0] in large:
        DebertaConfig.from_file(folder / CONFIGS[0])
    for file in (*_shards(folder, weights), *[GENERATOR] * generator):
        if file not in large:
            raise InputError(f"{name}: {weights} names {file}, which the hub does not have; tell the model's owner")
        fetch_large(file)
        hf_hub_download(name, file, revision=folder.name, token=token, endpoint=endpoint)
    return folder


def _fetch_large(name: str, file: str, url: str, token: str | None, commit: str, sha256: str, size: int) -> None:
    """Bring a file's content into the cache, on from what is there (short of the last 10 MB, as they are written).

    huggingface_hub itself begins an interrupted file anew since 1.18.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    cache, repository = Path(constants.HF_HUB_CACHE).expanduser(), repo_folder_name(repo_id=name, repo_type="model")
    blob = cache / repository / "blobs" / sha256
    partial = blob.with_name(f"{sha256}.partial")
    # As huggingface_hub names it: other programs that fetch the same wait too.
    lock = cache / ".locks" / repository / f"{sha256}.lock"
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists() or (cache / repository / "snapshots" / commit / file).exists():
            return
        with partial.open("ab") as out:
            if out.tell() > size:
                out.truncate(0)
                out.seek(0)
            left, free = size - out.tell(), shutil.disk_usage(blob.parent).free
            if left > free:
                # The system would say so too, hours later.
                raise OSError(errno.ENOSPC, f"{left:,} bytes of {file} are to come, {free:,} are free")
            headers = build_hf_headers(token=token)
            http_get(url, out, resume_size=out.tell(), headers=headers, expected_size=size, displayed_filename=file)
        with partial.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != sha256:
            partial.unlink()
            raise InputError(
                f"{name}: {file} came with sha256 {found[:12]}…, the hub lists {sha256[:12]}…; it is thrown away: try "
                "again, and look for a proxy that changes it if that does not help"
            )
        os.replace(partial, blob)


def _cached(name: str, revision: str | None, generator: bool) -> Path | None:
    """The folder in the cache, if all that is wanted is in it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = [*CONFIGS, *TOKENIZERS]
    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=wanted))
    except LocalEntryNotFoundError:
        return None
    files = {path.name for path in folder.iterdir() if path.is_file()}
    weights = next((file for file in WEIGHTS if file in files), None)
    if weights is None or not files & set(CONFIGS):
        return None
    return folder if files.issuperset([*_shards(folder, weights), *[GENERATOR] * generator]) else None


def _shards(folder: Path, weights: str) -> Collection[str]:
    """The files that hold the weights, as an index lists them; the file itself where it is none."""
    if weights in WEIGHTS[::2]:
        return [weights]
    shards = read_json(folder / weights).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise InputError(f"{folder / weights}: a weight_map from parameter to file is wanted")
    return sorted(set(shards.values()))


def _is_away(error: Exception) -> bool:
    """Whether it is for want of the hub, not of what was asked of it; a portal's page is no JSON."""
    from huggingface_hub.errors import HTTPError

    if isinstance(error, json.JSONDecodeError):
        return True
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 503)
    return isinstance(error, (HTTPError, OSError)) and (status == 429 or status >= 500)


@contextmanager
def _told(name: str, revision: str | None, endpoint: str) -> Generator[None, None, None]:
    """Turn what huggingface_hub raises into one line."""
    from huggingface_hub import constants, errors

    login = "give its token, set HF_TOKEN or log in (`hf auth login`)"
    try:
        yield
    except errors.GatedRepoError:
        raise InputError(f"{name}: gated; accept its terms at {endpoint}/{name}, then {login}") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{name}: no such folder here and no such model on the hub; mind the spelling, and if it is private {login}"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{name}: no revision {revision} on the hub; name a branch, a tag or a whole commit") from None
    except errors.HFValidationError as error:
        raise InputError(f"{name}: no such folder, and no name of a model on the hub: {_first_line(error)}") from None
    except (errors.HTTPError, errors.EntryNotFoundError, OSError) as error:
        code, status = getattr(error, "errno", None), getattr(getattr(error, "response", None), "status_code", 503)
        cache, line = constants.HF_HUB_CACHE, _first_line(error)
        if code in (errno.ENOSPC, errno.EDQUOT):
            why = f"the disk of the cache {cache} is full ({line}); free some, or set HF_HUB_CACHE"
        elif code is not None:
            why = f"the cache {cache} cannot be used ({line}); mend it, or set HF_HUB_CACHE"
        elif status < 500:
            raise InputError(f"{name}: the hub {endpoint} refuses ({line}); {login}, or mend HF_ENDPOINT") from None
        else:
            why = f"the hub {endpoint} broke off ({line}); wait, or look after the network"
        raise InputError(f"{name}: {why}; the same call again goes on where it stopped") from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
