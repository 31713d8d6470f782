"""Weights on disk: reads every published form of Wav2Lip weights, never runs what a file contains.

Read are the original's dict (`state_dict`, `optimizer`, `global_step`, `global_epoch`), a bare state
dict, both with or without a `module.` prefix and in PyTorch's zip or legacy format, TorchScript
archives, and safetensors.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wav2lip_npu.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

_KEY_ONLY_IN = {
    "generator": "output_block.1.weight",
    "expert": "face_encoder.0.conv_block.0.weight",
    "discriminator": "binary_pred.0.weight",
    "S3FD face detector": "conv3_3_norm.weight",
}
_NAMES = {"generator": "Wav2Lip generator", "expert": "SyncNet expert", "discriminator": "quality discriminator"}


@dataclass(frozen=True)
class Checkpoint:
    """Weights of one network, on the CPU."""

    kind: str
    """`generator`, `expert` or `discriminator`."""
    weights: dict[str, Tensor]
    width: int
    """Channel scale of the network, 32 for the published ones."""
    training: dict[str, Any] | None
    """What the file holds beside the weights: `optimizer`, `global_step`, ..."""
    source: Path

    def network(self) -> nn.Module:
        """The network with these weights, in eval mode, float32."""
        import torch

        from wav2lip_npu.models import NETWORKS

        with torch.device("meta"):
            network = NETWORKS[self.kind](self.width)
        network.load_state_dict(self.weights, assign=True)
        return network.float().eval()

    def digest(self) -> str:
        """First 12 hex digits of the file's SHA-256: which weights made a video."""
        sha = hashlib.sha256()
        with self.source.open("rb") as file:
            while chunk := file.read(1 << 20):
                sha.update(chunk)
        return sha.hexdigest()[:12]


def load(path: str | os.PathLike[str], kind: str) -> Checkpoint:
    """The checkpoint of a `generator`, `expert` or `discriminator`.

    Raises `CheckpointError` when the file is missing, damaged, something else, or of another network.
    """
    source = Path(path)
    content = _read(source)
    training = None
    weights = content
    if isinstance(content.get("state_dict"), dict):
        weights = content["state_dict"]
        training = {key: value for key, value in content.items() if key != "state_dict"}
    weights = {key.replace("module.", ""): value for key, value in _tensors(weights, source).items()}
    width = _check(weights, kind, source)
    return Checkpoint(kind, weights, width, training, source)


def load_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """A bare state dict on the CPU. Raises `CheckpointError` as `load` does."""
    source = Path(path)
    return _tensors(_read(source), source)


def save(path: str | os.PathLike[str], network: nn.Module, training: dict[str, Any] | None = None) -> None:
    """Write a checkpoint that the original's code reads too: CPU tensors, replaced only when whole."""
    import torch

    target = Path(path)
    part = target.with_name(target.name + ".part")
    weights = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    content = {"optimizer": None, "global_step": 0, "global_epoch": 0, **(training or {}), "state_dict": weights}
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.save(content, part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _tensors(content: dict[str, Any], source: Path) -> dict[str, Tensor]:
    import torch

    tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        found = ", ".join(sorted(map(str, content))[:5]) or "nothing"
        raise CheckpointError(f"{source} holds no weights; found: {found}. Pass a file with a state dict.")
    return tensors


def _read(source: Path) -> dict[str, Any]:
    """The dict inside a weights file of any known form; tells what another file is."""
    try:
        with source.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"cannot read weights {source}: {error.strerror}. Check --checkpoint_path.") from None
    _refuse_impostors(source, head)
    if head[:4] == b"PK\x03\x04":
        return _read_zip(source)
    if head[8:9] == b"{":
        return _read_safetensors(source)
    if head[:1] == b"\x80":
        return _read_torch(source, mmap=False)
    raise CheckpointError(
        f"{source} is not a weights file (it starts with {head[:8]!r}). "
        "Pass a .pth, .pt or .safetensors file of a Wav2Lip network."
    )


def _refuse_impostors(source: Path, head: bytes) -> None:
    start = head.lstrip().lower()
    if not head:
        raise CheckpointError(f"{source} is empty. Download it again.")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{source} is a Git LFS pointer, not the weights. Run 'git lfs pull' where it is from.")
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise CheckpointError(
            f"{source} is an HTML page: the page of the download was saved instead of the weights. "
            "Open the link in a browser and save the file itself."
        )


def _truncated(source: Path) -> CheckpointError:
    size = source.stat().st_size
    return CheckpointError(f"{source} ends too early at {size:,} bytes: a truncated download. Download it again.")


def _read_zip(source: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        raise _truncated(source) from None
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(f"{source} is a zip archive without PyTorch weights. Unpack it and pass the .pth inside.")
    if any(name.endswith("/constants.pkl") for name in names):
        return _read_torchscript(source)
    return _read_torch(source, mmap=True)


def _read_torch(source: Path, *, mmap: bool) -> dict[str, Any]:
    import torch

    try:
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is None:
            raise CheckpointError(f"{source} is damaged: {_first_line(error)}. Download it again.") from None
        raise CheckpointError(
            f"{source} contains code ({code[1]}) and was not opened. "
            "Pass a file that holds nothing but tensors and numbers."
        ) from None
    except (EOFError, RuntimeError, ValueError, KeyError, IndexError, OSError) as error:
        if isinstance(error, EOFError) or "unexpected" in str(error) or "PytorchStreamReader" in str(error):
            raise _truncated(source) from None
        raise CheckpointError(f"{source} is damaged: {_first_line(error)}. Download it again.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{source} holds a {type(content).__name__}, not a dict of weights.")
    return content


def _read_torchscript(source: Path) -> dict[str, Any]:
    import torch

    try:
        return dict(torch.jit.load(str(source), map_location="cpu").state_dict())
    except RuntimeError as error:
        raise CheckpointError(f"{source} is a damaged TorchScript archive: {_first_line(error)}.") from None


def _read_safetensors(source: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(source))
    except (SafetensorError, ValueError) as error:
        if "incomplete" in str(error).lower():
            raise _truncated(source) from None
        raise CheckpointError(f"{source} is a damaged safetensors file: {_first_line(error)}.") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _check(weights: dict[str, Tensor], kind: str, source: Path) -> int:
    """Width of the network; raises when the weights are not exactly those of `kind`."""
    import torch

    from wav2lip_npu.models import FULL_WIDTH, NETWORKS

    wanted = _NAMES[kind]
    found = next((name for name, key in _KEY_ONLY_IN.items() if key in weights), None)
    if found != kind:
        what = f"a {_NAMES.get(found, found)}" if found else "an unknown network"
        raise CheckpointError(f"{source} holds {what}, but a {wanted} is wanted. Pass the {kind}'s file.")
    first = "face_encoder.0.conv_block.0.weight" if kind == "expert" else "face_encoder_blocks.0.0.conv_block.0.weight"
    full = 16 if kind == "generator" else 32
    width = len(weights[first]) * FULL_WIDTH // full if first in weights and weights[first].dim() else 0
    if not 2 <= width <= 8 * FULL_WIDTH or width % 2:
        raise CheckpointError(f"{source} is no {wanted} that this version knows: its first layer does not fit.")
    with torch.device("meta"):
        expected = {key: value.shape for key, value in NETWORKS[kind](width).state_dict().items()}
    shapes = {key: value.shape for key, value in weights.items()}
    if shapes != expected:
        odd = sorted(key for key in expected.keys() | shapes.keys() if expected.get(key) != shapes.get(key))
        raise CheckpointError(
            f"{source} is a {wanted} of another design: {len(odd)} of its tensors do not fit, first {odd[0]!r}. "
            "This version runs 96 px networks."
        )
    broken = [key for key, value in weights.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise CheckpointError(f"{source} holds NaN or infinite weights, first in {broken[0]!r}: a diverged training.")
    return width
