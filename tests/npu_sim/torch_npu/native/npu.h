// Declarations shared by the parts of the simulated NPU. Device memory is host memory; every operator runs the
// CPU kernel on aliases of the device tensors.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>
#include <c10/core/Storage.h>

#include <cstdint>
#include <string>
#include <vector>

namespace at {
struct Generator;
class Tensor;
}

namespace npu_sim {

constexpr auto kNPU = c10::DeviceType::PrivateUse1;
constexpr int kMostDevices = 16;

// device.cpp
int device_count();
c10::DeviceIndex current_device();
c10::DeviceIndex checked(c10::DeviceIndex index);  // raises if the device does not exist
c10::DeviceIndex index_or_current(c10::Device device);
void begin_work();  // called before the first use of the device; raises in a process forked after that
bool is_bad_fork();

// memory.cpp
c10::Allocator* device_memory();
c10::Allocator* pinned_memory();
bool is_pinned(const void* address);
c10::DataPtr adopt(const c10::Storage& host, c10::DeviceIndex device);  // a CPU kernel's result, uncopied
int64_t num_allocations();
void set_capacity(int64_t bytes);
void set_limit(int64_t bytes, c10::DeviceIndex device);  // 0: the capacity
void set_poison(bool on);

// random.cpp
at::Generator& default_generator(c10::DeviceIndex device);
at::Generator new_generator(c10::DeviceIndex device);
at::Generator draw(at::Generator generator);  // a CPU generator for one operator

// copies.cpp
uint64_t num_late_copies();
void finish_copies(uint64_t up_to = UINT64_MAX);  // those among the first `up_to`

// autograd.cpp
void start_autograd_threads();

// rules.cpp
struct Dtypes {  // a set of number formats
  uint64_t bits = 0;
  void add(c10::ScalarType dtype) { bits |= uint64_t{1} << static_cast<int>(dtype); }
  bool has(c10::ScalarType dtype) const { return bits >> static_cast<int>(dtype) & 1; }
};

struct Kernel {
  std::string name;  // without aten::, "convolution[transposed]" for a transposed one
  std::string overload;
  bool is_view = false;
};

void begin_kernel(const Kernel& kernel, Dtypes arguments);  // raises if the chip or the test forbids it
void end_kernel(const Kernel& kernel, Dtypes all);  // of arguments and results
void note_host_read(const std::string& how);
bool chip_saturates();
void note_overflow();

std::vector<std::string> op_counts();  // "name.overload dtype,dtype count"
std::vector<std::string> host_reads();  // "how count"
void watch(bool on);
void set_chip(bool has_bf16, bool has_inf_nan, std::string name);
void set_denied(const std::vector<std::string>& rules);  // "name dtype", dtype * for all
void set_kernel_list(const std::vector<std::string>& names);  // empty: no list
void forbid(const std::vector<std::string>& dtypes);
bool overflow_flag();
void clear_overflow_flag();

}  // namespace npu_sim
