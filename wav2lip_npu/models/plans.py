"""The designs of generators, as tables of their stages: the paper's for 96 px, and others for larger faces.

The shapes were read in the projects that published them: `256` in lipku/LiveTalking (wav2lip_v2.py), `288`,
`sam` and `384` in primepake/wav2lip_288x288 (wav2lipv2.py, sam.py), `384-leaky` in nghiakvnvsd/wav2lip384.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wav2lip_npu.models.blocks import Activation

AudioRefine = Literal["off", "plain", "normalized"]
"""Whether `audio_refine` follows the audio encoder, and whether its output is divided by its L2 norm."""


@dataclass(frozen=True)
class Down:
    """Stage of the face encoder: a convolution, residual blocks, 1x1 convolutions."""

    channels: int
    kernel: int = 3
    stride: int = 2
    padding: int = 1
    residuals: int = 0
    pointwise: int = 0


@dataclass(frozen=True)
class Up:
    """Stage of the face decoder: a transposed convolution, residual blocks."""

    channels: int
    residuals: int = 2
    kernel: int = 3
    stride: int = 2
    padding: int = 1
    output_padding: int = 1


@dataclass(frozen=True)
class Plan:
    """Design of a generator. The channels are those of full width."""

    name: str
    size: int
    """Rows and columns of its faces."""
    encoder: tuple[Down, ...]
    """From the face to a single pixel."""
    decoder: tuple[Up, ...]
    """After a first 1x1 convolution of the audio: back to the face. Before each stage but the first 1x1
    convolution, and at the end, the output of the encoder at this size is appended."""
    hidden: int = 32
    """Channels before the last convolution."""
    sizes: tuple[int, ...] = ()
    """All sizes that the same weights fit; empty: `size` only."""
    long_audio: bool = False
    """Whether the audio encoder has 17 layers and 1024 channels at its end, instead of 13 and 512."""
    attention: bool = False
    """Whether the features of the face weight the pixels of the decoder."""
    audio_refine: AudioRefine | None = None
    """None: its weights have no `audio_refine`."""
    activation: Activation = "relu"
    tanh: bool = False
    """Whether the output is a tanh instead of a sigmoid. Values below 0 are black."""


def _one_pixel(channels: int, kernel: int = 3, pointwise: int = 1) -> Down:
    return Down(channels, kernel, stride=1, padding=0, pointwise=pointwise)


def _from_one_pixel(channels: int, kernel: int = 3) -> Up:
    return Up(channels, 1, kernel, stride=1, padding=0, output_padding=0)


_TOP = Down(16, 7, 1, 3)
_ENCODER = (Down(32, residuals=2), Down(64, residuals=3), Down(128, residuals=2), Down(256, residuals=2))
_DECODER = (Up(384), Up(256), Up(128), Up(64))
_DEEP = (Up(1024), Up(768), Up(512), Up(256), Up(128))

PLAN_96 = Plan(
    "96",
    96,
    (_TOP, *_ENCODER, Down(512, residuals=1), _one_pixel(512)),
    (_from_one_pixel(512), Up(512), *_DECODER),
)
_FINER = (_TOP, Down(16, residuals=1), *_ENCODER, Down(512, residuals=1))
OWN_PLANS = (
    PLAN_96,
    Plan(
        "own-192",
        192,
        (*_FINER, _one_pixel(512)),
        (_from_one_pixel(512), Up(512), *_DECODER, Up(32)),
    ),
    Plan(
        "own-256",
        256,
        (*_FINER, _one_pixel(512, kernel=4)),
        (_from_one_pixel(512, kernel=4), Up(512), *_DECODER, Up(32)),
    ),
)
"""Those that `train` starts from random weights: the paper's, and the same with one finer level."""
PLANS = (
    *OWN_PLANS,
    Plan(
        "256",
        256,
        (_TOP, *_ENCODER, Down(512, residuals=1), Down(512, residuals=1), _one_pixel(512, kernel=4)),
        (_from_one_pixel(512, kernel=4), Up(512, residuals=1), Up(512), *_DECODER),
    ),
    Plan(
        "288",
        288,
        (
            _TOP,
            Down(32, 5, padding=2, residuals=1),
            *_ENCODER,
            Down(512, residuals=1),
            _one_pixel(512),
            _one_pixel(512),
        ),
        (_from_one_pixel(512), Up(512, output_padding=0), Up(512, output_padding=0), *_DECODER, Up(64)),
    ),
    Plan(
        "sam",
        384,
        (
            Down(16, 7, 1, 3, residuals=3),
            *(Down(channels, residuals=3) for channels in (32, 64, 128, 256, 512, 1024)),
            _one_pixel(1024, pointwise=2),
        ),
        (_from_one_pixel(1024), *_DEEP, Up(64)),
        sizes=(192, 384),
        long_audio=True,
        attention=True,
    ),
    Plan(
        "384",
        384,
        (
            Down(8, 7, 1, 3),
            *(Down(channels, residuals=2) for channels in (16, 32, 64, 128, 256)),
            Down(512, residuals=1),
            Down(1024, residuals=2),
            _one_pixel(1024),
        ),
        (_from_one_pixel(1024), *_DEEP, Up(80), Up(64)),
        long_audio=True,
        attention=True,
        tanh=True,
    ),
    Plan(
        "384-leaky",
        384,
        (
            Down(8, 7, 1, 3),
            Down(16, residuals=2),
            Down(32, residuals=2),
            Down(64, residuals=3),
            Down(128, residuals=2),
            Down(256, residuals=2),
            Down(512, residuals=1),
            Down(1024, residuals=2),
            _one_pixel(1024),
        ),
        (_from_one_pixel(1024), *_DEEP, Up(64), Up(32)),
        hidden=16,
        long_audio=True,
        audio_refine="plain",
        activation="leaky",
        tanh=True,
    ),
)
"""All designs; the weights tell which, by the names and shapes of their tensors."""
