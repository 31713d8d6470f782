// Device memory with statistics and a limit, and pinned host memory.
#include "npu.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

namespace npu_sim {
namespace {

using c10::DeviceIndex;

std::mutex mutex;  // guards the variables below
std::array<c10::CachingDeviceAllocator::DeviceStats, kMostDevices> statistics;
std::array<int64_t, kMostDevices> limits{};
int64_t capacity = int64_t{64} << 30;

std::atomic<int64_t> allocations{0};
std::atomic<bool> poisoned{false};

int64_t limit_of(DeviceIndex device) {
  return limits[device] ? limits[device] : capacity;
}

void count_allocated(DeviceIndex device, int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  auto& stats = statistics[device];
  const auto held = stats.allocated_bytes[0].current;
  if (held + bytes > limit_of(device)) {
    stats.num_ooms++;
    TORCH_CHECK_WITH(OutOfMemoryError, false, "NPU out of memory. Tried to allocate ", bytes, " bytes (NPU ",
        int(device), "; ", limit_of(device), " bytes total capacity; ", held, " bytes already allocated)");
  }
  for (auto* of :
       {&stats.allocated_bytes, &stats.reserved_bytes, &stats.active_bytes, &stats.requested_bytes})
    (*of)[0].increase(bytes);
  for (auto* of : {&stats.allocation, &stats.active, &stats.segment}) (*of)[0].increase(1);
  allocations++;
}

void count_freed(DeviceIndex device, int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  auto& stats = statistics[device];
  for (auto* of :
       {&stats.allocated_bytes, &stats.reserved_bytes, &stats.active_bytes, &stats.requested_bytes})
    (*of)[0].decrease(bytes);
  for (auto* of : {&stats.allocation, &stats.active, &stats.segment}) (*of)[0].decrease(1);
}

// Owns one piece of device memory: allocated here, or the storage of a CPU kernel's result.
struct Block {
  Block(DeviceIndex where, size_t size) : device(where), bytes(size) {
    begin_work();
    if (bytes) count_allocated(checked(device), bytes);
  }
  ~Block() {
    if (bytes) count_freed(device, bytes);
    if (own) c10::free_cpu(own);
  }
  DeviceIndex device;
  size_t bytes;
  void* own = nullptr;
  std::optional<c10::Storage> host;
};

c10::DataPtr handle(void* address, std::unique_ptr<Block> block) {
  const c10::Device device(kNPU, block->device);
  return {address, block.release(), [](void* context) { delete static_cast<Block*>(context); }, device};
}

struct DeviceMemory final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto block = std::make_unique<Block>(current_device(), bytes);
    void* address = bytes ? c10::alloc_cpu(bytes) : nullptr;
    if (bytes && poisoned) std::memset(address, 0xFF, bytes);  // NaN in every floating format
    block->own = address;
    return handle(address, std::move(block));
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex device) override {
    std::lock_guard<std::mutex> lock(mutex);
    return statistics[checked(device)];
  }
  void resetAccumulatedStats(DeviceIndex device) override {
    std::lock_guard<std::mutex> lock(mutex);
    auto& stats = statistics[checked(device)];
    for (auto* of : {&stats.allocated_bytes, &stats.allocation}) (*of)[0].reset_accumulated();
  }
  void resetPeakStats(DeviceIndex device) override {
    std::lock_guard<std::mutex> lock(mutex);
    auto& stats = statistics[checked(device)];
    for (auto* of : {&stats.allocated_bytes, &stats.reserved_bytes, &stats.active_bytes,
                     &stats.requested_bytes, &stats.allocation, &stats.active, &stats.segment})
      (*of)[0].reset_peak();
  }
  std::pair<size_t, size_t> getMemoryInfo(DeviceIndex device) override {
    std::lock_guard<std::mutex> lock(mutex);
    const auto total = limit_of(checked(device));
    return {std::max<int64_t>(0, total - statistics[device].allocated_bytes[0].current), total};
  }
};

// Pinned memory is ordinary memory whose addresses are recorded.
struct PinnedMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    bytes = std::max<size_t>(bytes, 1);
    void* address = c10::alloc_cpu(bytes);
    std::lock_guard<std::mutex> lock(pieces_mutex());
    pieces()[reinterpret_cast<uintptr_t>(address)] = bytes;
    return {address, address, &release, c10::Device(c10::DeviceType::CPU)};
  }
  static void release(void* address) {
    {
      std::lock_guard<std::mutex> lock(pieces_mutex());
      pieces().erase(reinterpret_cast<uintptr_t>(address));
    }
    c10::free_cpu(address);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  // Never destroyed: tensors may outlive the static objects of this library.
  static std::map<uintptr_t, size_t>& pieces() {
    static auto* all = new std::map<uintptr_t, size_t>;
    return *all;
  }
  static std::mutex& pieces_mutex() {
    static auto* one = new std::mutex;
    return *one;
  }
};

DeviceMemory device_allocator;
PinnedMemory pinned_allocator;
REGISTER_ALLOCATOR(kNPU, &device_allocator)

}  // namespace

c10::Allocator* device_memory() {
  return &device_allocator;
}

c10::Allocator* pinned_memory() {
  return &pinned_allocator;
}

bool is_pinned(const void* address) {
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  std::lock_guard<std::mutex> lock(PinnedMemory::pieces_mutex());
  auto piece = PinnedMemory::pieces().upper_bound(wanted);
  if (piece == PinnedMemory::pieces().begin()) return false;
  --piece;
  return wanted < piece->first + piece->second;
}

c10::DataPtr adopt(const c10::Storage& host, DeviceIndex device) {
  auto block = std::make_unique<Block>(device, host.nbytes());
  block->host = host;
  return handle(host.mutable_data(), std::move(block));
}

int64_t num_allocations() {
  return allocations;
}

void set_capacity(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  capacity = bytes;
}

void set_limit(int64_t bytes, DeviceIndex device) {
  std::lock_guard<std::mutex> lock(mutex);
  limits[checked(device)] = bytes;
}

void set_poison(bool on) {
  poisoned = on;
}

}  // namespace npu_sim
