"""Options of a batch."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Annotated

from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.results import REPORT_FILE, name_of
from wav2lip_npu.devices import device
from wav2lip_npu.devices.compilation import CompileOption
from wav2lip_npu.devices.number_formats import PrecisionOption
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.errors import UsageError
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.models.plan_choice import AudioRefineOption
from wav2lip_npu.options import check_types, group, nested_by_name


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Options of a batch."""

    watch: str | None = None
    """Folder to watch for job tables until interrupted."""
    report: str | None = None
    """File for the job results. None: report.jsonl next to the table, in --outdir or in --watch."""
    skip_bad: bool = False
    """Skip jobs that fail the checks, report them as failed, and run the others."""
    timeout: float | None = None
    """Maximum seconds per job. None: no limit."""
    devices: tuple[str, ...] = ("auto",)
    """Devices, with one process each: npu:0 npu:1 or npu:0,npu:1, cuda:0, cpu; all for every card; auto."""
    in_flight: int | None = None
    """Face videos that each device processes concurrently. None: 2 on an accelerator, 1 on a CPU."""
    cache: str | None = None
    """Folder for the cache of detected faces, or off. None: the user's cache folder."""
    cluster: str | None = None
    """Ray cluster to run the jobs on: auto or its address. None: processes on this machine."""
    voice: str | None = None
    """Audio that drives the mouth instead of the audio of the job, for rows without a voice."""
    checkpoint_path: str = STARTER
    """Weights of a Wav2Lip generator: .pth, .pt, .safetensors, or starter, the bundled weights."""
    precision: PrecisionOption = "auto"
    """Number format of the generator. auto: bf16 on a CPU with AMX or AVX-512 BF16, else fp32. fp32_strict
    turns off an accelerator's reduced precision for fp32."""
    compile: CompileOption = "off"
    """on: compile the generator for the device, which takes some ten seconds at the first start. An NPU needs
    torchair, a CPU a C++ compiler. On a CPU it is slower than off."""
    face_size: int | None = None
    """Size of the faces in pixels, for weights that fit several: 192 or 384. None: as published."""
    audio_refine: AudioRefineOption = "auto"
    """Whether a generator uses its layers audio_refine; auto: measured in the weights, see docs/hd.md."""
    dub: Annotated[DubOptions, group("dubbing")] = field(default_factory=DubOptions)

    def __post_init__(self) -> None:
        """Check the values. A single device becomes a tuple."""
        if isinstance(self.devices, str):
            object.__setattr__(self, "devices", (self.devices,))
        check_types(self)
        if self.watch and not os.path.isdir(self.watch):
            raise UsageError(f"--watch {self.watch} is not a folder. Create it, or pass another.")
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError(f"--timeout {self.timeout:g} is out of range. Pass a number above 0.")
        if self.in_flight is not None and self.in_flight < 1:
            raise UsageError(f"--in_flight {self.in_flight} is out of range. Pass at least 1.")


def report_path(
    jobs: str | os.PathLike[str] | list[Job] | None, outdir: str | None, options: BatchOptions
) -> str:
    """Return the path of the report: `options.report`, or else next to the table or the outputs."""
    if options.report:
        return options.report
    if isinstance(jobs, list):
        folders = [os.path.dirname(name_of(job)) for job in jobs]
        folder = os.path.commonpath(folders) if folders else ""
    else:
        folder = options.watch or outdir or os.path.dirname(jobs or "")
    return os.path.join(folder, REPORT_FILE)


def resolve_devices(options: BatchOptions) -> list[str]:
    """Return the devices to run on; none if a cluster chooses them. Raises `DeviceError`."""
    names = [name for entry in options.devices for name in entry.split(",") if name]
    if options.cluster:
        return [] if names in (["auto"], ["all"]) else names
    if names == ["all"]:
        kind = device.resolve().type
        count, _ = device.count_available(kind)
        names = [kind] if kind == device.HOST else [f"{kind}:{number}" for number in range(count)]
    if names != [device.HOST]:
        names = [str(device.resolve(name)) for name in names]
    if len(set(names)) != len(names) or not names:
        raise UsageError(f"--devices {' '.join(options.devices)}: name each device once.")
    return names
