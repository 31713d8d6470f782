// Tensors of the device as CPU tensors over the same memory, and back.
#include "aliases.h"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/nan_to_num.h>

namespace npu_sim {
namespace {

// Sets the sizes of `empty` to those of `tensor`.
at::Tensor shaped(at::Tensor empty, const at::Tensor& tensor) {
  auto* impl = empty.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  empty._set_conj(tensor.is_conj());
  empty._set_neg(tensor.is_neg());
  return empty;
}

at::Tensor fresh(const at::Tensor& tensor, c10::Storage storage, c10::DispatchKey key) {
  const c10::DispatchKeySet keys(key);
  return shaped(at::detail::make_tensor<c10::TensorImpl>(std::move(storage), keys, tensor.dtype()), tensor);
}

}  // namespace

at::Tensor Aliases::to_host(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.device().type() != kNPU) return tensor;
  for (const auto& [original, alias] : tensors_)
    if (original.is_same(tensor)) return alias;
  tensors_.emplace_back(tensor, fresh(tensor, to_host(tensor.storage()), c10::DispatchKey::CPU));
  return tensors_.back().second;
}

at::Tensor Aliases::to_device(const at::Tensor& result) {
  if (!result.defined()) return result;
  for (const auto& [original, alias] : tensors_)
    if (alias.is_same(result)) return original;
  TORCH_CHECK_NOT_IMPLEMENTED(result.layout() == at::kStrided && result.has_storage(),
      "the simulated NPU has dense tensors only");
  for (const auto& [original, alias] : tensors_)
    if (alias.storage().is_alias_of(result.storage())) {
      // A view of a normal tensor is a normal tensor, in inference mode too.
      auto view = at::detail::make_tensor<c10::TensorImpl>(
          c10::TensorImpl::VIEW, c10::Storage(original.storage()), original.key_set(), result.dtype());
      return shaped(std::move(view), result);
    }
  return fresh(result, to_device(result.storage()), c10::DispatchKey::PrivateUse1);
}

void Aliases::write_back() {
  for (auto& [impl, host] : host_of_)
    if (host.data() != impl->data()) {  // the kernel enlarged it
      impl->set_data_ptr(adopt(host, impl->device().index()));
      impl->set_nbytes(host.nbytes());
    }
  for (auto& [original, alias] : tensors_) {
    auto* impl = original.unsafeGetTensorImpl();
    auto storage = to_device(alias.storage());
    if (storage.unsafeGetStorageImpl() != impl->storage().unsafeGetStorageImpl())
      impl->set_storage_keep_dtype(std::move(storage));
    if (alias.sizes() != original.sizes() || alias.strides() != original.strides() ||
        alias.storage_offset() != original.storage_offset())
      impl->set_sizes_and_strides(alias.sizes(), alias.strides(), alias.storage_offset());
  }
}

c10::Storage Aliases::to_host(const c10::Storage& storage) {
  auto* impl = storage.unsafeGetStorageImpl();
  if (auto known = host_of_.find(impl); known != host_of_.end()) return known->second;
  c10::Storage host(c10::Storage::use_byte_size_t(), storage.nbytes(),
      c10::DataPtr(storage.mutable_data(), c10::Device(c10::DeviceType::CPU)),
      c10::GetAllocator(c10::DeviceType::CPU), /*resizable=*/true);
  device_of_.emplace(host.unsafeGetStorageImpl(), storage);
  return host_of_.emplace(impl, std::move(host)).first->second;
}

c10::Storage Aliases::to_device(const c10::Storage& storage) {
  auto* impl = storage.unsafeGetStorageImpl();
  if (auto known = device_of_.find(impl); known != device_of_.end()) return known->second;
  c10::Storage adopted(c10::Storage::use_byte_size_t(), storage.nbytes(), adopt(storage, device_),
      device_memory(), /*resizable=*/true);
  return device_of_.emplace(impl, std::move(adopted)).first->second;
}

void saturate(const at::Tensor& host) {
  if (!host.defined() || host.scalar_type() != at::kHalf || at::isfinite(host).all().item<bool>()) return;
  constexpr double most = 65504;
  host.copy_(at::nan_to_num(host, most, most, -most));
  note_overflow();
}

}  // namespace npu_sim
