"""The folder of a model: a local one, one in the cache of huggingface_hub, or one downloaded from the Hub."""

import errno
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from deberta_jax.config import DebertaConfig
from deberta_jax.errors import InputError, list_names, shorten
from deberta_jax.files import read_json
from deberta_jax.hub.download_errors import Repository, check_endpoint, first_line, is_unreachable, one_line_errors
from deberta_jax.hub.endpoint import hub_endpoint, is_offline
from deberta_jax.hub.foreign import check_application, check_model_type, other_weights
from deberta_jax.hub.repository_files import (
    CONFIG_FILES,
    TOKENIZER_FILES,
    is_single,
    model_files,
    required_files,
    weight_shards,
)
from deberta_jax.hub.sentence_modules import MODULES, Module, read_modules, transformer_folder
from deberta_jax.hub.tensors import WEIGHT_FILES
from deberta_jax.tokenizers.formats import FORMATS, has_tokenizer

# What is downloaded: everything, or one part of it.
Part = Literal["model", "config", "tokenizer"]
GENERATOR_FILE = "pytorch_model.generator.bin"
_log = logging.getLogger(__name__)


class GeneratorNotFound(InputError):
    """The model exists without a generator; `offline` if only the cache was searched."""

    def __init__(self, message: str, *, offline: bool):
        super().__init__(message)
        self.offline = offline


class _LargeFile(NamedTuple):
    """What the Hub lists for a file in its large file storage; `size` is in bytes."""

    sha256: str
    size: int


def resolve(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    generator: bool = False,
    part: Part = "model",
) -> Path:
    """The folder of a model: `name` itself if it is a folder, else the model of the Hub in the usual cache.

    The config, the tokenizer and one kind of weights are downloaded, safetensors if there are any, else `.bin`, and of
    a sentence-transformers model its other modules; `generator` adds the generator of a Microsoft model. With `part`
    "config" or "tokenizer", only that part is downloaded. Large files are checked against the sha256 that the Hub
    lists, and an interrupted download resumes. If the Hub cannot be reached, the cache is used, with a warning,
    provided that it contains all files of `revision` (a branch, a tag or a commit; `main` by default). `HF_ENDPOINT`,
    `HF_HUB_OFFLINE` and `HF_TOKEN` are read at each call.

    Raises `InputError`, one line with what to do: no such folder, repository or revision; not a DeBERTa; a token
    without access; a Hub that does not respond or interrupts the download; a full disk; a file with the wrong content.
    """
    name = os.fspath(name)
    if name and Path(name).is_dir():
        if revision is not None:
            raise InputError(f"{name}: a local folder has no revision {revision}; omit it, or name a model on the Hub")
        return _part_folder(Path(name), part)
    if not name.isprintable() or not re.fullmatch(r"[^./~\\:][^/\\:]*(/[^/\\:]+)?", name) or Path(name).exists():
        raise InputError(f"{name!r}: no such folder; name a model folder, or a model on the Hub as owner/name")

    repository = Repository(name, revision, token, hub_endpoint())
    if not is_offline():
        check_endpoint(repository)
    with one_line_errors(repository):
        try:
            commit, files = _list_files(repository)
        except Exception as error:
            if not is_unreachable(error):
                raise
            return _part_folder(_cached_folder(repository, generator, part, error), part)
        if part != "tokenizer":
            check_application(name, files.__contains__)
        if part != "model":
            return _part_folder(_download_part(repository, commit, files, part), part)
        return _download(repository, commit, files, generator)


def _part_folder(folder: Path, part: Part) -> Path:
    """The folder of a part of a model: that of the transformer, for the config and the tokenizer."""
    transformer = folder if part == "model" else transformer_folder(folder)
    return folder if part == "tokenizer" and not has_tokenizer(transformer) else transformer


def _list_files(repository: Repository) -> tuple[str, dict[str, _LargeFile | None]]:
    """The commit of a revision and its files; None for files that are not in the large file storage."""
    from huggingface_hub import HfApi, constants

    if is_offline():
        raise ConnectionError("HF_HUB_OFFLINE is set")
    info = HfApi(endpoint=repository.endpoint, token=repository.token).model_info(
        repository.name, revision=repository.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
    )
    siblings = info.siblings or ()
    files = {file.rfilename: _LargeFile(file.lfs.sha256, file.lfs.size) if file.lfs else None for file in siblings}
    # Digests and commits become names of files in the cache.
    digests = {file: listed.sha256 for file, listed in files.items() if listed}
    wrong = [file for file, digest in digests.items() if not re.fullmatch(r"[0-9a-f]{64}", str(digest))]
    if wrong or not re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", str(info.sha)):
        where = f"{repository.name}: the Hub {repository.endpoint}"
        what = f"a wrong sha256 for {list_names(wrong)}" if wrong else f"{shorten(repr(info.sha))} as the commit"
        raise InputError(f"{where} lists {what}; check HF_ENDPOINT, and whether a proxy changes the response")
    return str(info.sha), files


def _cached_folder(repository: Repository, generator: bool, part: Part, error: Exception) -> Path:
    """The folder in the cache, used instead of the Hub, which failed with `error`."""
    from huggingface_hub import constants

    name, revision, _, endpoint = repository
    folder = _find_in_cache(name, revision, generator, part)
    if folder is None:
        model = f"{name}{f' at {revision}' if revision else ''}"
        problem = (
            f"{model}: no such folder here, not complete in the cache {constants.HF_HUB_CACHE}, and the Hub {endpoint} "
            f"cannot be reached ({first_line(error)}); go online, or name a folder"
        )
        if generator and _find_in_cache(name, revision, False, part):
            raise GeneratorNotFound(problem, offline=True) from None
        raise InputError(problem) from None
    if not is_offline():
        _log.warning("%s: the Hub %s cannot be reached; using the cache %s", name, endpoint, folder)
    return folder


def _download(repository: Repository, commit: str, files: Mapping[str, _LargeFile | None], generator: bool) -> Path:
    """Download the required files into the cache; weights come last, so that a snapshot with weights is complete."""
    from huggingface_hub import hf_hub_download, snapshot_download

    name, revision, token, endpoint = repository
    selected = model_files(files, _modules(repository, files))
    weights = selected.weights
    if weights is None or not (selected.config or selected.is_adapter):
        expected = f"{CONFIG_FILES[0]}, and {' or '.join(WEIGHT_FILES[::2])}"
        other = other_weights(files) if weights is None else ""
        raise InputError(f"{name}: not a DeBERTa on the Hub; {other or f'expected {expected}'}")
    if generator and GENERATOR_FILE not in files:
        problem = f"{name}: the Hub has no {GENERATOR_FILE}; load the model without its generator"
        raise GeneratorNotFound(problem, offline=False)
    first = [*selected.others, *[weights] * (not is_single(weights))]
    for file in first:
        _download_large(repository, commit, file, files[file])
    folder = Path(snapshot_download(name, revision=revision, allow_patterns=first, token=token, endpoint=endpoint))
    if selected.config is not None and selected.config.endswith(CONFIG_FILES[0]):
        # Before the weights come: raises InputError for another kind of model.
        check_model_type(folder / selected.config, read_json(folder / selected.config))
        DebertaConfig.from_file(folder / selected.config)
    for file in (*weight_shards(folder, weights), *[GENERATOR_FILE] * generator):
        if file not in files:
            raise InputError(f"{name}: {weights} refers to {file}, which is not on the Hub; report it to the owner")
        _download_large(repository, commit, file, files[file])
        hf_hub_download(name, file, revision=folder.name, token=token, endpoint=endpoint)
    return folder


def _modules(repository: Repository, files: Collection[str]) -> list[Module]:
    """The modules of a sentence-transformers model, whose list is downloaded; none for another model."""
    from huggingface_hub import hf_hub_download

    if MODULES not in files:
        return []
    name, revision, token, endpoint = repository
    return read_modules(Path(hf_hub_download(name, MODULES, revision=revision, token=token, endpoint=endpoint)).parent)


def _download_part(repository: Repository, commit: str, files: Mapping[str, _LargeFile | None], part: Part) -> Path:
    """Download the config or the tokenizer; the files that identify it come last."""
    from huggingface_hub import hf_hub_download, snapshot_download

    name, revision, token, endpoint = repository
    required = required_files(files, part, _modules(repository, files))
    if not required:
        known = CONFIG_FILES if part == "config" else [each.names[0] for each in FORMATS.values()]
        raise InputError(f"{name}: no {part} on the Hub; expected one of {', '.join(known)}")
    prefix = required[-1].rpartition("/")[0]
    names = [f"{prefix}/{file}" if prefix else file for file in TOKENIZER_FILES]
    further = [file for file in names if part == "tokenizer" and file in files and file not in required]
    present = [*further, *(file for file in required if file in files)]
    for file in present:
        _download_large(repository, commit, file, files[file])
    folder = Path(
        snapshot_download(
            name, revision=revision, allow_patterns=present[:-1] or present, token=token, endpoint=endpoint
        )
    )
    hf_hub_download(name, present[-1], revision=commit, token=token, endpoint=endpoint)
    return folder


def _download_large(repository: Repository, commit: str, file: str, listed: _LargeFile | None) -> None:
    """Download the content of a large file into the cache, continuing after what an earlier call downloaded.

    huggingface_hub restarts an interrupted file from the beginning since 1.18. Up to 10 MB are downloaded again.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    if listed is None:
        return
    cache = Path(constants.HF_HUB_CACHE).expanduser()
    folder = repo_folder_name(repo_id=repository.name, repo_type="model")
    blob = cache / folder / "blobs" / listed.sha256
    partial = blob.with_name(f"{listed.sha256}.partial")
    # The lock that huggingface_hub uses: other programs that download the same file wait too.
    lock = cache / ".locks" / folder / f"{listed.sha256}.lock"
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists() or (cache / folder / "snapshots" / commit / file).exists():
            return
        with partial.open("ab") as out:
            if out.tell() > listed.size:
                out.truncate(0)
                out.seek(0)
            missing, free = listed.size - out.tell(), shutil.disk_usage(blob.parent).free
            if missing > free:
                # Without this check the same error would come hours later.
                raise OSError(errno.ENOSPC, f"{file} needs {missing:,} more bytes, {free:,} are free")
            url = hf_hub_url(repository.name, file, revision=commit, endpoint=repository.endpoint)
            headers, start = build_hf_headers(token=repository.token), out.tell()
            http_get(url, out, resume_size=start, headers=headers, expected_size=listed.size, displayed_filename=file)
        _check_sha256(repository.name, file, partial, listed.sha256)
        os.replace(partial, blob)


def _check_sha256(name: str, file: str, partial: Path, expected: str) -> None:
    """Delete a downloaded file and raise InputError unless its content is what the Hub lists."""
    with partial.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    if sha256 != expected:
        partial.unlink()
        raise InputError(
            f"{name}: {file} has sha256 {sha256[:12]}…, the Hub lists {expected[:12]}…; the download was deleted: try "
            "again, and if that does not help, check whether a proxy changes it"
        )


def _find_in_cache(name: str, revision: str | None, generator: bool, part: Part) -> Path | None:
    """The folder of a model in the cache, None unless all required files are in it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    # huggingface_hub checks that files of these names are complete; which others are required is checked here.
    patterns = {"model": (*CONFIG_FILES, *TOKENIZER_FILES), "config": (), "tokenizer": TOKENIZER_FILES}[part]
    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=list(patterns)))
    except LocalEntryNotFoundError:
        return None
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    modules = read_modules(folder)
    if part != "model":
        required = required_files(files, part, modules)
        return folder if required and files.issuperset(required) else None
    selected = model_files(files, modules)
    if selected.weights is None or not (selected.config or selected.is_adapter):
        return None
    required = [*weight_shards(folder, selected.weights), *[GENERATOR_FILE] * generator]
    return folder if files.issuperset(required) else None
