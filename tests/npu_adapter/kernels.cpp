// Computes for torch_npu without an NPU: its kernels are replaced by PyTorch's CPU kernels, which run on the
// memory that the fake runtime allocated as device memory.
//
// Everything else is torch_npu's own: allocator, storage, copies between host and device, views, streams,
// generators, autocast, collectives.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <set>
#include <unordered_map>
#include <vector>

extern "C" int fake_acl_saturates();  // in ascend.c
extern "C" void fake_acl_overflow();
extern "C" int fake_acl_overflowed();

namespace {
using at::Tensor;
using c10::Device;
using c10::DeviceType;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::OperatorHandle;
using Stack = torch::jit::Stack;
constexpr auto kNPU = DeviceType::PrivateUse1;

bool on_npu(const Tensor& tensor) { return tensor.defined() && tensor.device().type() == kNPU; }

// Applies `change` to every tensor inside a value of the stack.
template <typename Change>
void change_tensors(c10::IValue& value, Change change) {
  if (value.isTensor()) {
    value = change(value.toTensor());
  } else if (value.isTensorList()) {
    c10::List<Tensor> changed;
    for (const Tensor& each : value.toTensorVector()) changed.push_back(change(each));
    value = std::move(changed);
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> changed;
    for (const std::optional<Tensor>& each : value.toOptionalTensorVector())
      changed.push_back(each ? std::optional<Tensor>(change(*each)) : std::nullopt);
    value = std::move(changed);
  }
}

// CPU tensors over the memory of NPU tensors. Tensors that share a storage share it here too, and a tensor has
// one alias. This identifies a result as an argument, a view of an argument, or a new tensor.
class Aliases {
 public:
  Tensor of(const Tensor& tensor) {
    if (!on_npu(tensor)) return tensor;
    for (const auto& [original, alias] : pairs_)
      if (original.is_same(tensor)) return alias;
    auto alias = at::detail::make_tensor<c10::TensorImpl>(
        storage_of(tensor), DispatchKeySet(DispatchKey::CPU), tensor.dtype());
    alias.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
    pairs_.emplace_back(tensor, alias);
    return alias;
  }

  // Returns the NPU tensor of a result.
  Tensor back(const Tensor& result, Device device) const {
    if (!result.defined() || on_npu(result)) return result;
    for (const auto& [original, alias] : pairs_)
      if (alias.is_same(result)) return original;
    const auto* storage = result.storage().unsafeGetStorageImpl();
    for (const auto& [original, alias] : pairs_)
      if (alias.storage().unsafeGetStorageImpl() == storage)
        return original.as_strided(result.sizes(), result.strides(), result.storage_offset());
    const auto options = result.options().device(device);
    auto made = result.is_non_overlapping_and_dense()
        ? at::empty_strided(result.sizes(), result.strides(), options)
        : at::empty(result.sizes(), options);
    Aliases().of(made).copy_(result);
    return made;
  }

  // Kernels may resize their output, whose alias then has other memory.
  void follow_resizes() const {
    for (const auto& [original, alias] : pairs_) {
      if (alias.sizes() == original.sizes()) continue;
      original.resize_(alias.sizes());
      Aliases().of(original).copy_(alias);
    }
  }

 private:
  c10::Storage storage_of(const Tensor& tensor) {
    auto& known = storages_[tensor.storage().unsafeGetStorageImpl()];
    if (!known) {
      auto* memory = tensor.storage().mutable_data();
      known = c10::Storage(
          c10::Storage::use_byte_size_t(), tensor.storage().nbytes(), c10::DataPtr(memory, DeviceType::CPU),
          c10::GetAllocator(DeviceType::CPU), /*resizable=*/true);
    }
    return known;
  }

  std::vector<std::pair<Tensor, Tensor>> pairs_;
  std::unordered_map<c10::StorageImpl*, c10::Storage> storages_;
};

// Saturates a CPU tensor in fp16, like a chip without infinity.
Tensor saturated(const Tensor& tensor) {
  if (!fake_acl_saturates() || !tensor.defined() || tensor.scalar_type() != at::kHalf) return tensor;
  if (tensor.isfinite().all().item<bool>()) return tensor;
  fake_acl_overflow();
  return tensor.nan_to_num_();
}

// Returns a CPU generator that continues the NPU generator, and advances the latter.
at::Generator cpu_generator(at::Generator npu) {
  constexpr uint64_t kBlocks = 1000003;
  auto cpu = at::detail::createCPUGenerator(npu.current_seed() * kBlocks + npu.get_offset());
  npu.set_offset(npu.get_offset() + 4);
  return cpu;
}

// Returns the device of an operator's arguments, with the checks of PyTorch's kernels: there must be one device,
// but numbers may be tensors on the host.
Device device_of(const OperatorHandle& op, const Stack& stack, size_t first) {
  std::optional<Device> found;
  bool host = false;
  for (size_t at = first; at < stack.size(); ++at) {
    auto value = stack[at];
    if (value.isDevice() && value.toDevice().type() == kNPU && !found) found = value.toDevice();
    const bool index = value.isOptionalTensorList();
    change_tensors(value, [&](const Tensor& tensor) {
      if (on_npu(tensor)) {
        TORCH_CHECK(!found || *found == tensor.device(), "Expected all tensors to be on the same device, but found ",
            *found, " and ", tensor.device(), " in ", op.schema().name());
        found = tensor.device();
      } else if (tensor.defined() && tensor.dim() > 0 && !index) {
        host = true;
      }
      return tensor;
    });
  }
  TORCH_CHECK(!(found && host), "Expected all tensors to be on the same device, but found ", *found, " and cpu in ",
      op.schema().name());
  return found.value_or(Device(kNPU, 0));
}

// The kernel of every operator that computes.
void run_on_cpu(const OperatorHandle& op, Stack* stack) {
  const auto& schema = op.schema();
  const auto first = stack->size() - schema.arguments().size();
  const auto device = device_of(op, *stack, first);
  const auto default_generator = [&] { return at::globalContext().defaultGenerator(device); };
  Aliases aliases;
  bool draws_from_argument = false;
  for (size_t number = 0; number < schema.arguments().size(); ++number) {
    auto& value = (*stack)[first + number];
    change_tensors(value, [&](const Tensor& tensor) { return aliases.of(tensor); });
    if (value.isDevice()) {
      value = Device(DeviceType::CPU);
    } else if (value.isGenerator()) {
      TORCH_CHECK(value.toGenerator().device().type() == kNPU, "Expected a 'npu' device type for generator");
      value = cpu_generator(value.toGenerator());
      draws_from_argument = true;
    } else if (value.isNone() && schema.arguments()[number].type()->str() == "Generator?") {
      value = cpu_generator(default_generator());
      draws_from_argument = true;
    }
  }
  // Some kernels, such as dropout's, use only the default generator; the state of the host's must not change.
  auto cpu_default = at::detail::getDefaultCPUGenerator();
  Tensor kept;
  if (!draws_from_argument && op.hasTag(at::Tag::nondeterministic_seeded)) {
    kept = cpu_default.get_state();
    cpu_default.set_state(cpu_generator(default_generator()).get_state());
  }
  {
    at::AutoDispatchBelowADInplaceOrView no_autograd;
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
    for (auto at = stack->size() - schema.returns().size(); at < stack->size(); ++at)
      change_tensors((*stack)[at], saturated);
  }
  if (kept.defined()) cpu_default.set_state(kept);
  aliases.follow_resizes();
  for (auto at = stack->size() - schema.returns().size(); at < stack->size(); ++at)
    change_tensors((*stack)[at], [&](const Tensor& tensor) { return aliases.back(tensor, device); });
}

// On saturating chips, torch_npu's kernel reads the overflow flag, because no gradient is infinite.
void check_and_unscale(const OperatorHandle& op, Stack* stack) {
  const auto found_infinite = (*stack)[stack->size() - 2].toTensor();
  run_on_cpu(op, stack);
  if (fake_acl_saturates() && fake_acl_overflowed()) Aliases().of(found_infinite).fill_(1);
}

// PyTorch's decomposition instead of torch_npu's kernel; its operators are dispatched here again.
void decompose(const OperatorHandle& op, Stack* stack) {
  op.redispatchBoxed(DispatchKeySet({DispatchKey::AutogradCPU, DispatchKey::CPU}), stack);
}

// PyTorch's derivative instead of torch_npu's, which would start other kernels.
void differentiate(const OperatorHandle& op, Stack* stack) {
  op.redispatchBoxed(DispatchKeySet({DispatchKey::AutogradOther, DispatchKey::PrivateUse1}), stack);
}

// torch_npu copies between host and device; its copies that also convert or rearrange need its kernels.
std::optional<c10::SafeKernelFunction> copy_of_torch_npu;

void copy(const OperatorHandle& op, Stack* stack) {
  const auto first = stack->size() - op.schema().arguments().size();
  const auto into = (*stack)[first].toTensor(), from = (*stack)[first + 1].toTensor();
  const bool plain = into.scalar_type() == from.scalar_type() && into.sizes() == from.sizes() &&
      into.is_contiguous() && from.is_contiguous();
  if (on_npu(into) != on_npu(from) && plain) {
    copy_of_torch_npu->callBoxed(op, DispatchKeySet(DispatchKey::PrivateUse1), stack);
    return;
  }
  Aliases aliases;
  saturated(aliases.of(into).copy_(aliases.of(from)));
  stack->erase(stack->end() - static_cast<long>(op.schema().arguments().size()), stack->end());
  stack->emplace_back(into);
}

// Memory, metadata and views are torch_npu's own.
bool computes(const c10::FunctionSchema& schema) {
  static const std::set<std::string> kept = {
      "_copy_from_and_resize", "_local_scalar_dense", "_pin_memory", "_reshape_alias", "_to_copy", "as_strided",
      "contiguous", "is_pinned", "item", "record_stream", "resize_", "resize_as_", "set_", "to", "unfold", "view"};
  const auto name = schema.name().substr(schema.name().find("::") + 2);
  if (kept.count(name) || name.rfind("empty", 0) == 0 || name.rfind("new_empty", 0) == 0) return false;
  for (const auto& result : schema.returns())
    if (result.alias_info() && !result.alias_info()->isWrite()) return false;
  return true;
}
}  // namespace

// The fake runtime calls this when torch_npu starts it.
extern "C" void install_cpu_kernels() {
  // PyTorch warns about every replaced kernel.
  struct : c10::WarningHandler {
    void process(const c10::Warning&) override {}
  } quiet;
  c10::WarningUtils::WarningHandlerGuard guard(&quiet);
  auto& dispatcher = c10::Dispatcher::singleton();
  static torch::Library computing(torch::Library::IMPL, "aten", DispatchKey::PrivateUse1, __FILE__, __LINE__);
  static torch::Library deriving(torch::Library::IMPL, "aten", DispatchKey::AutogradPrivateUse1, __FILE__, __LINE__);
  for (const auto& name : dispatcher.getAllOpNames()) {
    const auto op = dispatcher.findOp(name);
    if (name.name.rfind("aten::", 0) != 0 || !op || !op->hasSchema() || !computes(op->schema())) continue;
    const bool computed = op->hasKernelForDispatchKey(DispatchKey::PrivateUse1);
    const bool derived = op->hasKernelForDispatchKey(DispatchKey::AutogradPrivateUse1);
    const bool composite = op->hasKernelForDispatchKey(DispatchKey::CompositeImplicitAutograd);
    const auto full = name.name + (name.overload_name.empty() ? "" : "." + name.overload_name);
    if (full == "aten::copy_")
      copy_of_torch_npu.emplace(op->getComputedKernelForDispatchKey(DispatchKey::PrivateUse1));
    if (computed)
      computing.impl(full.c_str(),
          full == "aten::copy_" ? torch::CppFunction::makeFromBoxedFunction<&copy>()
              : full == "aten::_amp_foreach_non_finite_check_and_unscale_"
              ? torch::CppFunction::makeFromBoxedFunction<&check_and_unscale>()
              : composite ? torch::CppFunction::makeFromBoxedFunction<&decompose>()
                          : torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
    if (derived)
      deriving.impl(full.c_str(),
          composite ? torch::CppFunction::makeFromBoxedFunction<&decompose>()
                    : torch::CppFunction::makeFromBoxedFunction<&differentiate>());
  }
}
