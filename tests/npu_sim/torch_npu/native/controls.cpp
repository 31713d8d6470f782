// Controls of the simulation for Python, as torch.ops.npu_sim.
#include "npu.h"

#include <ATen/ops/from_blob.h>
#include <torch/library.h>

namespace npu_sim {
namespace {

at::Tensor host_view(const at::Tensor& tensor) {
  if (tensor.device().type() != kNPU) return tensor;
  return at::from_blob(tensor.mutable_data_ptr(), tensor.sizes(), tensor.strides(),
      [kept = tensor.storage()](void*) {}, tensor.options().device(at::kCPU));
}

TORCH_LIBRARY(npu_sim, library) {
  library.def("host_view(Tensor tensor) -> Tensor", &host_view);
  library.def("default_generator(int device) -> Generator?",
      [](int64_t device) { return default_generator(device); });
  library.def("is_bad_fork() -> bool", &is_bad_fork);
  library.def("device_count() -> int", []() -> int64_t { return device_count(); });
  library.def("num_allocations() -> int", &num_allocations);
  library.def("set_capacity(int bytes) -> ()", &set_capacity);
  library.def("set_limit(int bytes, int device) -> ()",
      [](int64_t bytes, int64_t device) { set_limit(bytes, device); });
  library.def("set_poison(bool on) -> ()", &set_poison);
  library.def("set_chip(bool bf16, bool inf_nan, str name) -> ()", &set_chip);
  library.def("overflow_flag() -> bool", &overflow_flag);
  library.def("clear_overflow_flag() -> ()", &clear_overflow_flag);
  library.def("watch(bool on) -> ()", &watch);
  library.def("op_counts() -> str[]", &op_counts);
  library.def("host_reads() -> str[]", &host_reads);
  library.def("set_denied(str[] rules) -> ()", [](std::vector<std::string> rules) { set_denied(rules); });
  library.def("set_kernel_list(str[] names) -> ()",
      [](std::vector<std::string> names) { set_kernel_list(names); });
  library.def("forbid(str[] dtypes) -> ()", [](std::vector<std::string> dtypes) { forbid(dtypes); });
}

}  // namespace
}  // namespace npu_sim
