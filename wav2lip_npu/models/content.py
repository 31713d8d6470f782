"""Check the content of a weights file for its size, and find the weights of a network in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MAX_OBJECTS = 1_000_000
"""Limit of objects in nested containers, counted at each occurrence. A full checkpoint has 10,000."""
_MAX_EXPANDED = 1 << 30
"""Bytes by which tensors may exceed their storages, because expanded tensors repeat elements."""
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
"""Prefixes of tensor names in networks that are often used together with Wav2Lip."""


class ContentError(ValueError):
    """Content that is too large for its file."""


def check_content(content: Any) -> None:
    """Raise `ContentError` if the content takes far more memory or time than its file size suggests."""
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
        raise ContentError(f"its tensors claim {claimed:,} bytes, its storages {sum(storages.values()):,}")


def find_tensors(content: Mapping[Any, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return None and the tensors of a dict, or the key and the tensors of its nested dict with the most."""
    own = _tensors(content)
    if own:
        return None, own
    nested = {str(key): _tensors(value) for key, value in content.items() if isinstance(value, Mapping)}
    key = max(nested, key=lambda key: len(nested[key]), default="")
    return (key, nested[key]) if nested.get(key) else (None, {})


def other_network(names: Mapping[str, Any]) -> str | None:
    """Return which known network has tensors of these names, such as `a GFPGAN face restorer`."""
    return next(
        (what for start, what in _OTHER_NETWORKS.items() if any(name.startswith(start) for name in names)),
        None,
    )


def one_line(text: str) -> str:
    """Return text from a file, shortened and on one line."""
    return f"{text:.100}" if text.isprintable() else f"{text!r:.100}"


def _tensors(content: Mapping[Any, Any]) -> dict[str, Any]:
    import torch

    return {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
