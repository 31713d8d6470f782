// Devices, streams and events, and PyTorch's hooks for them.
#include "npu.h"

#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <string>

namespace npu_sim {
namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::Stream;

thread_local DeviceIndex current = 0;
thread_local c10::StreamId current_stream[kMostDevices] = {};
std::atomic<bool> used{false};
std::atomic<bool> forked_after_use{false};
std::atomic<bool> forked{false};

void set_current(DeviceIndex index) {
  current = checked(index);
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return device_count() > 0; }
  bool hasPrimaryContext(DeviceIndex) const override { return used; }
  DeviceIndex deviceCount() const override { return device_count(); }
  void setCurrentDevice(DeviceIndex index) const override { set_current(index); }
  DeviceIndex getCurrentDevice() const override { return current; }
  DeviceIndex exchangeDevice(DeviceIndex index) const override {
    const auto before = current;
    if (index >= 0) set_current(index);
    return before;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override { return exchangeDevice(index); }
  const at::Generator& getDefaultGenerator(DeviceIndex index) const override {
    return default_generator(index);
  }
  at::Generator getNewGenerator(DeviceIndex index) const override { return new_generator(index); }
  Device getDeviceFromPtr(void*) const override { return Device(kNPU, current); }
  bool isPinnedPtr(const void* address) const override { return is_pinned(address); }
  at::Allocator* getPinnedMemoryAllocator() const override { return pinned_memory(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    at::native::resize_bytes_cpu(storage.unsafeGetStorageImpl(), bytes);
  }
};

using Clock = std::chrono::steady_clock;

struct Event {
  Clock::time_point time;
  uint64_t num_copies;  // those begun before the event was recorded
};

Event* as_event(void* event) {
  return static_cast<Event*>(event);
}

// Kernels have finished when their call returns. Only copies to the host are delayed, see copies.cpp.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kNPU; }
  Device exchangeDevice(Device device) const override {
    const Device before(kNPU, current);
    set_current(device.index());
    return before;
  }
  Device getDevice() const override { return Device(kNPU, current); }
  void setDevice(Device device) const override { set_current(device.index()); }
  void uncheckedSetDevice(Device device) const noexcept override { current = device.index(); }
  DeviceIndex deviceCount() const noexcept override { return device_count(); }

  Stream getDefaultStream(Device device) const override {
    return Stream(Stream::DEFAULT, Device(kNPU, index_or_current(device)));
  }
  Stream getStream(Device device) const override {
    const auto index = index_or_current(device);
    return Stream(Stream::UNSAFE, Device(kNPU, index), current_stream[index]);
  }
  Stream getNewStream(Device device, int) const override {
    static std::atomic<c10::StreamId> next{1};
    return Stream(Stream::UNSAFE, Device(kNPU, index_or_current(device)), next++);
  }
  Stream getStreamFromGlobalPool(Device device, bool) const override { return getNewStream(device, 0); }
  Stream exchangeStream(Stream stream) const override {
    const auto before = getStream(stream.device());
    current_stream[stream.device_index()] = stream.id();
    return before;
  }
  bool queryStream(const Stream&) const override {
    finish_copies();
    return true;
  }
  void synchronizeStream(const Stream&) const override { finish_copies(); }
  void synchronizeDevice(DeviceIndex) const override { finish_copies(); }

  void record(void** event, const Stream&, DeviceIndex, c10::EventFlag) const override {
    if (!*event) *event = new Event;
    *as_event(*event) = {Clock::now(), num_late_copies()};
  }
  void destroyEvent(void* event, DeviceIndex) const noexcept override { delete as_event(event); }
  void block(void*, const Stream&) const override {}
  bool queryEvent(void* event) const override {
    synchronizeEvent(event);
    return true;
  }
  void synchronizeEvent(void* event) const override {
    if (event) finish_copies(as_event(event)->num_copies);
  }
  double elapsedTime(void* first, void* second, DeviceIndex) const override {
    return std::chrono::duration<double, std::milli>(as_event(second)->time - as_event(first)->time).count();
  }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  pthread_atfork(nullptr, nullptr, [] {
    forked = true;
    forked_after_use = used.load();
  });
  return true;
}();

}  // namespace

int device_count() {
  static const int count = [] {
    const char* set = std::getenv("NPU_SIM_DEVICES");
    const int all = std::clamp(set && *set ? std::atoi(set) : 2, 0, kMostDevices);
    const char* visible = std::getenv("ASCEND_RT_VISIBLE_DEVICES");
    if (!visible) return all;
    const std::string text(visible);
    return text.empty() ? 0 : std::min<int>(all, 1 + std::count(text.begin(), text.end(), ','));
  }();
  return count;
}

DeviceIndex current_device() {
  return current;
}

DeviceIndex checked(DeviceIndex index) {
  TORCH_CHECK(device_count() > 0, "No NPUs are available");
  TORCH_CHECK(index >= 0 && index < device_count(), "Invalid NPU device ID ", int(index), ", there are ",
      device_count());
  return index;
}

DeviceIndex index_or_current(Device device) {
  return checked(device.has_index() ? device.index() : current);
}

bool is_bad_fork() {
  return forked_after_use;
}

void begin_work() {
  TORCH_CHECK(!forked_after_use, "Cannot re-initialize NPU in forked subprocess. To use NPU with "
      "multiprocessing, you must use the 'spawn' start method");
  if (used.exchange(true)) return;
  checked(current);
  if (!forked) start_autograd_threads();  // in a child process, autograd restarts automatically
}

}  // namespace npu_sim
