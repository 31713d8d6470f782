// Tensors on the device as CPU tensors over the same memory, and back.
#pragma once

#include "npu.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <unordered_map>
#include <utility>
#include <vector>

namespace npu_sim {

// Inside, operators run only the kernels, without autograd and autocast.
class HostKernels {
  at::AutoDispatchBelowADInplaceOrView no_autograd_;
  c10::impl::ExcludeDispatchKeyGuard no_autocast_{c10::autocast_dispatch_keyset};
};

// The aliases of one operator call. A storage has one alias, so that views stay views in both directions.
class Aliases {
 public:
  explicit Aliases(c10::DeviceIndex device) : device_(device) {}

  at::Tensor to_host(const at::Tensor& tensor);  // tensors of other devices are returned unchanged
  at::Tensor to_device(const at::Tensor& result);  // an argument's alias becomes the argument again
  void write_back();  // sizes, strides and storages that the kernel changed

 private:
  c10::Storage to_host(const c10::Storage& storage);
  c10::Storage to_device(const c10::Storage& storage);

  c10::DeviceIndex device_;
  std::vector<std::pair<at::Tensor, at::Tensor>> tensors_;  // on the device, alias
  std::unordered_map<c10::StorageImpl*, c10::Storage> host_of_, device_of_;
};

// Chips without infinity saturate at the largest number and set a flag. Only for half: float32 seldom overflows.
void saturate(const at::Tensor& host);

}  // namespace npu_sim
