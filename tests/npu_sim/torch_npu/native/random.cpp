// A generator is a seed and an offset; its state has 16 bytes. Each random operator gets a new CPU generator
// seeded with both and advances the offset, so the random numbers of the host do not change.
#include "npu.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/Generator.h>

#include <cstring>

namespace npu_sim {
namespace {

struct NPUGenerator final : c10::GeneratorImpl {
  explicit NPUGenerator(c10::DeviceIndex device)
      : GeneratorImpl(c10::Device(kNPU, device), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)) {}

  void set_current_seed(uint64_t value) override { state[0] = value, state[1] = 0; }
  uint64_t current_seed() const override { return state[0]; }
  void set_offset(uint64_t value) override { state[1] = value; }
  uint64_t get_offset() const override { return state[1]; }
  uint64_t seed() override {
    set_current_seed(c10::detail::getNonDeterministicRandom());
    return current_seed();
  }
  void set_state(const c10::TensorImpl& bytes) override {
    TORCH_CHECK(bytes.numel() == sizeof state && bytes.dtype() == caffe2::TypeMeta::Make<uint8_t>(),
        "RNG state is wrong size");
    std::memcpy(state, bytes.data(), sizeof state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    auto bytes = at::detail::empty_cpu({sizeof state}, at::kByte);
    std::memcpy(bytes.mutable_data_ptr(), state, sizeof state);
    return bytes.getIntrusivePtr();
  }
  NPUGenerator* clone_impl() const override {
    auto* copy = new NPUGenerator(device().index());
    std::memcpy(copy->state, state, sizeof state);
    return copy;
  }

  uint64_t state[2] = {c10::default_rng_seed_val, 0};
};

}  // namespace

at::Generator new_generator(c10::DeviceIndex device) {
  return at::make_generator<NPUGenerator>(device < 0 ? current_device() : device);
}

at::Generator& default_generator(c10::DeviceIndex device) {
  static auto* all = [] {
    auto* generators = new std::vector<at::Generator>;
    for (int index = 0; index < kMostDevices; ++index) generators->push_back(new_generator(index));
    return generators;
  }();
  return all->at(checked(device < 0 ? current_device() : device));
}

at::Generator draw(at::Generator generator) {
  auto* state = static_cast<NPUGenerator*>(generator.unsafeGetGeneratorImpl());
  std::lock_guard<std::mutex> lock(generator.mutex());
  auto drawn = at::detail::createCPUGenerator(
      state->current_seed() * 0x9E3779B97F4A7C15ull ^ state->get_offset());  // similar seeds give different streams
  state->set_offset(state->get_offset() + 4);
  return drawn;
}

}  // namespace npu_sim
