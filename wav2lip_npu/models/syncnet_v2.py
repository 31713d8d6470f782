"""SyncNet v2 of Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016): LSE-D and LSE-C.

Its weights, `syncnet_v2.model`, are the user's. Parameter names match that file and must not change.
"""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from wav2lip_npu.devices import device as devices
from wav2lip_npu.errors import CheckpointMismatchError
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import FULL_WIDTH
from wav2lip_npu.storage.hashing import sha256_of

PATHS = (Path("checkpoints/syncnet_v2.model"), Path("checkpoints/auxiliary/syncnet_v2.model"))
"""Paths at which weights are searched, relative to the working directory."""
PUBLISHED_SHA256 = "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442"
"""SHA-256 of the published file."""
SIZE = 224
"""Pixels of a face crop."""
FRAMES = 5
"""Frames of a window of faces."""
COLUMNS = 20
"""MFCC columns of a window of audio, 10 ms each."""
_FIRST = "netcnnlip.0.weight"


class SyncNetV2(nn.Module):
    """The network in its published form: a module per layer, 3-D convolutions for the faces.

    Channel counts scale with `width`, 32 for the published weights.
    """

    def __init__(self, width: int = FULL_WIDTH) -> None:
        super().__init__()
        c64, c96, c192, c256, c384, c512 = (c * width // FULL_WIDTH for c in (64, 96, 192, 256, 384, 512))
        self.netcnnaud = nn.Sequential(
            *_audio(1, c64),
            nn.MaxPool2d(1, 1),
            *_audio(c64, c192),
            nn.MaxPool2d(3, (1, 2)),
            *_audio(c192, c384),
            *_audio(c384, c256),
            *_audio(c256, c256),
            nn.MaxPool2d(3, 2),
            *_audio(c256, c512, (5, 4), 0),
        )
        self.netcnnlip = nn.Sequential(
            *_lips(3, c96, (FRAMES, 7, 7), (1, 2, 2)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_lips(c96, c256, (1, 5, 5), (1, 2, 2), (0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_lips(c256, c256, (1, 3, 3), padding=(0, 1, 1)),
            *_lips(c256, c256, (1, 3, 3), padding=(0, 1, 1)),
            *_lips(c256, c256, (1, 3, 3), padding=(0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_lips(c256, c512, (1, 6, 6)),
        )
        self.netfcaud, self.netfclip = _head(c512), _head(c512)


def _audio(in_: int, out: int, kernel: int | tuple[int, int] = 3, padding: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(in_, out, kernel, padding=padding), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]


def _lips(
    in_: int,
    out: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int, int] = (0, 0, 0),
) -> list[nn.Module]:
    return [nn.Conv3d(in_, out, kernel, stride, padding), nn.BatchNorm3d(out), nn.ReLU(inplace=True)]


def _head(features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(features, features), nn.BatchNorm1d(features), nn.ReLU(), nn.Linear(features, 2 * features)
    )


class SyncNetRunner:
    """Computes the features of SyncNet v2 on a device, for consecutive windows.

    The published network has 3-D convolutions, but only the first of them extends over time. It is run as a
    2-D convolution over the stacked frames of a window, with the batch norms folded in: the features are the
    same up to rounding, and every device has fast 2-D convolutions. bfloat16 holds grey levels exactly.
    """

    def __init__(self, network: SyncNetV2, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        devices.activate(device)
        self.device, self._dtype = device, dtype
        self._layout = devices.memory_format(device)
        network = deepcopy(network).eval()
        lips = [_flat(layer) for layer in _fused(network.netcnnlip)]
        self._lips = self._moved(nn.Sequential(*lips, nn.Flatten(), *_fused(network.netfclip)))
        self._audio = self._moved(
            nn.Sequential(*_fused(network.netcnnaud), nn.Flatten(), *_fused(network.netfcaud))
        )

    def _moved(self, layers: nn.Sequential) -> nn.Sequential:
        moved: nn.Sequential = layers.eval().requires_grad_(False).to(self.device, self._dtype)
        return moved.to(memory_format=self._layout)  # type: ignore[call-overload, no-any-return]

    @torch.inference_mode()
    def faces(self, strip: Tensor) -> Tensor:
        """Return features float32 [N - 4, 32 * width] of consecutive crops, BGR uint8 [N, 224, 224, 3]."""
        frames, count = strip.to(self.device), len(strip) - FRAMES + 1
        windows = torch.cat([frames[number : number + count] for number in range(FRAMES)], dim=-1)
        images = windows.to(self._dtype).permute(0, 3, 1, 2).contiguous(memory_format=self._layout)
        features: Tensor = self._lips(images)
        return features.float()

    @torch.inference_mode()
    def audio(self, windows: Tensor) -> Tensor:
        """Return features float32 [N, 32 * width] of MFCC windows float32 [N, 13, 20]."""
        images = windows.to(self.device, self._dtype)[:, None].contiguous(memory_format=self._layout)
        features: Tensor = self._audio(images)
        return features.float()


def _fused(layers: nn.Sequential) -> list[nn.Module]:
    """Return layers in which batch norms are part of the convolution or linear layer before them."""
    fused: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d)):
            fused[-1] = fuse_conv_bn_eval(fused[-1], layer)  # type: ignore[type-var]
        elif isinstance(layer, nn.BatchNorm1d):
            assert isinstance(fused[-1], nn.Linear)
            fused[-1] = fuse_linear_bn_eval(fused[-1], layer)
        else:
            fused.append(layer)
    return fused


def _flat(layer: nn.Module) -> nn.Module:
    """Return a 3-D layer as a 2-D layer over images whose channels are frame by frame."""
    if isinstance(layer, nn.MaxPool3d):
        kernel, stride, padding = (_spatial(v) for v in (layer.kernel_size, layer.stride, layer.padding))
        return nn.MaxPool2d(kernel, stride, padding)
    if not isinstance(layer, nn.Conv3d):
        return layer
    weight = layer.weight.detach().transpose(1, 2).flatten(1, 2)
    kernel, stride, padding = (_spatial(v) for v in (layer.kernel_size, layer.stride, layer.padding))
    flat = nn.Conv2d(weight.shape[1], weight.shape[0], kernel, stride, padding)
    flat.weight, flat.bias = nn.Parameter(weight), layer.bias
    return flat


def _spatial(value: object) -> tuple[int, int]:
    _, down, across = value if isinstance(value, tuple) else (0, value, value)
    return down, across


@dataclass(frozen=True)
class SyncNetWeights:
    """Weights of SyncNet v2, on the CPU."""

    network: SyncNetV2
    source: Path
    sha256: str

    @property
    def is_published(self) -> bool:
        """Whether the file is the published one."""
        return self.sha256 == PUBLISHED_SHA256


def load(path: str | os.PathLike[str]) -> SyncNetWeights:
    """Load the weights of SyncNet v2. Only tensors are read from the file.

    Raises:
        CheckpointError: The file is missing or damaged, or belongs to another network.

    """
    source = Path(path)
    weights = checkpoint.load_tensors(source)
    first = weights.get(_FIRST)
    width = len(first) * FULL_WIDTH // 96 if first is not None and first.dim() else 0
    with torch.device("meta"):
        network = SyncNetV2(width if 2 <= width <= FULL_WIDTH and width % 2 == 0 else FULL_WIDTH)
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    shapes = {name: tensor.shape for name, tensor in weights.items() if name not in counters}
    names = sorted((expected.keys() - counters) | shapes.keys())
    if wrong := [name for name in names if expected.get(name) != shapes.get(name)]:
        kinds = (kind for kind, key in checkpoint.DISTINCTIVE_KEYS.items() if key in weights)
        other = next((checkpoint.NAMES[kind] for kind in kinds), None)
        raise CheckpointMismatchError(
            f"{source} is {other or 'another network'}, not SyncNet v2: {len(wrong)} of its tensors differ, "
            f"first {wrong[0]!r:.80}. Pass the syncnet_v2.model of SyncNet's authors as --syncnet."
        )
    checkpoint.check_form(weights, source)
    checkpoint.check_finite(weights, source, "the file is damaged. Download it again.")
    tensors = {name: weights[name].float() for name in shapes}
    tensors |= {name: torch.zeros((), dtype=torch.long) for name in counters}
    network.load_state_dict(tensors, assign=True)
    return SyncNetWeights(network, source, sha256_of(source))
