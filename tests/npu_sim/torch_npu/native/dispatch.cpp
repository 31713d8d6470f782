// One fallback runs every operator of the device: it checks the devices of the tensors, passes aliases of them
// to the CPU kernel, and moves the results and changes of the kernel back to the device.
#include "npu.h"
#include "aliases.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>

namespace npu_sim {
namespace {

using at::Tensor;
using c10::Device;
using c10::IValue;

template <class Visit>
void each_tensor(const IValue& value, Visit&& visit) {
  if (value.isTensor()) {
    visit(value.toTensor());
  } else if (value.isTensorList()) {
    for (const Tensor& tensor : value.toTensorVector()) visit(tensor);
  } else if (value.isOptionalTensorList()) {
    for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector())
      if (tensor) visit(*tensor);
  }
}

template <class Change>
void change_tensors(IValue& value, Change&& change) {
  if (value.isTensor()) {
    value = change(value.toTensor());
  } else if (value.isTensorList()) {
    c10::List<Tensor> changed;
    for (const Tensor& tensor : value.toTensorVector()) changed.push_back(change(tensor));
    value = std::move(changed);
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> changed;
    for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector())
      changed.push_back(tensor ? std::optional<Tensor>(change(*tensor)) : std::nullopt);
    value = std::move(changed);
  }
}

// Real devices accept indices of these operators on the host.
bool takes_host_indices(const std::string& name) {
  static const std::vector<std::string> names = {"aten::index", "aten::index_put", "aten::index_put_",
      "aten::_index_put_impl_", "aten::_unsafe_index", "aten::_unsafe_index_put"};
  return std::find(names.begin(), names.end(), name) != names.end();
}

// The device on which an operator runs, with a check that all its tensors are there.
class Placement {
 public:
  void see(const IValue& value) {
    each_tensor(value, [&](const Tensor& tensor) { see(tensor); });
    if (value.isDevice() && value.toDevice().type() == kNPU && !device_) device_ = value.toDevice();
  }

  c10::DeviceIndex check(const std::string& name) const {
    if (second_) refuse(name, *second_);
    if (host_ && device_ && !takes_host_indices(name)) refuse(name, *host_);
    return index_or_current(device_.value_or(Device(kNPU)));
  }

  Dtypes dtypes;

 private:
  void see(const Tensor& tensor) {
    if (!tensor.defined()) return;
    const Device where = tensor.device();
    if (where.type() == kNPU) {
      if (device_ && device_->has_index() && *device_ != where) second_ = where;
      device_ = where;
      dtypes.add(tensor.scalar_type());
    } else if (tensor.dim() > 0 && where.type() != c10::DeviceType::Meta) {
      host_ = where;  // a host scalar is valid for any operator
    }
  }
  [[noreturn]] void refuse(const std::string& name, Device other) const {
    TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, ",
        *device_, " and ", other, "! (in ", name, ")");
  }

  std::optional<Device> device_, second_, host_;
};

// Random numbers for an operator without a generator argument, which would use the host's on the CPU.
class BorrowedHostGenerator {
 public:
  explicit BorrowedHostGenerator(c10::DeviceIndex device)
      : host_(at::detail::getDefaultCPUGenerator()), before_(host_.get_state()) {
    host_.set_state(draw(default_generator(device)).get_state());
  }
  ~BorrowedHostGenerator() { host_.set_state(before_); }

 private:
  at::Generator host_;
  Tensor before_;
};

Kernel describe(const c10::OperatorHandle& op, c10::ArrayRef<IValue> arguments) {
  const auto& schema = op.schema();
  Kernel kernel{schema.name().substr(schema.name().rfind(':') + 1), schema.overload_name()};
  for (size_t index = 0; index < arguments.size(); ++index) {
    const auto& argument = schema.arguments()[index];
    if (argument.name() == "transposed" && arguments[index].toBool()) kernel.name += "[transposed]";
    if (argument.alias_info() && !argument.alias_info()->isWrite()) kernel.is_view = true;
  }
  return kernel;
}

void run(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto num_arguments = schema.arguments().size();
  const auto first = stack->size() - num_arguments;
  auto argument = [&](size_t index) -> IValue& { return (*stack)[first + index]; };

  Placement placement;
  for (size_t index = 0; index < num_arguments; ++index) placement.see(argument(index));
  const auto device = placement.check(schema.name());
  const Kernel kernel = describe(op, c10::ArrayRef<IValue>(stack->data() + first, num_arguments));
  begin_kernel(kernel, placement.dtypes);
  if (op.hasTag(at::Tag::data_dependent_output) || op.hasTag(at::Tag::dynamic_output_shape)) {
    note_host_read(kernel.name);  // the host waits for a value or size
    finish_copies();
  }

  Aliases aliases(device);
  std::vector<Tensor> written;
  bool has_generator = false;
  for (size_t index = 0; index < num_arguments; ++index) {
    auto& value = argument(index);
    const auto& declared = schema.arguments()[index];
    change_tensors(value, [&](const Tensor& tensor) { return aliases.to_host(tensor); });
    if (declared.alias_info() && declared.alias_info()->isWrite())
      each_tensor(value, [&](const Tensor& tensor) { written.push_back(tensor); });
    if (value.isDevice()) {
      value = Device(c10::DeviceType::CPU);
    } else if (value.isGenerator()) {
      TORCH_CHECK(value.toGenerator().device().type() == kNPU,
          "Expected a 'npu' device type for generator but found '", value.toGenerator().device().type(), "'");
      value = draw(value.toGenerator());
      has_generator = true;
    } else if (value.isNone() && declared.type()->str() == "Generator?") {
      value = draw(default_generator(device));
      has_generator = true;
    }
    TORCH_CHECK_NOT_IMPLEMENTED(!value.isStorage(), schema.name(), " of a storage on the simulated NPU");
  }

  Dtypes dtypes = placement.dtypes;
  {
    HostKernels host;
    std::optional<BorrowedHostGenerator> borrowed;
    if (!has_generator && op.hasTag(at::Tag::nondeterministic_seeded)) borrowed.emplace(device);
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
    if (chip_saturates() && !kernel.is_view)
      for (const auto& tensor : written) saturate(tensor);
  }
  aliases.write_back();
  for (auto index = stack->size() - schema.returns().size(); index < stack->size(); ++index)
    change_tensors((*stack)[index], [&](const Tensor& result) {
      if (!result.defined()) return result;
      dtypes.add(result.scalar_type());
      if (chip_saturates() && !kernel.is_view) {
        HostKernels host;
        saturate(result);
      }
      return aliases.to_device(result);
    });
  end_kernel(kernel, dtypes);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run>());
}

// Composite kernels of these operators would select backends by device type.
TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("convolution", torch::CppFunction::makeFromBoxedFunction<&run>());
  library.impl("convolution_backward", torch::CppFunction::makeFromBoxedFunction<&run>());
}

}  // namespace
}  // namespace npu_sim
