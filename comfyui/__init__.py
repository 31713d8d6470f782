"""Wav2Lip nodes for ComfyUI. ComfyUI calls `comfy_entrypoint` when it loads this folder of custom_nodes."""

from comfy_api.latest import ComfyExtension, io

from .nodes import DubFrames, DubVideo, Load, SyncScore, register_models


class Wav2LipExtension(ComfyExtension):
    """The nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the nodes."""
        return [Load, DubVideo, DubFrames, SyncScore]


async def comfy_entrypoint() -> Wav2LipExtension:
    """Return the extension, after its folder of models exists, from which a node reads its choices."""
    register_models()
    return Wav2LipExtension()
