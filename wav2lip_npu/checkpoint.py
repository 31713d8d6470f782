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
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wav2lip_npu.atomic import replacing
from wav2lip_npu.errors import CheckpointError, OtherNetworkError
from wav2lip_npu.mel import DEFAULT_MEL
from wav2lip_npu.torchscript import read_torchscript

if TYPE_CHECKING:
    from torch import Tensor, nn

MORE = "wav2lip_npu"
"""Key of what checkpoints of ours hold beside what the original's have, which its code ignores."""
_KEY_ONLY_IN = {
    "generator": "output_block.1.weight",
    "expert": "face_encoder.0.conv_block.0.weight",
    "discriminator": "binary_pred.0.weight",
    "detector": "conv3_3_norm.weight",
}
_NAMES = {
    "generator": "a Wav2Lip generator",
    "expert": "a SyncNet expert",
    "discriminator": "a quality discriminator",
    "detector": "an S3FD face detector",
}
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_IMPOSTORS = (
    (rb"$", "is empty. Download it again."),
    (
        rb"version https://git-lfs",
        "is a Git LFS pointer, not the weights. Run 'git lfs pull' where it is from.",
    ),
    (
        rb"(\xef\xbb\xbf)?\s*<([!?]|html|head|body)",
        "is an HTML or XML page: the answer of a web site was saved instead of the weights. "
        "Open the link in a browser and save the file itself.",
    ),
    (
        rb"....ftyp|RIFF|\x1aE\xdf\xa3|ID3|OggS|fLaC|\x89PNG|\xff\xd8\xff",
        "is a video, sound or picture, not weights. Pass a .pth, .pt or .safetensors file.",
    ),
    (
        rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|.{257}ustar",
        "is a packed archive. Unpack it and pass the .pth inside.",
    ),
    (
        rb"\x80[\x00-\x05]",
        "is a Python pickle, not PyTorch weights, and was not opened: a pickle can run code. "
        "Pass a file that torch.save made of tensors.",
    ),
)
"""How files begin that are no weights, and what they are."""


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

    @property
    def more(self) -> dict[str, Any]:
        """What only a checkpoint of ours holds; empty for others."""
        return _more(self.training)

    @property
    def mel_shift(self) -> float:
        """Frames of 1/25 s by which the sound was moved against the picture in training; 0 if untold."""
        shift = self.more.get("mel_shift", 0)
        return float(shift) if isinstance(shift, (int, float)) and abs(shift) < 100 else 0.0

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
    content = read(source)
    weights, training = content, None
    if isinstance(content.get("state_dict"), dict):
        weights = content["state_dict"]
        training = {key: value for key, value in content.items() if key != "state_dict"}
    weights = {key.replace("module.", ""): value for key, value in _tensors(weights, source).items()}
    width = _check(weights, kind, source)
    _check_mel(_more(training).get("mel"), source)
    return Checkpoint(kind, weights, width, training, source)


def load_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """A bare state dict on the CPU. Raises `CheckpointError` as `load` does."""
    source = Path(path)
    return _tensors(read(source), source)


def save(path: str | os.PathLike[str], network: nn.Module, training: dict[str, Any] | None = None) -> None:
    """Write a checkpoint that the original's code reads too: CPU tensors, replaced only when whole."""
    import torch

    weights = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    progress = {"optimizer": None, "global_step": 0, "global_epoch": 0, **(training or {})}
    with replacing(path) as part, part.open("wb") as file:
        torch.save({"state_dict": weights, **progress}, file)
        file.flush()
        os.fsync(file.fileno())  # or a power cut leaves the new name on an empty file


def _more(training: Mapping[str, Any] | None) -> dict[str, Any]:
    more = (training or {}).get(MORE)
    return more if isinstance(more, dict) else {}


def _check_mel(settings: Any, source: Path) -> None:
    """Raise `OtherNetworkError` when a checkpoint tells that it was trained on another kind of mel."""
    wanted = asdict(DEFAULT_MEL)
    if settings is None or settings == wanted:
        return
    told = settings if isinstance(settings, dict) else {}
    odd = [f"{key}={told.get(key)}, not {value}" for key, value in wanted.items() if told.get(key) != value]
    raise OtherNetworkError(
        f"{source} was trained on other mels ({'; '.join(odd) or 'more settings'}). "
        "Use the version of wav2lip-npu that made it, or train again."
    )


def _tensors(content: dict[Any, Any], source: Path) -> dict[str, Tensor]:
    """The tensors of a dict. Raises `CheckpointError` when there are none."""
    import torch

    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        found = ", ".join(sorted(map(str, content))[:5]) or "nothing"
        raise CheckpointError(f"{source} holds no weights; found: {found}. Pass a file with a state dict.")
    return tensors


def read(source: Path) -> dict[Any, Any]:
    """The dict inside a weights file of any known form. Raises `CheckpointError`, telling what another is."""
    try:
        with source.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        why = error.strerror
        raise CheckpointError(f"cannot read weights {source}: {why}. Check its path.") from None
    read = _reader(source, head)
    try:
        content = read(source)
    except CheckpointError:
        raise
    except Exception as error:  # there is no end to what a damaged file makes a parser raise
        raise _damaged(source, error) from None
    if not isinstance(content, dict):
        what = type(content).__name__
        raise CheckpointError(
            f"{source} holds a {what}, not a dict of weights. Pass a file with a state dict."
        )
    return content


def _reader(source: Path, head: bytes) -> Callable[[Path], Any]:
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _read_zip
    if head[4:9] == b"\0\0\0\0{":
        return _read_safetensors
    legacy = head[:1] == b"\x80" and head[2:15] == _LEGACY_MAGIC[: len(head) - 2]
    if legacy and not tarfile.is_tarfile(source):  # else PyTorch 2.5 runs what is in it: CVE-2025-32434
        return _read_torch
    for start, what in _IMPOSTORS:
        if re.match(start, head, re.DOTALL | re.IGNORECASE):
            raise CheckpointError(f"{source} {what}")
    raise CheckpointError(
        f"{source} is not a weights file (it starts with {head[:8]!r}). "
        "Pass a .pth, .pt or .safetensors file of a Wav2Lip network."
    )


def _damaged(source: Path, error: Exception) -> CheckpointError:
    if isinstance(error, EOFError) or re.search(
        "not a zip file|unexpected EOF|incomplete|invalid header length", str(error)
    ):
        size = f"{source.stat().st_size:,}"
        return CheckpointError(
            f"{source} ends too early at {size} bytes: a truncated download. Download it again."
        )
    return CheckpointError(f"{source} is damaged ({type(error).__name__}). Download it again.")


def _read_zip(source: Path) -> Any:
    with zipfile.ZipFile(source) as archive:
        names = archive.namelist()
        if not any(name.endswith("/data.pkl") for name in names):
            raise CheckpointError(
                f"{source} is a zip archive without PyTorch weights. Unpack it and pass the .pth inside."
            )
        if any(name.endswith("/constants.pkl") for name in names):
            return read_torchscript(archive)
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    return _read_torch(source, mmap=not packed)  # mapped, compressed bytes would pass for weights


def _read_torch(source: Path, *, mmap: bool = False) -> Any:
    import torch

    try:
        with torch.serialization.safe_globals([_rebuild_npu_tensor]):
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is None:
            raise
        raise CheckpointError(
            f"{source} contains code ({code[1]}) and was not opened. "
            "Pass a file that holds nothing but tensors and numbers."
        ) from None


def _rebuild_npu_tensor(*parts: Any) -> Tensor:
    """A tensor that torch_npu before 2.1 saved: PyTorch's own parts, then the layout on the NPU."""
    import torch

    rebuild: Callable[..., Tensor] = torch._utils._rebuild_tensor_v2
    return rebuild(*parts[:6])


_rebuild_npu_tensor.__module__ = "torch_npu.utils.storage"  # by this name the files call it


def _read_safetensors(source: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(source))


def _check(weights: dict[str, Tensor], kind: str, source: Path) -> int:
    """Width of the network; raises when the weights are not exactly those of `kind`."""
    import torch

    from wav2lip_npu.models import FULL_WIDTH, NETWORKS

    wanted = _NAMES[kind]
    found = next((name for name, key in _KEY_ONLY_IN.items() if key in weights), "")
    if found != kind:
        what = _NAMES.get(found, "an unknown network")
        raise OtherNetworkError(f"{source} holds {what}, but {wanted} is wanted. Pass the {kind}'s file.")
    types = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    for key, value in weights.items():
        plain = value.layout is torch.strided and value.device.type == "cpu"
        if not plain or (value.dtype not in types and not key.endswith("num_batches_tracked")):
            form = f"{value.dtype}, {value.layout}, {value.device}".replace("torch.", "")
            raise CheckpointError(
                f"{source} holds {key!r} in a form that does not compute ({form}). "
                "Pass the weights as plain float32 or float16."
            )
    first = _KEY_ONLY_IN["expert"] if kind == "expert" else "face_encoder_blocks.0.0.conv_block.0.weight"
    full = 16 if kind == "generator" else 32
    width = len(weights[first]) * FULL_WIDTH // full if first in weights and weights[first].dim() else 0
    if not 2 <= width <= 8 * FULL_WIDTH or width % 2:
        raise OtherNetworkError(
            f"{source} is {wanted} of another design: its first layer does not fit. Pass 96 px weights."
        )
    with torch.device("meta"):
        expected = {key: value.shape for key, value in NETWORKS[kind](width).state_dict().items()}
    shapes = {key: value.shape for key, value in weights.items()}
    if shapes != expected:
        odd = sorted(key for key in expected.keys() | shapes.keys() if expected.get(key) != shapes.get(key))
        raise OtherNetworkError(
            f"{source} is {wanted} of another design: {len(odd)} of its tensors do not fit, "
            f"first {odd[0]!r}. Pass 96 px weights."
        )
    # A sum is not finite when a term is not, and ten times as quick as looking at each.
    broken = [key for key, value in weights.items() if not value.sum(dtype=torch.float64).isfinite()]
    if broken:
        raise CheckpointError(
            f"{source} holds NaN or infinite weights, first in {broken[0]!r}: a diverged training. "
            "Pass an earlier checkpoint."
        )
    return width
