"""The simulated NPU: results equal to the CPU, failures like on an NPU."""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from npu_sim import simulated
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

pytestmark = [
    pytest.mark.any_device,
    pytest.mark.npu_only,
    pytest.mark.filterwarnings("ignore:Device do not support double"),
]


@pytest.fixture(scope="module")
def npu() -> Any:
    """The simulated torch_npu."""
    try:
        return simulated.enable()
    except ImportError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def simulation(npu: Any) -> Any:
    """Controls of the simulated device."""
    return npu.simulation


@pytest.fixture(autouse=True)
def _needs_npu(npu: Any) -> Iterator[None]:
    torch.npu.manual_seed_all(0)
    yield
    torch.npu.synchronize()
    torch.npu.set_device(0)


def on_npu(*sizes: int) -> Tensor:
    return torch.rand(*sizes, device="npu")


class Network(nn.Module):
    """The layer types of Wav2Lip: convolutions, batch norms, transposed convolutions, embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.up = nn.Sequential(
            nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(0.01)
        )
        self.out = nn.Sequential(nn.Conv2d(14, 3, 1), nn.Sigmoid())
        self.sound, self.picture = nn.Linear(16, 8), nn.Linear(8 * 64, 8)

    def forward(self, sound: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        small = self.down(picture)
        made = self.out(torch.cat([self.up(small), picture], 1))
        alike = F.cosine_similarity(
            self.sound(sound).relu() + 0.1, self.picture(small.flatten(1)).relu() + 0.1
        )
        return made, alike


def batches(count: int = 5, size: int = 4) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        sound, picture = (
            torch.rand(size, 16, generator=generator),
            torch.rand(size, 6, 16, 16, generator=generator),
        )
        wanted = torch.rand(size, 3, 16, 16, generator=generator)
        yield sound, picture, wanted, torch.randint(0, 2, (size,), generator=generator).float()


def loss_of(network: nn.Module, sound: Tensor, picture: Tensor, wanted: Tensor, same: Tensor) -> Tensor:
    made, alike = network(sound, picture)
    with torch.autocast(made.device.type, enabled=False):
        sync = F.binary_cross_entropy(alike.float().clamp(1e-6, 1 - 1e-6), same)
    return F.l1_loss(made, wanted) + 0.1 * sync


def trained(
    network: nn.Module, device: str, **options: Any
) -> tuple[nn.Module, torch.optim.Optimizer, list[float]]:
    network = copy.deepcopy(network).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, **options)
    losses = []
    for batch in batches():
        optimizer.zero_grad()
        loss = loss_of(network, *(each.to(device) for each in batch))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return network, optimizer, losses


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


# Results


@pytest.mark.parametrize(
    "options", [{}, {"foreach": False}, {"fused": True}], ids=["many", "single", "fused"]
)
def test_training_equals_the_cpu(network: Network, options: dict[str, bool]) -> None:
    wanted, _, wanted_losses = trained(network, "cpu", **options)
    network, _, losses = trained(network, "npu", **options)
    assert losses == pytest.approx(wanted_losses, abs=1e-5)
    state = network.state_dict()
    assert {value.device for value in state.values()} == {torch.device("npu:0")}
    for name, value in wanted.state_dict().items():
        torch.testing.assert_close(state[name].cpu(), value, atol=1e-5, rtol=1e-5)
    assert int(state["down.1.num_batches_tracked"]) == 5
    assert state["down.1.running_mean"].abs().sum() > 0, (
        "the schema of batch norm does not say that it changes"
    )
    sound, picture, *_ = next(batches())
    with torch.inference_mode():
        made, _ = network.eval()(sound.to("npu"), picture.to("npu"))
        torch.testing.assert_close(made.cpu(), wanted.eval()(sound, picture)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(network: Network, dtype: torch.dtype) -> None:
    network = network.to("npu")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("npu", enabled=dtype == torch.float16, init_scale=2.0**8)
    for batch in batches(2):
        sound, picture, wanted, same = (each.to("npu") for each in batch)
        with torch.autocast("npu", dtype=dtype):
            assert not torch.is_autocast_enabled("cpu")
            assert network.down[0](picture).dtype == network.up[0](network.down(picture)).dtype == dtype
            assert F.l1_loss(picture.to(dtype), picture).dtype == torch.float32
            loss = loss_of(network, sound, picture, wanted, same)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        assert torch.isfinite(nn.utils.clip_grad_norm_(network.parameters(), 1.0))
        scaler.step(optimizer)
        scaler.update()
    with torch.autocast("npu", dtype=dtype), pytest.raises(RuntimeError, match="unsafe to autocast"):
        F.binary_cross_entropy(on_npu(2), on_npu(2))


def test_scaler_skips_a_step_after_infinity() -> None:
    weight = nn.Parameter(torch.ones(3, device="npu"))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("npu", init_scale=4.0)
    scaler.scale((weight * torch.tensor(float("inf"), device="npu")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2
    assert weight.tolist() == [1, 1, 1]


def test_views_are_views() -> None:
    x = torch.arange(12.0, device="npu").view(3, 4)
    x.t()[1:].transpose(0, 1).mul_(0)
    assert x.cpu()[:, 1:].abs().sum() == 0
    left, _ = x.split(2, 1)
    left.fill_(5)
    assert (x.cpu()[:, :2] == 5).all()
    assert left.data_ptr() == x.data_ptr()
    out = torch.empty(0, device="npu")
    torch.add(x, 1, out=out)
    assert (out.shape, out.device) == ((3, 4), x.device)
    x.resize_(20)
    assert x.untyped_storage().nbytes() == 80
    y = x.new_zeros(4)
    y[1] = 3
    y[torch.tensor([2, 3])] = 1  # indices may be on the host
    assert y.tolist() == [0, 3, 1, 1]
    assert (y + torch.tensor(1.0)).tolist() == [1, 4, 2, 2], "and so may a number"
    (y.requires_grad_()[1:].pow(2).sum()).backward()
    assert y.grad.tolist() == [0, 6, 2, 2]
    with pytest.raises(TypeError, match="npu"):
        y.detach().numpy()


def test_random_numbers() -> None:
    torch.manual_seed(7)  # seeds all devices
    first = on_npu(4)
    states, host = torch.npu.get_rng_state_all(), torch.get_rng_state()
    assert [state.numel() for state in states] == [16] * torch.npu.device_count()
    drawn, kept = torch.randn(4, device="npu"), F.dropout(torch.ones(64, device="npu"), 0.5)
    assert 0 < (kept == 0).sum() < 64
    assert torch.equal(torch.get_rng_state(), host)
    torch.npu.set_rng_state_all(states)
    assert torch.equal(torch.randn(4, device="npu"), drawn)
    assert torch.equal(F.dropout(torch.ones(64, device="npu"), 0.5), kept)
    torch.manual_seed(7)
    assert torch.equal(on_npu(4), first)
    torch.npu.manual_seed(8)
    assert not torch.equal(on_npu(4), first)
    own = torch.Generator("npu").manual_seed(3)
    drawn = torch.randn(4, device="npu", generator=own)
    assert torch.equal(torch.randn(4, device="npu", generator=own.manual_seed(3)), drawn)
    with pytest.raises(RuntimeError, match="device type for generator"):
        torch.randn(4, device="npu", generator=torch.Generator())
    with torch.random.fork_rng(devices=[0], device_type="npu"):
        on_npu(1)


def test_checkpoints(network: Network, tmp_path: Path) -> None:
    network, optimizer, _ = trained(network, "npu")
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "npu.pth")

    def places(**options: Any) -> set[str]:
        state = torch.load(tmp_path / "npu.pth", weights_only=True, **options)
        return {str(value.device) for value in state["network"].values()}

    assert places() == {"npu:0"}
    assert places(map_location="cpu") == places(map_location=lambda storage, _: storage) == {"cpu"}
    assert places(map_location="npu:1") == {"npu:1"}
    torch.save(Network().state_dict(), tmp_path / "cpu.pth")
    state = torch.load(tmp_path / "cpu.pth", map_location=torch.device("npu"), weights_only=True)
    assert {str(value.device) for value in state.values()} == {"npu:0"}
    again = torch.optim.Adam(network.parameters())
    again.load_state_dict(
        torch.load(tmp_path / "npu.pth", map_location="cpu", weights_only=True)["optimizer"]
    )
    assert {str(each["exp_avg"].device) for each in again.state.values()} == {"npu:0"}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_pinned_loader(num_workers: int) -> None:
    numbers = torch.arange(32.0).view(16, 2)
    host = torch.get_rng_state()
    loader = DataLoader(TensorDataset(numbers), batch_size=4, pin_memory=True, num_workers=num_workers)
    torch.set_rng_state(host)
    moved = []
    for (batch,) in loader:
        assert batch.is_pinned() and batch.device.type == "cpu"
        moved.append(batch.to("npu", non_blocking=True))
    assert torch.equal(torch.cat(moved).cpu(), numbers)
    assert not numbers.is_pinned()
    assert numbers.pin_memory()[1:].is_pinned()


def test_backward_in_another_thread(network: Network) -> None:
    losses: dict[str, list[float]] = {}
    thread = threading.Thread(target=lambda: losses.update(npu=trained(network, "npu:1")[2]))
    thread.start()
    thread.join()
    assert losses["npu"] == pytest.approx(trained(network, "cpu")[2], abs=1e-5)


# Devices, memory, streams


def test_devices(npu: Any) -> None:
    assert npu.SIMULATED and npu.__version__.endswith("+sim")
    assert npu.npu is torch.npu is sys.modules["torch.npu"]
    assert torch.accelerator.current_accelerator() == torch.device("npu")
    assert torch.npu.is_available() and torch.npu.device_count() == torch.accelerator.device_count() == 2
    with torch.npu.device(1):
        assert str(on_npu(1).device) == "npu:1"
        assert torch.npu.current_device() == torch.accelerator.current_device_index() == 1
    assert torch.npu.current_device() == 0
    torch.npu.set_device("npu:1")
    assert torch.zeros(1).npu().get_device() == 1
    assert "simulated" in torch.npu.get_device_name(0)
    assert torch.npu.get_device_properties(0).total_memory == torch.npu.mem_get_info(0)[1] == 64 << 30
    for use in (lambda: torch.npu.set_device(7), lambda: torch.zeros(1, device="npu:7")):
        with pytest.raises(RuntimeError, match="Invalid NPU device ID 7"):
            use()


def test_unplugged(simulation: Any) -> None:
    from wav2lip_npu.devices import device

    assert device.resolve("auto") == torch.device("npu:0")
    with simulation.unplugged():
        assert device.resolve("auto") == torch.device("cpu")
        assert not torch.accelerator.is_available()
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("torch_npu")
        with pytest.raises(RuntimeError, match="No NPUs are available"):
            torch.npu.set_device(0)


def test_memory(simulation: Any) -> None:
    before = torch.npu.memory_allocated()
    torch.npu.reset_peak_memory_stats()
    x = torch.zeros(1 << 18, device="npu")
    y = x * 2  # the CPU kernel's own memory counts as well
    assert torch.npu.memory_allocated() == before + (2 << 20)
    free, total = torch.npu.mem_get_info()
    assert free == total - torch.npu.memory_allocated()
    with simulation.memory_limit(before + (3 << 20)):
        z = y + 1
        with pytest.raises(
            torch.OutOfMemoryError, match="NPU out of memory. Tried to allocate 1048576 bytes"
        ):
            z + 1
        torch.npu.empty_cache()
    del x, y, z
    assert torch.npu.memory_allocated() == before
    assert torch.npu.max_memory_allocated() == before + (3 << 20)
    assert torch.npu.memory_stats()["num_ooms"] > 0
    torch.npu.set_per_process_memory_fraction(0.5)
    assert torch.npu.mem_get_info()[1] == 32 << 30
    torch.npu.set_per_process_memory_fraction(1)


def test_poison(simulation: Any) -> None:
    with simulation.poison():
        assert torch.empty(4, device="npu").isnan().all()
        assert torch.empty(4, device="npu", dtype=torch.int32).tolist() == [-1] * 4


def test_streams_and_events() -> None:
    stream = torch.npu.Stream()
    begin, end = torch.npu.Event(enable_timing=True), torch.npu.Event(enable_timing=True)
    begin.record()
    with torch.npu.stream(stream):
        assert torch.npu.current_stream() == stream
        x = on_npu(8, 8) @ on_npu(8, 8)
        x.record_stream(stream)
    assert torch.npu.current_stream() == torch.npu.default_stream()
    torch.npu.current_stream().wait_stream(stream)
    end.record()
    end.synchronize()
    assert begin.elapsed_time(end) > 0


# Detected errors


def test_non_blocking_copy_to_the_host() -> None:
    """A non-blocking copy is complete only after a synchronization."""
    x = torch.arange(4.0, device="npu")
    first = x.to("cpu", non_blocking=True)
    copied = torch.npu.Event()
    copied.record()
    second = torch.empty(4).pin_memory().copy_(x + 1, non_blocking=True)
    assert first.is_pinned() and first.isnan().all() and second.isnan().all()
    copied.synchronize()
    assert first.tolist() == [0, 1, 2, 3]
    assert second.isnan().all(), "the event was before that copy"
    torch.npu.synchronize()
    assert second.tolist() == [1, 2, 3, 4]
    unpinned = torch.empty(4).copy_(x, non_blocking=True)
    assert unpinned.tolist() == x.cpu().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "use",
    [
        lambda there, here: F.conv2d(here(1, 6, 8, 8), there(8, 6, 3, 3)),
        lambda there, here: F.conv2d(there(1, 6, 8, 8), here(8, 6, 3, 3)),
        lambda there, here: F.conv_transpose2d(there(1, 6, 8, 8), here(6, 8, 3, 3)),
        lambda there, here: F.linear(there(2, 3), here(4, 3)),
        lambda there, here: there(2, 3) + here(2, 3),
        lambda there, here: here(2, 3).add_(there(2, 3)),
        lambda there, here: torch.cat([there(2, 3), here(2, 3)]),
        lambda there, here: F.l1_loss(there(2, 3), here(2, 3)),
        lambda there, here: F.binary_cross_entropy(there(2, 1), here(2, 1)),
        lambda there, here: F.cosine_similarity(there(2, 3), here(2, 3)),
        lambda there, here: F.batch_norm(there(2, 3), here(3), here(3)),
        lambda there, here: torch.where(here(2, 3) > 0, there(2, 3), there(2, 3)),
        lambda there, here: there(2, 3) @ torch.rand(3, 2, device="npu:1"),
    ],
    ids="picture weight transposed linear add in_place cat l1 bce cosine norm where other_npu".split(),
)
def test_tensor_on_the_wrong_device(use: Callable[..., Tensor]) -> None:
    with pytest.raises(RuntimeError, match="same device|on npu"):
        use(on_npu, torch.rand)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: nn.Conv2d(3, 3, 1).to("npu").to(memory_format=torch.channels_last),
        lambda x: torch.empty(2, 3, 4, 4, device="npu", memory_format=torch.channels_last),
    ],
    ids=["to", "contiguous", "module", "empty"],
)
def test_channels_last(use: Callable[[Tensor], Any]) -> None:
    with pytest.raises(RuntimeError, match="(?i)format"):
        use(on_npu(2, 3, 4, 4))


def test_double_becomes_float() -> None:
    x = on_npu(2)
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with pytest.warns(UserWarning, match="do not support double dtype"):
            assert x.double().dtype == torch.float32
    finally:
        torch.set_warn_always(before)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert x.to(torch.float64).dtype == torch.float32
    assert len(caught) <= 1
    assert torch.zeros(2, dtype=torch.float64).to("npu").dtype == torch.float64, "a copy keeps the format"
    assert x.to("cpu", torch.float64).dtype == torch.float64


def test_double_is_rejected(simulation: Any) -> None:
    double = torch.zeros(2, dtype=torch.float64)
    x = double.to("npu")
    with simulation.no_wide_dtypes():
        assert on_npu(2).add(1).double().dtype == torch.float32
        for use in (lambda: double.to("npu"), lambda: x + 1, lambda: torch.fft.rfft(on_npu(4))):
            with pytest.raises(RuntimeError, match="on the device"):
                use()
    assert (x + 1).dtype == torch.float64


def test_kernels_outside_the_list(network: Network, simulation: Any) -> None:
    with simulation.listed_kernels_only():
        for options in ({"foreach": False}, {"fused": True}):
            trained(network, "npu", **options)
        F.grid_sample(on_npu(1, 3, 8, 8), on_npu(1, 4, 4, 2) - 0.5, align_corners=False)
        F.interpolate(on_npu(1, 3, 8, 8), size=(4, 4), mode="bilinear")
        on_npu(4).cpu()
        with pytest.raises(NotImplementedError, match="aten::linalg_inv_ex.* has no kernel in torch_npu"):
            torch.linalg.inv(torch.eye(2, device="npu"))
    torch.linalg.inv(torch.eye(2, device="npu"))


def test_denied_operator(network: Network, simulation: Any) -> None:
    batch = [each.to("npu") for each in next(batches())]
    network = network.to("npu")
    with simulation.deny("convolution[transposed]", torch.bfloat16):
        loss_of(network, *batch)
        with (
            torch.autocast("npu", dtype=torch.bfloat16),
            pytest.raises(RuntimeError, match="not supported on NPU for BFloat16"),
        ):
            loss_of(network, *batch)
        with (
            simulation.deny("mm"),
            pytest.raises(RuntimeError, match=r"aten::mm\S* is not supported on NPU: denied"),
        ):
            on_npu(2, 2) @ on_npu(2, 2)
        on_npu(2, 2) @ on_npu(2, 2)
    with torch.autocast("npu", dtype=torch.bfloat16):
        loss_of(network, *batch)


def test_op_log(network: Network, simulation: Any) -> None:
    with simulation.op_log() as log:
        trained(network, "npu", foreach=False)
    assert {
        "convolution",
        "convolution[transposed]",
        "convolution_backward",
        "native_batch_norm",
    } <= log.names()
    assert log.calls("convolution") == log.calls("convolution[transposed]") * 2 == 10
    assert log.dtypes("convolution") == {torch.float32}
    assert torch.float64 not in log.dtypes()
    assert {name.partition("[")[0] for name in log.names()} <= set(simulation.kernel_names())
    with simulation.op_log() as outer, simulation.op_log() as inner:
        on_npu(3).half()
    assert outer == inner
    assert inner.dtypes("copy_") == {torch.float32, torch.float16}


def test_host_reads(simulation: Any) -> None:
    x, pinned = on_npu(3), torch.rand(3).pin_memory()
    with simulation.host_reads() as none:
        y = pinned.to("npu", non_blocking=True) + x
        late = y.mean().to("cpu", non_blocking=True)
        (y * torch.full((), 2.0)).clamp_(max=1)
    with simulation.host_reads() as some:
        y.mean().item()
        bool((y > 0).all())
        y.cpu()
        y.tolist()
        y.nonzero()
        torch.equal(x, y)
        print(late)
    assert none.total() == 0
    assert some == {"_local_scalar_dense": 2, "copy_": 2, "nonzero": 1, "equal": 1}


def test_order_of_settings(simulation: Any) -> None:
    with simulation.settings_of() as good:
        torch.npu.set_compile_mode(jit_compile=False)
        torch.npu.config.allow_internal_format = False
        torch.npu.conv.allow_hf32 = False
        on_npu(1)
    assert [(each.name, each.value) for each in good if each.before_first_tensor] == [
        ("set_compile_mode.jit_compile", False),
        ("config.allow_internal_format", False),
        ("conv.allow_hf32", False),
    ]
    with simulation.settings_of() as bad:
        nn.Linear(2, 2).to("npu")
        torch.npu.set_compile_mode(jit_compile=False)
        torch.npu.conv.allow_hf32 = True
    assert not bad.of("set_compile_mode.jit_compile").before_first_tensor
    assert bad.of("config.allow_internal_format") is None
    assert simulation.settings().of("conv.allow_hf32").value is torch.npu.conv.allow_hf32 is True
    assert torch.npu.matmul.allow_hf32 is False
    with pytest.raises(AttributeError):
        print(torch.npu.config.allow_internal_format)
    with pytest.raises(TypeError):
        torch.npu.set_compile_mode(jit_compile="no")


def test_fork_after_use() -> None:
    on_npu(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # warns about forking with threads
        child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            torch.manual_seed(0)  # does not use the device
            assert torch.rand(2).sum() > 0
            try:
                on_npu(1)
            except RuntimeError as error:
                code = 0 if "forked subprocess" in str(error) and "'spawn'" in str(error) else 2
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


# Chips


def test_chip_without_bf16(simulation: Any) -> None:
    assert torch.npu.is_bf16_supported()
    x = on_npu(2, 2)
    with simulation.chip("310P3") as chip:
        assert chip.name == "Ascend310P3"
        assert torch.npu.get_device_name().startswith("Ascend310P3")
        assert not torch.npu.is_bf16_supported()
        moved = torch.ones(2, 2, dtype=torch.bfloat16).to("npu").t()  # it can be stored but not computed with
        for use in (
            lambda: moved + 1,
            lambda: x.bfloat16(),
            lambda: torch.zeros(2, device="npu", dtype=moved.dtype),
        ):
            with pytest.raises(RuntimeError, match="not supported for BFloat16 on Ascend310P3"):
                use()
        with torch.autocast("npu", dtype=torch.bfloat16), pytest.raises(RuntimeError, match="BFloat16"):
            x @ x
        with torch.autocast("npu", dtype=torch.float16):
            assert (x @ x).dtype == torch.float16
    assert (moved + 1).dtype == torch.bfloat16


def overflow(scaler: torch.amp.GradScaler) -> tuple[Tensor, float]:
    """Take a step whose gradient overflows in fp16. Return the weight after it and the scale."""
    weight = nn.Parameter(torch.ones(2, 2, device="npu"))
    optimizer = torch.optim.SGD([weight], lr=0.01)
    with torch.autocast("npu", dtype=torch.float16):
        loss = (torch.full((2, 2), 100.0, device="npu") @ weight).float().sum()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    return weight.detach().cpu(), scaler.get_scale()


def test_saturation(npu: Any, simulation: Any) -> None:
    half = torch.tensor([60000, -60000, 1], dtype=torch.float16)
    assert (half.to("npu") * 2).tolist() == [float("inf"), float("-inf"), 2]
    assert npu.npu.utils.is_support_inf_nan()
    with simulation.chip("310P3"):
        assert not npu.npu.utils.is_support_inf_nan()
        x = half.to("npu")
        assert not npu.npu.utils.get_npu_overflow_flag()
        assert (x * 2).tolist() == [65504, -65504, 2]
        assert npu.npu.utils.get_npu_overflow_flag()
        npu.npu.utils.clear_npu_overflow_flag()
        assert (
            x.mul_(2).tolist()
            == torch.tensor([1e6, -1e6, 2], device="npu").half().tolist()
            == [65504, -65504, 2]
        )
        assert npu.npu.utils.get_npu_overflow_flag()
    assert not npu.npu.utils.get_npu_overflow_flag()


def test_scaler_of_a_saturating_chip(npu: Any, simulation: Any) -> None:
    ones = torch.ones(2, 2)
    weight, factor = overflow(torch.amp.GradScaler("npu", init_scale=2.0**10))
    assert torch.equal(weight, ones) and factor == 2**9, "with infinity the plain one sees it"
    with simulation.chip("310P3"):
        weight, factor = overflow(torch.amp.GradScaler("npu", init_scale=2.0**10))
        assert not torch.equal(weight, ones) and factor == 2**10, "and misses it without"
        scaler = npu.npu.amp.GradScaler(init_scale=2.0**10, growth_interval=1)
        weight, factor = overflow(scaler)
        assert torch.equal(weight, ones) and factor == 2**9
        weight, factor = overflow(scaler)
        assert torch.equal(weight, ones) and factor == 2**8
        assert scaler.state_dict()["dynamic"]
        weight, factor = overflow(npu.npu.amp.GradScaler(init_scale=1.0, growth_interval=1))
        assert not torch.equal(weight, ones) and factor == 2
        weight, factor = overflow(npu.npu.amp.GradScaler(init_scale=2.0**10, dynamic=False))
        assert not torch.equal(weight, ones) and factor == 2**10
    assert npu.npu.amp.GradScaler(enabled=False).scale(ones) is ones


# Processes


FRESH = """
import sys, warnings
import torch
torch.ones(1, requires_grad=True).sum().backward()  # starts autograd without threads for the device
rng = torch.get_rng_state()
sys.path.insert(0, sys.argv[1])
import simulated
torch_npu = simulated.enable()
assert torch_npu is simulated.enable()
assert torch.equal(rng, torch.get_rng_state())
assert (torch.npu.device_count(), torch.npu.get_device_name()) == (3, "Ascend910A (simulated)")
torch.npu.set_compile_mode(jit_compile=False)
assert not torch.npu.is_initialized()
weight = torch.ones(2, device="npu:2", requires_grad=True)
weight.pow(2).sum().backward()
assert weight.grad.tolist() == [2, 2]
torch.npu.conv.allow_hf32 = False
print([tuple(each) for each in torch_npu.simulation.settings()])
late = weight.detach().to("cpu", non_blocking=True)  # still pending at the end
"""
NO_DEVICE = """
import torch, torch_npu
assert not torch.npu.is_available() and torch.accelerator.current_accelerator().type == "npu"
assert torch.accelerator.current_accelerator(check_available=True) is None
try:
    torch.ones(1, device="npu")
except RuntimeError as error:
    print(error)
"""
PLUGGED_IN = """
import torch
torch.utils.rename_privateuse1_backend("other")
try:
    import torch_npu
except ImportError as error:
    assert not hasattr(torch, "npu")
    print(error)
"""


def python(code: str, *arguments: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=simulated.environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


@pytest.mark.slow
def test_fresh_process() -> None:
    """On a busy machine, PyTorch's autograd threads sometimes abort a process that ends just after their start."""
    lines = python(FRESH, simulated.FOLDER, PYTHONPATH="", NPU_SIM_DEVICES="3", NPU_SIM_CHIP="910A")
    assert lines == ["[('set_compile_mode.jit_compile', False, True), ('conv.allow_hf32', False, False)]"]


def test_no_visible_device() -> None:
    assert "No NPUs are available" in python(NO_DEVICE, ASCEND_RT_VISIBLE_DEVICES="")[0]


@pytest.mark.slow
def test_another_accelerator() -> None:
    assert python(PLUGGED_IN) == ["PyTorch has another accelerator plugged in, 'other'"]


def test_reasons_not_to_load(npu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        monkeypatch.context() as patched,
        pytest.raises(ImportError, match=r"for torch 2.13, this is 2.12.1\+cpu$"),
    ):
        patched.setattr(torch, "__version__", "2.12.1+cpu")
        npu._check()
    with pytest.raises(ImportError, match=r"^NPU_SIM_CHIP=9 is not simulated, 910B3, 910A, 310P3 are$"):
        npu.chips.activate("9")
    monkeypatch.setenv("NPU_SIM_CACHE", str(tmp_path))
    for compiler, reason in (
        ("no-such-g++", "there is no g++"),
        ("false", "the simulated NPU does not compile"),
    ):
        monkeypatch.setenv("CXX", compiler)
        with pytest.raises(ImportError, match=reason):
            npu._build.library()
    monkeypatch.delenv("NPU_SIM", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "torch_npu-2.13.0.dist-info").mkdir()
    (tmp_path / "torch_npu-2.13.0.dist-info" / "METADATA").write_text("Name: torch_npu\nVersion: 2.13.0\n")
    with pytest.raises(ImportError, match=r"^torch_npu 2.13.0 is installed, set NPU_SIM=1 to simulate"):
        npu._check()
    monkeypatch.setenv("NPU_SIM", "1")
    with pytest.raises(ImportError, match="another accelerator plugged in, 'npu'"):
        npu._check()


def test_concurrent_builds_compile_once(npu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(
        '#!/bin/sh\necho "$@" >> "$(dirname "$0")/calls"\nwhile [ "$1" != -o ]; do shift; done\nsleep 0.01\n: > "$2"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("NPU_SIM_CACHE", str(tmp_path / "cache"))
    built: list[Path] = []
    threads = [threading.Thread(target=lambda: built.append(npu._build.library())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(built)) == 1 and built[0].exists() and len(built) == 4
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len([call for call in calls if "-shared" in call]) == 1
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {built[0].name, "lock"}


RANK = """
import sys, torch_npu
sys.path.insert(0, sys.argv[1])
from npu_sim.test_npu_sim import npu_ranks
npu_ranks()
"""


def npu_ranks() -> None:
    """Run collectives, DDP and SyncBatchNorm on one of two ranks."""
    import torch.distributed as dist

    rank = int(os.environ["RANK"])
    device = torch.device("npu", rank)
    torch.npu.set_device(device)
    assert dist.get_default_backend_for_device("npu") == "hccl"
    dist.init_process_group("hccl")

    def halves(batch: tuple[Tensor, ...]) -> list[list[Tensor]]:
        return [[each.chunk(2)[half].to(device) for each in batch] for half in (0, 1)]

    torch.manual_seed(rank)  # DDP starts all ranks with the weights of the first
    for view in (False, True):
        network = Network().to(device)
        parallel = nn.parallel.DistributedDataParallel(
            network, device_ids=[rank], gradient_as_bucket_view=view
        )
        alone = copy.deepcopy(network)
        (batch,) = batches(1, 8)
        loss_of(parallel, *halves(batch)[rank]).backward()
        for half in halves(batch):
            (loss_of(alone, *half) / 2).backward()
        for mine, wanted in zip(network.parameters(), alone.parameters(), strict=True):
            assert mine.grad.device == device
            torch.testing.assert_close(mine.grad, wanted.grad, atol=1e-5, rtol=1e-4)

    torch.manual_seed(0)
    x = torch.randn(8, 3, 4, 4)
    norms = nn.BatchNorm2d(3), nn.SyncBatchNorm(3).to(device)
    norms[1].load_state_dict(norms[0].state_dict())
    inputs = x.clone().requires_grad_(), x.chunk(2)[rank].to(device).requires_grad_()
    outputs = [norm(each) for norm, each in zip(norms, inputs, strict=True)]
    for output in outputs:
        output.pow(3).sum().backward()
    torch.testing.assert_close(outputs[1].cpu(), outputs[0].chunk(2)[rank], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(inputs[1].grad.cpu(), inputs[0].grad.chunk(2)[rank], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norms[1].running_var.cpu(), norms[0].running_var)

    number = torch.full((2,), float(rank), device=device)
    dist.all_reduce(number, dist.ReduceOp.MAX)
    assert number.tolist() == [1, 1]
    parts = [torch.zeros(1, device=device) for _ in range(2)]
    dist.all_gather(parts, torch.full((1,), float(rank), device=device))
    assert [part.item() for part in parts] == [0, 1]
    dist.broadcast(number.mul_(rank + 5), 1)
    assert number.tolist() == [6, 6]
    objects = [None, None]
    dist.all_gather_object(objects, {"rank": rank})
    assert objects[1] == {"rank": 1}
    dist.barrier()
    try:
        dist.all_reduce(torch.ones(1))
    except RuntimeError as error:
        assert "hccl takes npu tensors" in str(error)
    else:
        raise AssertionError("hccl took a tensor of the host")

    if rank == 1:  # an overflow on one rank only
        torch.ops.npu_sim.set_chip(False, False, "310P3")
    scaler = sys.modules["torch_npu"].npu.amp.GradScaler(init_scale=4.0)
    weight = nn.Parameter(torch.ones(1, device=device))
    scaler.scale((weight.half() * (60000.0 if rank else 1.0)).float().sum()).backward()
    scaler.step(torch.optim.SGD([weight], lr=1.0))
    scaler.update()
    assert weight.item() == 1 and scaler.get_scale() == 2
    dist.destroy_process_group()


@pytest.mark.slow  # training/test_distributed.py trains on two ranks
def test_two_ranks(tmp_path: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    network = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(Path(__file__).parents[1])],
            env=simulated.environment(**network, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    end = time.monotonic() + 120
    said = [rank.communicate(timeout=end - time.monotonic())[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)
