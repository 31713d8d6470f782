// HCCL for ranks on one machine: they meet in shared memory, and all work is done when a call returns.
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <third_party/hccl/inc/hccl/hccl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>

namespace {
constexpr size_t kMostRanks = 8, kSlot = 1 << 20;
constexpr auto kPatience = std::chrono::seconds(60);

struct Board {  // fresh shared memory is all zeros, a valid start
  std::atomic<uint32_t> arrived, turn;
  char slots[kMostRanks][kSlot];  // data of each rank for the others
};

struct Group {
  Board* board;
  uint32_t size, rank;
  char name[64];

  char* slot(uint32_t of) const { return board->slots[of]; }

  HcclResult wait_for_all() const {
    const auto turn = board->turn.load();
    if (board->arrived.fetch_add(1) + 1 == size) {
      board->arrived = 0;
      board->turn.fetch_add(1);
      return HCCL_SUCCESS;
    }
    // A dead rank must not block the others forever.
    const auto last = std::chrono::steady_clock::now() + kPatience;
    while (board->turn.load() == turn) {
      if (std::chrono::steady_clock::now() > last) return HCCL_E_TIMEOUT;
      sched_yield();
    }
    return HCCL_SUCCESS;
  }

  // Piece by piece: ranks with data copy it to their slots, then all ranks read the slots they need.
  template <typename Take>
  HcclResult exchange(const void* shown, size_t size_bytes, Take take) const {
    for (size_t at = 0; at < size_bytes; at += kSlot) {
      const size_t piece = std::min(kSlot, size_bytes - at);
      if (shown) std::memcpy(slot(rank), static_cast<const char*>(shown) + at, piece);
      if (auto failed = wait_for_all()) return failed;
      take(at, piece);
      if (auto failed = wait_for_all()) return failed;
    }
    return HCCL_SUCCESS;
  }
};

Group* group_of(HcclComm comm) { return static_cast<Group*>(comm); }

size_t width(HcclDataType type) {
  switch (type) {
    case HCCL_DATA_TYPE_INT8: case HCCL_DATA_TYPE_UINT8: return 1;
    case HCCL_DATA_TYPE_INT16: case HCCL_DATA_TYPE_FP16: case HCCL_DATA_TYPE_BFP16: return 2;
    case HCCL_DATA_TYPE_INT32: case HCCL_DATA_TYPE_FP32: return 4;
    case HCCL_DATA_TYPE_INT64: return 8;
    default: return 0;  // HCCL rejects float64 too
  }
}

template <typename T>
void reduce_as(char* into, const char* from, size_t size, HcclReduceOp op) {
  for (size_t at = 0; at < size; at += sizeof(T)) {
    T one, other;
    std::memcpy(&one, into + at, sizeof(T));
    std::memcpy(&other, from + at, sizeof(T));
    switch (op) {
      case HCCL_REDUCE_SUM: one = one + other; break;
      case HCCL_REDUCE_PROD: one = one * other; break;
      case HCCL_REDUCE_MAX: one = one > other ? one : other; break;
      default: one = one > other ? other : one;
    }
    std::memcpy(into + at, &one, sizeof(T));
  }
}

void reduce(char* into, const char* from, size_t size, HcclDataType type, HcclReduceOp op) {
  switch (type) {
    case HCCL_DATA_TYPE_INT8: return reduce_as<int8_t>(into, from, size, op);
    case HCCL_DATA_TYPE_UINT8: return reduce_as<uint8_t>(into, from, size, op);
    case HCCL_DATA_TYPE_INT16: return reduce_as<int16_t>(into, from, size, op);
    case HCCL_DATA_TYPE_INT32: return reduce_as<int32_t>(into, from, size, op);
    case HCCL_DATA_TYPE_INT64: return reduce_as<int64_t>(into, from, size, op);
    case HCCL_DATA_TYPE_FP16: return reduce_as<c10::Half>(into, from, size, op);
    case HCCL_DATA_TYPE_BFP16: return reduce_as<c10::BFloat16>(into, from, size, op);
    default: return reduce_as<float>(into, from, size, op);
  }
}
}  // namespace

// The headers declare these as C functions.

HcclResult HcclGetRootInfo(HcclRootInfo* info) {
  static int count = 0;
  std::snprintf(info->internal, sizeof info->internal, "/fake-hccl-%d-%d", getpid(), count++);
  return HCCL_SUCCESS;
}

HcclResult HcclCommInitRootInfo(uint32_t size, const HcclRootInfo* info, uint32_t rank, HcclComm* made) {
  if (size > kMostRanks) return HCCL_E_NOT_SUPPORT;
  const int file = shm_open(info->internal, O_CREAT | O_RDWR, 0600);
  if (file < 0 || ftruncate(file, sizeof(Board))) return HCCL_E_SYSCALL;
  void* memory = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED) return HCCL_E_MEMORY;
  auto* group = new Group{static_cast<Board*>(memory), size, rank, ""};
  std::snprintf(group->name, sizeof group->name, "%.60s", info->internal + 1);
  const auto result = group->wait_for_all();
  shm_unlink(info->internal);  // all ranks have mapped it by now
  *made = group;
  return result;
}

HcclResult HcclCommInitRootInfoConfig(
    uint32_t size, const HcclRootInfo* info, uint32_t rank, const HcclCommConfig*, HcclComm* made) {
  return HcclCommInitRootInfo(size, info, rank, made);
}

HcclResult HcclCommDestroy(HcclComm comm) {
  munmap(group_of(comm)->board, sizeof(Board));
  delete group_of(comm);
  return HCCL_SUCCESS;
}

HcclResult HcclGetCommName(HcclComm comm, char* name) {
  std::strcpy(name, group_of(comm)->name);
  return HCCL_SUCCESS;
}

HcclResult HcclGetRankSize(HcclComm comm, uint32_t* size) {
  *size = group_of(comm)->size;
  return HCCL_SUCCESS;
}

HcclResult HcclGetRankId(HcclComm comm, uint32_t* rank) {
  *rank = group_of(comm)->rank;
  return HCCL_SUCCESS;
}

HcclResult HcclGetCommAsyncError(HcclComm, HcclResult* error) {
  *error = HCCL_SUCCESS;
  return HCCL_SUCCESS;
}

HcclResult HcclSetConfig(HcclConfig, HcclConfigValue) { return HCCL_SUCCESS; }
uint32_t HcclGetCommConfigCapability() { return 0; }
HcclResult HcclBarrier(HcclComm comm, aclrtStream) { return group_of(comm)->wait_for_all(); }

HcclResult HcclAllReduce(
    void* from, void* into, uint64_t count, HcclDataType type, HcclReduceOp op, HcclComm comm, aclrtStream) {
  if (!width(type)) return HCCL_E_NOT_SUPPORT;
  const auto* group = group_of(comm);
  return group->exchange(from, count * width(type), [&](size_t at, size_t size) {
    char* here = static_cast<char*>(into) + at;
    std::memcpy(here, group->slot(0), size);  // in order of rank, so that all ranks get the same bits
    for (uint32_t rank = 1; rank < group->size; ++rank) reduce(here, group->slot(rank), size, type, op);
  });
}

HcclResult HcclBroadcast(
    void* data, uint64_t count, HcclDataType type, uint32_t root, HcclComm comm, aclrtStream) {
  if (!width(type)) return HCCL_E_NOT_SUPPORT;
  const auto* group = group_of(comm);
  return group->exchange(group->rank == root ? data : nullptr, count * width(type), [&](size_t at, size_t size) {
    std::memcpy(static_cast<char*>(data) + at, group->slot(root), size);
  });
}

HcclResult HcclAllGather(
    void* from, void* into, uint64_t count, HcclDataType type, HcclComm comm, aclrtStream) {
  if (!width(type)) return HCCL_E_NOT_SUPPORT;
  const auto* group = group_of(comm);
  const size_t each = count * width(type);
  return group->exchange(from, each, [&](size_t at, size_t size) {
    for (uint32_t rank = 0; rank < group->size; ++rank)
      std::memcpy(static_cast<char*>(into) + rank * each + at, group->slot(rank), size);
  });
}
