"""Light-ASD of Liao et al., "A Light Weight Model for Active Speaker Detection" (2023): who speaks.

Its weights are the user's: `finetuning_TalkSet.model` and `pretrain_AVA_CVPR.model` of
github.com/Junhua-Liao/Light-ASD. Parameter names match these files and must not change.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wav2lip_npu.models.user_weights import load_network

SIZE = 112
"""Pixels of a face crop."""
COLUMNS_PER_FRAME = 4
"""MFCC columns of a frame, 10 ms each."""
_FEATURES = 128
_EPSILON = 1e-3
_MEAN, _DEVIATION = 0.4161, 0.1688
"""Of grey levels in [0, 1]."""
_KERNELS = (3, 5)
"""Two branches, which are added."""


class LightAsd(nn.Module):
    """The network in its published form, without the head that judges faces alone."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.lossAV = _Model(), _Head()

    def encode_faces(self, faces: Tensor) -> Tensor:
        """Return features [B, T, 128] of grey crops uint8 [B, T, 112, 112]."""
        grey = (faces.to(self.lossAV.FC.weight.dtype) / 255 - _MEAN) / _DEVIATION
        features: Tensor = self.model.visualEncoder(grey[:, None]).amax(dim=(3, 4))
        return features.transpose(1, 2)

    def encode_audio(self, mfcc: Tensor) -> Tensor:
        """Return features [B, T, 128] of MFCC float32 [B, 4T, 13]."""
        features: Tensor = self.model.audioEncoder(mfcc.transpose(1, 2)[:, None]).mean(dim=2)
        return features.transpose(1, 2)

    def scores(self, faces: Tensor, audio: Tensor) -> Tensor:
        """Return scores [B, T] of features, above 0 for a face that speaks."""
        both = (faces + audio).to(self.lossAV.FC.weight.device)
        logits: Tensor = self.lossAV.FC(self.model.GRU(both))
        return logits[..., 1]


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visualEncoder, self.audioEncoder = _Encoder(faces=True), _Encoder(faces=False)
        self.GRU = _TwoWays()


class _Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.FC = nn.Linear(_FEATURES, 2)


class _Encoder(nn.Module):
    """Three blocks, with pooling between them: of space for faces, of time for audio."""

    def __init__(self, *, faces: bool) -> None:
        super().__init__()
        self._faces = faces
        self.block1 = _Block(1, 32, faces=faces, stride=2 if faces else 1)
        self.block2 = _Block(32, 64, faces=faces)
        self.block3 = _Block(64, _FEATURES, faces=faces)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [B, 128, T, S, S] for faces [B, 1, T, H, H], [B, 128, 13, T] for audio [B, 1, 13, 4T]."""
        encoded: Tensor = self.block3(self._pooled(self.block2(self._pooled(self.block1(inputs)))))
        return encoded

    def _pooled(self, inputs: Tensor) -> Tensor:
        if not self._faces:
            return functional.max_pool2d(inputs, (1, 3), (1, 2), (0, 1))
        pooled = functional.max_pool2d(inputs.flatten(0, 1), 3, 2, 1)
        return pooled.reshape(*inputs.shape[:3], *pooled.shape[2:])


class _Block(nn.Module):
    """In each branch a convolution over space, or over coefficients, and one over time; then a 1x1 one."""

    def __init__(self, in_: int, out: int, *, faces: bool, stride: int = 1) -> None:
        super().__init__()
        self._faces, self._stride = faces, stride
        conv: Any = nn.Conv3d if faces else nn.Conv2d
        norm: Any = nn.BatchNorm3d if faces else nn.BatchNorm2d
        self._first = "s" if faces else "m"
        for size in _KERNELS:
            first, then = ((1, size, size), (size, 1, 1)) if faces else ((size, 1), (1, size))
            self.add_module(f"{self._first}_{size}", conv(in_, out, first, bias=False))
            self.add_module(f"bn_{self._first}_{size}", norm(out, _EPSILON))
            self.add_module(f"t_{size}", conv(out, out, then, bias=False))
            self.add_module(f"bn_t_{size}", norm(out, _EPSILON))
        self.last = conv(out, out, 1, bias=False)
        self.bn_last = norm(out, _EPSILON)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sum of both branches after the last convolution."""
        firsts = (self._layer(f"{self._first}_{size}", inputs, self._stride) for size in _KERNELS)
        branches = [self._layer(f"t_{size}", first) for size, first in zip(_KERNELS, firsts, strict=True)]
        return self._layer("last", branches[0] + branches[1])

    def _layer(self, name: str, inputs: Tensor, stride: int = 1) -> Tensor:
        """Return convolution, batch norm and ReLU; the output has as many frames as the input."""
        weight = self.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        convolve = _over_faces if self._faces else _same
        normed: Tensor = self.get_submodule(f"bn_{name}")(convolve(inputs, weight, stride))
        return functional.relu(normed)


def _over_faces(inputs: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Return a 3-D convolution as a 2-D one over space or over time: all devices have fast ones."""
    batch, _, frames, height, width = inputs.shape
    if weight.shape[2] > 1:
        return _same(inputs.flatten(3), weight.squeeze(4)).reshape(batch, -1, frames, height, width)
    images = _same(inputs.transpose(1, 2).flatten(0, 1), weight.squeeze(2), stride)
    return images.reshape(batch, frames, *images.shape[1:]).transpose(1, 2)


def _same(inputs: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Return a convolution that keeps the size, apart from the stride."""
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return functional.conv2d(inputs, weight, stride=stride, padding=padding)


class _TwoWays(nn.Module):
    """A GRU forwards in time, and one backwards over its output."""

    def __init__(self) -> None:
        super().__init__()
        self.gru_forward = nn.GRU(_FEATURES, _FEATURES, batch_first=True)
        self.gru_backward = nn.GRU(_FEATURES, _FEATURES, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [B, T, 128] for [B, T, 128]."""
        forwards = functional.gelu(self.gru_forward(inputs)[0])
        backwards = self.gru_backward(forwards.flip(1))[0].flip(1)
        return functional.gelu(backwards)


def load(path: str | os.PathLike[str], device: torch.device) -> LightAsd:
    """Load the weights of Light-ASD. Only tensors are read from the file. Raises `CheckpointError`.

    The encoders run on the device. The GRU takes a few numbers per frame, and stays on the CPU, because not
    every device has one.
    """
    network: LightAsd = load_network(path, LightAsd, "Light-ASD", "--asd", ignored="lossV.")
    network.model.visualEncoder.to(device)
    network.model.audioEncoder.to(device)
    return network
