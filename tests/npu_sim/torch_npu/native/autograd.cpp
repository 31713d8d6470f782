// PyTorch starts one autograd thread per device at the first backward pass of a process, and never again. If
// that pass was on the CPU before this device was registered, the threads are started here.
#include "npu.h"

#include <torch/csrc/autograd/engine.h>

namespace npu_sim {
namespace {

// A derived class may name the protected members of its base.
struct Opened : torch::autograd::Engine {
  static void start(Engine& engine) {
    engine.initialize_device_threads_pool();
    if ((engine.*&Opened::device_ready_queues_).empty()) (engine.*&Opened::start_device_threads)();
  }
};

}  // namespace

void start_autograd_threads() {
  Opened::start(torch::autograd::Engine::get_default_engine());
}

}  // namespace npu_sim
