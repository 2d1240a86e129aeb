"""Upload a model folder to the Hugging Face Hub, after a check of the token and of its rights."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deberta_jax.errors import InputError, list_names
from deberta_jax.files import read_json
from deberta_jax.hub.download_errors import Repository, check_endpoint, first_line, is_unreachable
from deberta_jax.hub.endpoint import hub_endpoint, is_offline
from deberta_jax.hub.repository_files import CONFIG_FILES, model_files, weight_shards
from deberta_jax.hub.sentence_modules import read_modules
from deberta_jax.tokenizers.formats import TOKENIZER_CONFIG

CARD = "README.md"
_NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
# Keys of the JSON files that name the folder a model was loaded from.
_FOLDER_KEYS = "_name_or_path", "name_or_path"


def check_upload(name: str) -> None:
    """Raise InputError, one line, unless the token of the user may write to the repository `name` (owner/name).

    Nothing is created on the Hub. `HF_ENDPOINT`, `HF_HUB_OFFLINE` and `HF_TOKEN` are read at each call.
    """
    if not re.fullmatch(_NAME, name):
        raise InputError(f"{name!r} is not a repository of the Hub; write owner/name")
    if is_offline():
        raise InputError(f"{name}: cannot upload while HF_HUB_OFFLINE is set; unset it, or omit the upload")
    from huggingface_hub import HfApi, get_token

    endpoint = hub_endpoint()
    if get_token() is None:
        raise InputError(f"{name}: no token of the Hub; set HF_TOKEN, or log in with `hf auth login`")
    check_endpoint(Repository(name, None, None, endpoint))
    try:
        user = HfApi(endpoint=endpoint).whoami()
    except Exception as error:
        if is_unreachable(error):
            what = f"the Hub {endpoint} cannot be reached ({first_line(error)}); go online, or omit the upload"
        else:
            what = f"the Hub {endpoint} refused the token ({first_line(error)}); set another HF_TOKEN"
        raise InputError(f"{name}: {what}") from None
    _check_rights(name, user, endpoint)


def _check_rights(name: str, user: Mapping[str, Any], endpoint: str) -> None:
    """Raise InputError unless a user, as the Hub describes it, may write to a repository with its token."""
    owner = name.partition("/")[0]
    roles = {str(each.get("name")): each.get("roleInOrg") for each in user.get("orgs") or ()}
    owners = [str(user.get("name")), *(each for each, role in roles.items() if role != "read")]
    if owner not in owners:
        raise InputError(
            f"{name}: your token cannot write for {owner}, only for {list_names(owners)}; correct the name"
        )
    token = (user.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read" or not _has_scope(token, {owner, name}):
        raise InputError(
            f"{name}: your token can read, but not write; create one with the role write at {endpoint}/settings/tokens"
        )


def _has_scope(token: Mapping[str, Any], entities: set[str]) -> bool:
    """Whether a token may write to one of these owners or repositories; only fine-grained tokens have scopes."""
    if token.get("role") != "fineGrained":
        return True
    scopes: Iterable[Mapping[str, Any]] = (token.get("fineGrained") or {}).get("scoped") or ()
    return any(
        (scope.get("entity") or {}).get("name") in entities and "repo.write" in (scope.get("permissions") or ())
        for scope in scopes
    )


def upload_folder(folder: Path, name: str, *, public: bool = False) -> str:
    """Upload the model, the tokenizer and the model card of a folder in one commit; returns the address.

    A new repository is private unless it is `public`; an existing one stays as it is. No other files of the folder are
    uploaded, and the JSON files without the paths of this machine. Raises InputError if the upload fails; the folder is
    not changed.
    """
    files = upload_files(folder)
    from huggingface_hub import CommitOperationAdd, HfApi

    endpoint = hub_endpoint()
    check_endpoint(Repository(name, None, None, endpoint))
    api = HfApi(endpoint=endpoint)
    operations = [CommitOperationAdd(file, _content(folder / file)) for file in files]
    try:
        api.create_repo(name, private=not public, exist_ok=True)
        api.create_commit(name, operations, commit_message="Upload a model of deberta-jax")
    except Exception as error:
        # The clients of the two kinds of storage raise errors of their own.
        again = f"deberta-jax upload {folder} {name}" + (" --public" if public else "")
        where = f"the upload to {name} on the Hub {endpoint} failed"
        raise InputError(f"{folder}: {where} ({first_line(error)}); the folder is complete: `{again}`") from error
    return f"{endpoint}/{name}"


def upload_files(folder: Path) -> list[str]:
    """The files of a model folder that are uploaded; raises InputError if it is not a complete model folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name a model folder")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    selected = model_files(files, read_modules(folder))
    if selected.weights is None or selected.config is None:
        inner = folder / "model"
        hint = f"; name {inner}" if (inner / CONFIG_FILES[0]).is_file() else ""
        raise InputError(f"{folder}: not a model folder with {CONFIG_FILES[0]} and weights{hint}")
    shards = weight_shards(folder, selected.weights)
    if missing := [shard for shard in shards if shard not in files]:
        raise InputError(f"{folder}: {selected.weights} refers to {list_names(missing)}; restore the missing files")
    card = [CARD] * (CARD in files)
    return list(dict.fromkeys([*card, *selected.others, *shards, selected.weights]))


def _content(path: Path) -> str | bytes:
    """The file to upload; of a config its content, without local paths."""
    if path.name not in (*CONFIG_FILES, TOKENIZER_CONFIG):
        return str(path)
    values = {
        key: value for key, value in read_json(path).items() if key not in _FOLDER_KEYS and not _is_local_path(value)
    }
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _is_local_path(value: Any) -> bool:
    return isinstance(value, str) and re.match(r"(/|~/|\\\\|[A-Za-z]:[/\\]).", value) is not None
