"""Prepare a generator for a dub: fold its norms, move it to a device, and compile it."""

from __future__ import annotations

import torch

from wav2lip_npu.devices import compilation, number_formats
from wav2lip_npu.devices import device as devices
from wav2lip_npu.models.blocks import fold_norm
from wav2lip_npu.models.generator import Wav2Lip
from wav2lip_npu.models.packed import pack_convolutions


def place(network: Wav2Lip, device: torch.device, dtype: torch.dtype, *, is_compiled: bool = False) -> None:
    """Fold the norms, and replace the parameters by copies on a device, in its fastest memory layout.

    The last layer, which decides the grey levels, stays in float32. Compiled functions are compiled at their
    first call for each shape; all batches of a dub have one. Raises `DeviceError` if that is impossible.
    Others are packed on a CPU with the kernels for it.
    """
    if is_compiled:
        compilation.check_compile(device)
    for module in network.modules():  # layer by layer, so that few copies in float32 exist at a time
        fold_norm(module)
        wanted = torch.float32 if module is network.output_block[1] else dtype
        for name, parameter in module.named_parameters(recurse=False):
            layout = devices.memory_format(device) if parameter.dim() == 4 else torch.contiguous_format
            # A copy releases the memory map of the file. The parameter is new because a plugin device does
            # not allow the storage of an existing one to be replaced.
            moved = parameter.detach().to(device, wanted, copy=True, memory_format=layout)
            setattr(module, name, torch.nn.Parameter(moved, requires_grad=False))
    if is_compiled:
        for name in ("encode_faces", "decode"):
            function = compilation.compiled(getattr(network, name), device, is_frozen=True)
            setattr(network, name, function)
    elif number_formats.has_packed_convolutions(device, dtype):
        pack_convolutions(network)
