"""Content of a weights file: bounded in size, and searched for the weights of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MAX_OBJECTS = 1_000_000
"""Objects in nested containers, counted as often as they occur. A full checkpoint has 10,000."""
_MAX_EXPANDED = 1 << 30
"""Bytes by which tensors may be larger than their storages: an expanded tensor repeats its elements."""
_OTHER_NETWORKS = {
    "stylegan_decoder.": "a GFPGAN face restorer",
    "fuse_convs_dict.": "a CodeFormer face restorer",
    "quantize.embedding.": "a CodeFormer or RestoreFormer face restorer",
    "body.0.rdb1.": "an ESRGAN upscaler",
    "RRDB_trunk.": "an ESRGAN upscaler",
    "ClassHead.": "a RetinaFace face detector",
    "cp.resnet.": "a face parsing network",
    "dense_motion_network.": "a first-order motion network",
    "model.diffusion_model.": "a diffusion network",
    "down_blocks.": "a diffusion network",
    "first_stage_model.": "a diffusion network",
    "decoder.token_embedding.": "a Whisper speech recognizer",
    "encoder.blocks.0.attn.": "a Whisper speech recognizer",
}
"""Beginnings of the names of tensors in networks that are often at hand next to those of Wav2Lip."""


class ContentError(ValueError):
    """Content that is too large for its file."""


def check_content(content: Any) -> None:
    """Raise `ContentError` if the content takes much more memory or time than its file has bytes."""
    import torch

    waiting, objects, claimed = [content], 0, 0
    storages: dict[int, int] = {}
    while waiting:
        value = waiting.pop()
        objects += 1
        if objects > _MAX_OBJECTS or len(waiting) > _MAX_OBJECTS:
            raise ContentError(f"it has more than {_MAX_OBJECTS:,} objects")
        if isinstance(value, Mapping):
            waiting.extend(value.keys())
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            waiting.extend(value)
        elif isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_meta:
            storage = value.untyped_storage()
            claimed += value.numel() * value.element_size()
            storages[storage.data_ptr()] = max(storages.get(storage.data_ptr(), 0), storage.nbytes())
    if claimed > sum(storages.values()) + _MAX_EXPANDED:
        raise ContentError(f"its tensors have {claimed:,} bytes, their storages {sum(storages.values()):,}")


def find_tensors(content: Mapping[Any, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return the tensors of a dict by name, or else those of its largest nested dict and the key of that."""
    own = _tensors(content)
    if own:
        return None, own
    nested = {str(key): _tensors(value) for key, value in content.items() if isinstance(value, Mapping)}
    key = max(nested, key=lambda key: len(nested[key]), default="")
    return (key, nested[key]) if nested.get(key) else (None, {})


def other_network(names: Mapping[str, Any]) -> str | None:
    """Return the name of a known network by the names of its tensors, such as `a GFPGAN face restorer`."""
    return next(
        (what for start, what in _OTHER_NETWORKS.items() if any(name.startswith(start) for name in names)),
        None,
    )


def one_line(text: str) -> str:
    """Return text of a file, shortened, as a part of a line."""
    return f"{text:.100}" if text.isprintable() else f"{text!r:.100}"


def _tensors(content: Mapping[Any, Any]) -> dict[str, Any]:
    import torch

    return {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
