// Operators without a CPU counterpart: allocation, copies between devices, and torch_npu's own operators for
// formats.
#include "npu.h"
#include "aliases.h"

#include <ATen/EmptyTensor.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <cstring>
#include <deque>
#include <mutex>

namespace npu_sim {
namespace {

using at::Tensor;
using c10::Device;
using Format = std::optional<at::MemoryFormat>;

// A non-blocking copy to the host completes only when the host waits for the device. Until then the destination
// contains NaN (-1 in integers).
struct LateCopy {
  uint64_t number;
  Tensor destination, content;
};

std::mutex mutex;  // guards the variables below
std::deque<LateCopy> late;
uint64_t num_begun = 0;

void begin_late_copy(const Tensor& destination, Tensor content) {
  std::lock_guard<std::mutex> lock(mutex);
  std::memset(destination.mutable_data_ptr(), 0xFF, destination.nbytes());
  late.push_back({++num_begun, destination, std::move(content)});
}

void check_format(Format format, const char* refusal) {
  TORCH_CHECK(format.value_or(at::MemoryFormat::Preserve) == at::MemoryFormat::Preserve ||
          *format == at::MemoryFormat::Contiguous, refusal);
}

bool on_device(const Tensor& tensor) {
  return tensor.device().type() == kNPU;
}

c10::DeviceIndex index_of(std::optional<Device> device) {
  return index_or_current(device.value_or(Device(kNPU)));
}

Dtypes only(c10::ScalarType dtype) {
  Dtypes dtypes;
  dtypes.add(dtype);
  return dtypes;
}

// Memory may have formats that the chip cannot compute in.
const Kernel kEmpty{"empty", "memory_format", /*is_view=*/true};
const Kernel kEmptyStrided{"empty_strided", "", /*is_view=*/true};

Tensor empty(at::IntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<Device> device, std::optional<bool> pinned, Format format) {
  check_format(format, "Only c10::MemoryFormat::Contiguous is supported for creating a npu tensor");
  TORCH_CHECK(!pinned.value_or(false), "Only dense CPU tensors can be pinned");
  begin_kernel(kEmpty, only(c10::dtype_or_default(dtype)));
  const c10::DeviceGuard guard(Device(kNPU, index_of(device)));
  auto made = at::detail::empty_generic(sizes, device_memory(),
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype), format);
  end_kernel(kEmpty, only(made.scalar_type()));
  return made;
}

Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>, std::optional<Device> device, std::optional<bool> pinned) {
  TORCH_CHECK(!pinned.value_or(false), "Only dense CPU tensors can be pinned");
  begin_kernel(kEmptyStrided, only(c10::dtype_or_default(dtype)));
  const c10::DeviceGuard guard(Device(kNPU, index_of(device)));
  auto made = at::detail::empty_strided_generic(sizes, strides, device_memory(),
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
  end_kernel(kEmptyStrided, only(made.scalar_type()));
  return made;
}

Tensor copy_from(const Tensor& source, const Tensor& destination, bool non_blocking) {
  // The device converts; a copy without conversion moves bytes only, whatever the format.
  const bool converts = source.scalar_type() != destination.scalar_type();
  const Kernel kernel{"copy_", "", /*is_view=*/!converts};
  Dtypes dtypes;
  for (const auto& tensor : {source, destination})
    if (converts || on_device(tensor)) dtypes.add(tensor.scalar_type());
  begin_kernel(kernel, dtypes);
  begin_work();

  Aliases aliases(index_of(on_device(destination) ? destination.device() : source.device()));
  const auto from = aliases.to_host(source);
  const auto to = aliases.to_host(destination);
  const HostKernels host;
  const bool reads = !on_device(destination);
  if (reads && non_blocking && destination.is_contiguous() && destination.is_pinned()) {
    if (destination.nbytes())
      begin_late_copy(destination, at::empty(to.sizes(), to.options().pinned_memory(false)).copy_(from));
  } else {
    if (reads) {
      note_host_read("copy_");
      finish_copies();
    }
    to.copy_(from);
  }
  if (chip_saturates() && converts && !reads) saturate(to);
  end_kernel(kernel, dtypes);
  return destination;
}

Tensor copy_from_and_resize(const Tensor& source, const Tensor& destination) {
  destination.resize_(source.sizes());
  return copy_from(source, destination, /*non_blocking=*/false);
}

Tensor to_copy(const Tensor& self, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<Device> device, std::optional<bool> pinned, bool non_blocking, Format format) {
  check_format(format, "Only contiguous_format or preserve_format is supported.");
  const bool leaves = device && device->type() != kNPU;
  if (dtype == at::kDouble && !leaves && self.scalar_type() != at::kDouble) {
    TORCH_WARN_ONCE("Device do not support double dtype now, dtype cast replace with float.");
    dtype = at::kFloat;
  }
  if (device && !leaves) device = Device(kNPU, index_of(device));
  auto options =
      self.options().merge_in(at::TensorOptions().dtype(dtype).device(device).pinned_memory(pinned));
  if (leaves && device->is_cpu() && non_blocking) options = options.pinned_memory(true);
  const bool keeps_strides = format.value_or(at::MemoryFormat::Preserve) == at::MemoryFormat::Preserve &&
      self.is_non_overlapping_and_dense();
  auto copy = keeps_strides ? at::empty_strided(self.sizes(), self.strides(), options)
                            : at::empty(self.sizes(), options);
  copy.copy_(self, non_blocking);
  return copy;
}

Tensor contiguous(const Tensor& self, at::MemoryFormat format) {
  TORCH_CHECK(format == at::MemoryFormat::Contiguous,
      "NPU contiguous operator only supported contiguous memory format.");
  return self.is_contiguous() ? self : self.clone(format);
}

Tensor& set_storage(Tensor& self, c10::Storage storage) {
  const auto length = static_cast<int64_t>(storage.nbytes() / self.itemsize());
  return at::cpu::set_(self, std::move(storage), 0, {length}, {});
}

Tensor& set_storage_part(Tensor& self, c10::Storage storage, int64_t offset, at::IntArrayRef sizes,
    at::IntArrayRef strides) {
  return at::cpu::set_(self, std::move(storage), offset, sizes, strides);
}

void record_stream(Tensor&, c10::Stream) {}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", TORCH_FN(empty));
  library.impl("empty_strided", TORCH_FN(empty_strided));
  library.impl("_copy_from", TORCH_FN(copy_from));
  library.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  library.impl("_to_copy", TORCH_FN(to_copy));
  library.impl("contiguous", TORCH_FN(contiguous));
  library.impl("resize_", TORCH_FN(at::native::resize_));
  library.impl("set_.source_Storage", TORCH_FN(set_storage));
  library.impl("set_.source_Storage_storage_offset", TORCH_FN(set_storage_part));
  library.impl("record_stream", TORCH_FN(record_stream));
}

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, library) {
  library.impl("contiguous", TORCH_FN(contiguous));
}

}  // namespace

uint64_t num_late_copies() {
  std::lock_guard<std::mutex> lock(mutex);
  return num_begun;
}

void finish_copies(uint64_t up_to) {
  std::deque<LateCopy> due;  // released without the lock, because freeing a tensor must not need it
  std::lock_guard<std::mutex> lock(mutex);
  while (!late.empty() && late.front().number <= up_to) {
    auto& copy = late.front();
    const auto bytes = copy.destination.nbytes();
    std::memcpy(copy.destination.mutable_data_ptr(), copy.content.const_data_ptr(), bytes);
    due.push_back(std::move(copy));
    late.pop_front();
  }
}

}  // namespace npu_sim
