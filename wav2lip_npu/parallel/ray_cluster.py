"""A Ray cluster: which one it is, and what it has for each worker."""

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

from wav2lip_npu.device import BACKENDS, HOST, NPU, cpu_count
from wav2lip_npu.errors import DeviceError

log = logging.getLogger(__name__)

SAME = (
    "Its nodes need the Python, ray and wav2lip-npu of this machine; "
    "set RAY_AUTH_MODE=token if they ask for a token."
)
_RESOURCES = dict(zip(BACKENDS, ("NPU", "GPU", "CPU"), strict=True))
"""What Ray calls each kind of device."""
_KNOCK_S = 5.0
"""Ray itself would knock at a port that nobody answers for a quarter of an hour."""
_STORE_BYTES = 100 << 20
"""Shared memory of a local Ray, which only messages go through; it would take a third of the machine's."""


class Place(NamedTuple):
    """Where a worker works: for the board, for itself, and what Ray is asked for."""

    name: str
    """No other has it: what one worker knows is why it is given this item rather than that."""
    device: str
    demands: dict[str, Any]


@contextlib.contextmanager
def connected(ray: Any, asked: str) -> Iterator[None]:
    """In the cluster at an address, or in a local Ray that ends afterwards; see `cluster.work_on_ray`."""
    if ray.is_initialized():
        yield
        return
    address = _found(asked)
    # It would print the deaths of actors on stdout, whatever it is asked for here.
    ray._private.worker._worker_logs_enabled = False
    options: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    if address == "local":
        log.info("this machine is in no Ray cluster: a local Ray is started.")
        options |= {"num_cpus": cpu_count(), "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    try:
        try:
            with _own_sigterm():
                # Only when it finds the address by itself does Ray show the token of this user.
                ray.init(None if asked == "auto" and address != "local" else address, **options)
        except Exception as error:
            what = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DeviceError(f"Ray at {address} cannot be used ({what}). {SAME}") from error
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what SIGTERM does here: Ray puts in something of its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _found(asked: str) -> str:
    """Where the cluster is; `local` for `auto` when there is none. Raises `DeviceError` when it is silent.

    Ray's own `auto` would also take the local Ray of another program, and die with it.
    """
    address = os.environ.get("RAY_ADDRESS", asked) if asked == "auto" else asked
    if address == "auto":
        noted = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray", "ray_current_cluster")
        address = noted.read_text().strip() if noted.is_file() else "local"
        if address != "local" and not _answers(address):
            log.warning("the Ray cluster at %s, where this machine belonged, is gone.", address)
            return "local"
    if address != "local" and not _answers(address):
        raise DeviceError(
            f"no Ray cluster answers at {address!r}. Pass --cluster HOST:PORT of one, or --cluster auto."
        )
    return address


def _answers(address: str) -> bool:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def places_of(ray: Any, devices: Sequence[str] | None) -> list[Place]:
    """One place for each worker. Raises `DeviceError` when the cluster lacks a device."""
    has = ray.cluster_resources()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    best = next((kind for kind, resource in _RESOURCES.items() if has.get(resource)), HOST)
    if devices is None:
        devices = [best] * max(1, len(nodes) if best == HOST else int(has[_RESOURCES[best]]))
    kinds = [best if word == "auto" else word.partition(":")[0] for word in devices]
    for word, kind in zip(devices, kinds, strict=True):
        if kind not in _RESOURCES:
            raise DeviceError(f"unknown device {word!r}. Pass auto or one of {', '.join(_RESOURCES)}.")
        if not has.get(_RESOURCES[kind]):
            there = [other for other in _RESOURCES if has.get(_RESOURCES[other])]
            raise DeviceError(f"the Ray cluster has no {kind}. Pass what it has: {', '.join(there)}.")
    cores = _cores(nodes, kinds.count(HOST))
    return [
        Place(f"{kind}:{number}", *((kind, next(cores)) if kind == HOST else (f"{kind}:0", _one(kind))))
        for number, kind in enumerate(kinds)
    ]


def _one(kind: str) -> dict[str, Any]:
    """What to ask for to get one NPU or GPU; no cores, or it could lie idle for want of them."""
    return {"num_cpus": 0} | ({"resources": {_RESOURCES[kind]: 1}} if kind == NPU else {"num_gpus": 1})


def _cores(nodes: list[dict[str, Any]], workers: int) -> Iterator[dict[str, Any]]:
    """What to ask for so that workers spread over the nodes and those of one node share its cores."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    for number, node in zip(range(workers), cycle(nodes), strict=False):
        sharers = len(range(number % len(nodes), workers, len(nodes)))
        share = node["Resources"]["CPU"] / sharers
        yield {
            "num_cpus": int(share) if share >= 1 else int(share * 1000) / 1000,  # Ray rounds, also up
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=True),
        }
