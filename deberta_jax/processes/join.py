"""Joining the processes of a run: one for each host of a TPU slice or a cluster, on JAX's distributed runtime.

The cluster's addresses are detected by `jax._src.clusters`, a private module of JAX, which is used in this file only.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from platform import python_version_tuple
from typing import Any

from deberta_jax.errors import InputError
from deberta_jax.processes.config import ProcessesConfig
from deberta_jax.processes.connection import listen, parse_address
from deberta_jax.processes.group import ProcessGroup

_PACKAGES = "deberta-jax", "jax", "jaxlib", "flax", "optax", "grain", "numpy"
# Settings of JAX that change what a program computes.
_VARIABLES = "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_DEFAULT_PRNG_IMPL"
# JAX notices a dead process itself, and aborts; the group notices it earlier.
_JAX_TIMEOUTS = 10

# The errors of collectives and of JAX's coordinator, which the death of another process causes too.
_RUNTIME_ERRORS = "JaxRuntimeError", "XlaRuntimeError"

_group: ProcessGroup | None = None


@dataclasses.dataclass(frozen=True)
class Membership:
    """This process's place in a run; without `local_devices` it uses all devices of its host."""

    address: str
    count: int
    index: int
    local_devices: Sequence[int] | None = None


def current_group() -> ProcessGroup | None:
    """The group that this process has joined."""
    return _group


def join(config: ProcessesConfig, settings: Mapping[str, Any]) -> None:
    """Wait for the other processes, compare `settings` with them, and start JAX's distributed runtime.

    Call this before any other function of JAX. Raises InputError if settings or versions of packages differ, and
    PeerError if a process does not appear.
    """
    if not config.join:
        return
    member = _membership(config)
    group = join_group(config, member)
    group.meet()
    group.agree({**settings, **_versions()})
    address = group.from_first(lambda: _free_address(member.address))
    import jax

    try:
        jax.distributed.initialize(
            address["address"],
            member.count,
            member.index,
            local_device_ids=member.local_devices,
            cluster_detection_method="deactivate",
            coordinator_bind_address=address["bind"],
            initialization_timeout=int(config.timeout),
            heartbeat_timeout_seconds=int(_JAX_TIMEOUTS * config.timeout),
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"processes: cannot join the other processes: {reason}") from error


def join_group(config: ProcessesConfig, member: Membership | None = None) -> ProcessGroup:
    """The group of this process, not connected yet."""
    global _group
    if _group is not None:
        raise InputError("processes: this process has joined a run already; start another process")
    member = member or _membership(config)
    _group = ProcessGroup(member.index, member.count, member.address, config.timeout)
    return _group


def option_values(config: Any) -> dict[str, Any]:
    """The options of a command and their values, without those of its processes, to compare between processes."""
    values: dict[str, Any] = {}

    def flatten(fields: Mapping[str, Any], prefix: str) -> None:
        for name, value in fields.items():
            if isinstance(value, Mapping):
                # The options of training, techniques and an upload have no prefix.
                prefixed = name not in ("training", "techniques", "upload")
                flatten(value, f"{prefix}{name}." if prefixed else prefix)
            else:
                values[f"--{prefix}{name}".replace("_", "-")] = str(value)

    flatten({name: value for name, value in dataclasses.asdict(config).items() if name != "processes"}, "")
    return values


def leave_group() -> None:
    """Wait until all processes of the run are complete; nothing for one process."""
    if group := current_group():
        group.leave()


def end_group(error: BaseException, message: str, code: int, config: ProcessesConfig | None) -> bool:
    """Tell the other processes that this one failed; True in a run of several, which then exits with `exit_process`.

    A process that fails before it has joined the run, for its options, joins it to say so: `config` describes it. If
    another process is the reason of the error, this process ends here, with that reason.
    """
    group = current_group() or (_late_group(config) if config else None)
    if group is None:
        return False
    group.fail(message, code, suspected=is_suspected(error))
    return True


def _late_group(config: ProcessesConfig) -> ProcessGroup | None:
    if not config.join:
        return None
    try:
        group = join_group(config)
        group.connect()
    except Exception:
        # The error of the options is the one to report.
        return None
    return group


def is_suspected(error: BaseException | None) -> bool:
    """Whether another process may have caused an error: JAX's runtime raised it, and memory was not the reason."""
    while error is not None:
        if type(error).__name__ in _RUNTIME_ERRORS:
            return "RESOURCE_EXHAUSTED" not in str(error)
        error = error.__cause__ or error.__context__
    return False


def _membership(config: ProcessesConfig) -> Membership:
    if config.coordinator is not None and config.count is not None and config.index is not None:
        return Membership(config.coordinator, config.count, config.index)
    from jax._src import clusters

    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
    address, count, index, devices = detect(None, None, None, None, None, int(config.timeout))
    if address is None or count is None or index is None:
        raise InputError(
            "processes.join: no cluster detected (Cloud TPU, Slurm, Open MPI, Kubernetes); add "
            "--processes.coordinator, --processes.count and --processes.index"
        )
    # JAX reads this variable itself.
    return Membership(address, count, index, None if "JAX_LOCAL_DEVICE_IDS" in os.environ else devices)


def _versions() -> dict[str, str]:
    """What else must be the same in all processes."""
    packages = {f"the version of {name}": version(name) for name in _PACKAGES}
    variables = {f"the variable {name}": os.environ.get(name, "unset") for name in _VARIABLES}
    return packages | variables | {"the version of Python": ".".join(python_version_tuple()[:2])}


def _free_address(address: str) -> dict[str, str]:
    """An address with a free port on the same host, and what to bind to it, for JAX's own coordinator."""
    host, _ = parse_address(address)
    host = f"[{host}]" if ":" in host else host
    with closing(listen(f"{host}:0")) as listener:
        bound, port = listener.getsockname()[:2]
    return {"address": f"{host}:{port}", "bind": f"[{bound}]:{port}" if ":" in bound else f"{bound}:{port}"}
