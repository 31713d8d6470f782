"""Connect to a Ray cluster, and determine the resources of each worker."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from wav2lip_npu.devices.device import BACKENDS, HOST, NPU, cpu_count
from wav2lip_npu.errors import DeviceError

log = logging.getLogger(__name__)

SAME_VERSIONS = (
    "Its nodes need the same versions of Python, ray and wav2lip-npu as this machine; "
    "set RAY_AUTH_MODE=token if the cluster requires a token."
)
_RESOURCES = dict(zip(BACKENDS, ("NPU", "GPU", "CPU"), strict=True))
"""Ray's resource names of the device types."""
_CONNECT_S = 5.0
"""Timeout of a connection. Ray itself retries a closed port for 15 minutes."""
_OBJECT_STORE_BYTES = 100 << 20
"""Shared memory of a local Ray. It holds only jobs and results; Ray's default is 30 % of memory."""


class Slot(NamedTuple):
    """Device and resources of one worker."""

    name: str
    """Unique in the cluster."""
    device: str
    """Device name inside the worker."""
    demands: dict[str, Any]
    """Ray options of the actor."""


@contextlib.contextmanager
def connected(ray: Any, address: str) -> Iterator[None]:
    """Connect to a cluster, or start a local Ray that ends with the block; see `ray_pool.run_on_ray`."""
    if ray.is_initialized():
        yield
        return
    target = _resolved(address)
    # Regardless of its logging options, Ray prints deaths of actors to stdout, which may carry JSON.
    ray._private.worker._worker_logs_enabled = False
    options: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    if target == "local":
        log.info("this machine is not in a Ray cluster: starting a local Ray")
        options |= {
            "num_cpus": cpu_count(),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    try:
        try:
            with _sigterm_kept():
                # Ray sends the user's token only to an address that it has resolved itself.
                ray.init(None if address == "auto" and target != "local" else target, **options)
        except Exception as error:
            cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DeviceError(f"cannot use Ray at {target} ({cause}). {SAME_VERSIONS}") from error
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Restore the SIGTERM handler, which `ray.init` replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _resolved(address: str) -> str:
    """Return the address of the cluster; `local` if there is none for `auto`.

    Ray's own `auto` would also use the local Ray of another program, and stop together with it.

    Raises:
        DeviceError: The address does not answer.

    """
    target = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if target == "auto":
        recorded = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray", "ray_current_cluster")
        target = recorded.read_text().strip() if recorded.is_file() else "local"
        if target != "local" and not _answers(target):
            log.warning("the Ray cluster of this machine at %s no longer exists", target)
            return "local"
    if target != "local" and not _answers(target):
        raise DeviceError(
            f"no Ray cluster answers at {target!r}. Pass --cluster HOST:PORT of a cluster, or --cluster auto."
        )
    return target


def _answers(address: str) -> bool:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def worker_slots(ray: Any, devices: Sequence[str] | None) -> list[Slot]:
    """Return one slot per worker; see `ray_pool.run_on_ray`.

    Raises:
        DeviceError: A device is unknown, or the cluster has no such device.

    """
    resources = ray.cluster_resources()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    best = next((kind for kind, resource in _RESOURCES.items() if resources.get(resource)), HOST)
    if devices is None:
        devices = [best] * max(1, len(nodes) if best == HOST else int(resources[_RESOURCES[best]]))
    kinds = [best if device == "auto" else device.partition(":")[0] for device in devices]
    for device, kind in zip(devices, kinds, strict=True):
        if kind not in _RESOURCES:
            raise DeviceError(f"unknown device {device!r}. Pass auto or one of {', '.join(_RESOURCES)}.")
        if not resources.get(_RESOURCES[kind]):
            present = [other for other in _RESOURCES if resources.get(_RESOURCES[other])]
            raise DeviceError(f"the Ray cluster has no {kind}. Pass one of {', '.join(present)}.")
    cores = _core_demands(nodes, kinds.count(HOST))
    return [
        Slot(f"{kind}:{number}", *((kind, next(cores)) if kind == HOST else (f"{kind}:0", _one_card(kind))))
        for number, kind in enumerate(kinds)
    ]


def _one_card(kind: str) -> dict[str, Any]:
    """Return the demands of a worker on a card: no cores, whose lack could leave the card idle."""
    return {"num_cpus": 0} | ({"resources": {_RESOURCES[kind]: 1}} if kind == NPU else {"num_gpus": 1})


def _core_demands(nodes: list[dict[str, Any]], workers: int) -> Iterator[dict[str, Any]]:
    """Yield demands that spread CPU workers over the nodes; workers on the same node share its cores."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    for number, node in zip(range(workers), cycle(nodes), strict=False):
        sharers = len(range(number % len(nodes), workers, len(nodes)))
        share = node["Resources"]["CPU"] / sharers
        yield {
            "num_cpus": int(share) if share >= 1 else int(share * 1000) / 1000,  # Ray may round up
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=True),
        }
