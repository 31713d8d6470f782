// Counts the operators that run on the device, and rejects those that the chip or a test forbids.
#include "npu.h"

#include <c10/util/Exception.h>

#include <atomic>
#include <map>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

namespace npu_sim {
namespace {

std::mutex mutex;  // guards the variables below
std::map<std::pair<std::string, uint64_t>, int64_t> calls;  // number of calls by operator and number formats
std::map<std::string, int64_t> reads;
std::unordered_map<std::string, Dtypes> denied;
std::unordered_set<std::string> kernel_list;
Dtypes forbidden;
std::string chip_name = "Ascend910B3";
int watchers = 0;

std::atomic<bool> has_bf16{true}, has_inf_nan{true}, overflowed{false};
std::atomic<bool> quiet{true};  // nothing is counted or forbidden
constexpr Dtypes kAll{~uint64_t{0}};

template <class Visit>
void each_dtype(Visit&& visit) {
  for (int8_t number = 0; number < static_cast<int8_t>(c10::ScalarType::NumOptions); ++number)
    visit(static_cast<c10::ScalarType>(number));
}

Dtypes parse(const std::string& name) {
  Dtypes found;
  each_dtype([&](c10::ScalarType dtype) {
    if (name == c10::toString(dtype)) found.add(dtype);
  });
  TORCH_CHECK(found.bits, "unknown dtype ", name);
  return found;
}

std::string names(Dtypes dtypes) {
  std::string text;
  each_dtype([&](c10::ScalarType dtype) {
    if (dtypes.has(dtype)) text += (text.empty() ? "" : ",") + std::string(c10::toString(dtype));
  });
  return text;
}

std::string full_name(const Kernel& kernel) {
  return kernel.overload.empty() ? kernel.name : kernel.name + "." + kernel.overload;
}

void update_quiet() {
  quiet = watchers == 0 && denied.empty() && kernel_list.empty() && !forbidden.bits && has_bf16;
}

void check(const Kernel& kernel, Dtypes dtypes) {
  const auto op = "aten::" + full_name(kernel);
  for (const auto& name : {kernel.name, full_name(kernel)})
    if (auto rule = denied.find(name); rule != denied.end()) {
      const bool always = rule->second.bits == kAll.bits;
      TORCH_CHECK(!always && !(rule->second.bits & dtypes.bits), op, " is not supported on NPU",
          always ? "" : " for " + names(rule->second), ": denied by the test");
    }
  const auto listed = kernel.name.substr(0, kernel.name.find('['));
  TORCH_CHECK_NOT_IMPLEMENTED(kernel_list.empty() || kernel_list.count(listed), op,
      " has no kernel in torch_npu");
  TORCH_CHECK(!(forbidden.bits & dtypes.bits), op, " got ", names({forbidden.bits & dtypes.bits}),
      " on the device");
  TORCH_CHECK(has_bf16 || kernel.is_view || !dtypes.has(c10::ScalarType::BFloat16), op,
      " is not supported for BFloat16 on ", chip_name);
}

}  // namespace

void begin_kernel(const Kernel& kernel, Dtypes arguments) {
  if (quiet) return;
  std::lock_guard<std::mutex> lock(mutex);
  check(kernel, arguments);
}

void end_kernel(const Kernel& kernel, Dtypes all) {
  if (quiet) return;
  std::lock_guard<std::mutex> lock(mutex);
  check(kernel, all);
  if (watchers) calls[{full_name(kernel), all.bits}]++;
}

void note_host_read(const std::string& how) {
  std::lock_guard<std::mutex> lock(mutex);
  reads[how]++;
}

bool chip_saturates() {
  return !has_inf_nan;
}

void note_overflow() {
  overflowed = true;
}

bool overflow_flag() {
  return overflowed;
}

void clear_overflow_flag() {
  overflowed = false;
}

std::vector<std::string> op_counts() {
  std::lock_guard<std::mutex> lock(mutex);
  std::vector<std::string> lines;
  for (const auto& [call, count] : calls)
    lines.push_back(call.first + " " + names({call.second}) + " " + std::to_string(count));
  return lines;
}

std::vector<std::string> host_reads() {
  std::lock_guard<std::mutex> lock(mutex);
  std::vector<std::string> lines;
  for (const auto& [how, count] : reads) lines.push_back(how + " " + std::to_string(count));
  return lines;
}

void watch(bool on) {
  std::lock_guard<std::mutex> lock(mutex);
  watchers += on ? 1 : -1;
  update_quiet();
}

void set_chip(bool bf16, bool inf_nan, std::string name) {
  std::lock_guard<std::mutex> lock(mutex);
  has_bf16 = bf16;
  has_inf_nan = inf_nan;
  chip_name = std::move(name);
  update_quiet();
}

void set_denied(const std::vector<std::string>& rules) {
  std::lock_guard<std::mutex> lock(mutex);
  denied.clear();
  for (const auto& rule : rules) {
    const auto gap = rule.find(' ');
    const auto dtype = rule.substr(gap + 1);
    denied[rule.substr(0, gap)].bits |= (dtype == "*" ? kAll : parse(dtype)).bits;
  }
  update_quiet();
}

void set_kernel_list(const std::vector<std::string>& names) {
  std::lock_guard<std::mutex> lock(mutex);
  kernel_list = {names.begin(), names.end()};
  update_quiet();
}

void forbid(const std::vector<std::string>& dtypes) {
  std::lock_guard<std::mutex> lock(mutex);
  forbidden = {};
  for (const auto& dtype : dtypes) forbidden.bits |= parse(dtype).bits;
  update_quiet();
}

}  // namespace npu_sim
