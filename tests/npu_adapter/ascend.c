// An Ascend runtime without Ascend: device memory is host memory, and all work is done when a call returns.
//
// FAKE_ACL_SOC names the chip, FAKE_ACL_DEVICES says how many there are. The headers are those in the
// torch_npu wheel, so the compiler checks every signature. Functions that are not here fail when called:
// build.py makes them.
#define _GNU_SOURCE
#include <acl/acl.h>
#include <acl/acl_op_compiler.h>
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_DEVICES = 16, ALIGNMENT = 512, NO_CONTEXT = 107002, NO_SUCH_DEVICE = 107001, NO_MEMORY = 207001 };
static const size_t TOTAL_MEMORY = (size_t)64 << 30;

static const char *setting(const char *name, const char *otherwise) {
  const char *value = getenv(name);
  return value && *value ? value : otherwise;
}

// ---- start and end

// The kernels are to be there before the first tensor is, in whatever process that happens: no Python
// has to load them. They lie beside this library.
static int load_kernels(void) {
  Dl_info here;
  char path[PATH_MAX];
  if (!dladdr((void *)&load_kernels, &here)) return 0;
  const char *slash = strrchr(here.dli_fname, '/');
  snprintf(path, sizeof path, "%.*slibcpu_kernels.so", slash ? (int)(slash - here.dli_fname) + 1 : 0, here.dli_fname);
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  void (*install)(void) = library ? (void (*)(void))dlsym(library, "install_cpu_kernels") : NULL;
  if (!install) {
    fprintf(stderr, "fake Ascend runtime: %s\n", dlerror());
    return 0;
  }
  install();
  return 1;
}

aclError aclInit(const char *config) { return load_kernels() ? ACL_SUCCESS : ACL_ERROR_FAILURE; }
aclError aclFinalize(void) { return ACL_SUCCESS; }
const char *aclGetRecentErrMsg(void) { return ""; }
const char *aclrtGetSocName(void) { return setting("FAKE_ACL_SOC", "Ascend910B3"); }
void aclAppLog(aclLogLevel level, const char *function, const char *file, uint32_t line, const char *text, ...) {}

// ---- devices; a thread has none before it sets one

static __thread int current = -1;
static char contexts[MOST_DEVICES];

aclError aclrtGetDeviceCount(uint32_t *count) {
  *count = (uint32_t)atoi(setting("FAKE_ACL_DEVICES", "2"));
  return ACL_SUCCESS;
}

aclError aclrtSetDevice(int32_t device) {
  uint32_t count;
  aclrtGetDeviceCount(&count);
  if (device < 0 || device >= (int32_t)count || device >= MOST_DEVICES) return NO_SUCH_DEVICE;
  current = device;
  return ACL_SUCCESS;
}

aclError aclrtGetDevice(int32_t *device) {
  *device = current;
  return current < 0 ? NO_CONTEXT : ACL_SUCCESS;
}

aclError aclrtResetDevice(int32_t device) { return ACL_SUCCESS; }

aclError aclrtGetCurrentContext(aclrtContext *context) {
  *context = current < 0 ? NULL : &contexts[current];
  return current < 0 ? NO_CONTEXT : ACL_SUCCESS;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
  current = (int)((char *)context - contexts);
  return ACL_SUCCESS;
}

aclError aclrtGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active) {
  *flags = 0, *active = 1;
  return ACL_SUCCESS;
}

aclError aclGetDeviceCapability(uint32_t device, aclDeviceInfo what, int64_t *value) {
  *value = 24;
  return ACL_SUCCESS;
}

aclError aclrtDeviceCanAccessPeer(int32_t *can, int32_t device, int32_t peer) {
  *can = 1;
  return ACL_SUCCESS;
}

aclError aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t flags) { return ACL_SUCCESS; }

// ---- memory

static aclError take(void **memory, size_t size) {
  *memory = aligned_alloc(ALIGNMENT, (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
  return *memory ? ACL_SUCCESS : NO_MEMORY;
}

aclError aclrtMalloc(void **memory, size_t size, aclrtMemMallocPolicy policy) { return take(memory, size); }
aclError aclrtMallocAlign32(void **memory, size_t size, aclrtMemMallocPolicy policy) { return take(memory, size); }
aclError aclrtMallocHost(void **memory, size_t size) { return take(memory, size); }
aclError aclrtFree(void *memory) { return free(memory), ACL_SUCCESS; }
aclError aclrtFreeHost(void *memory) { return free(memory), ACL_SUCCESS; }

aclError aclrtMemcpy(void *to, size_t room, const void *from, size_t size, aclrtMemcpyKind kind) {
  if (size > room) return ACL_ERROR_INVALID_PARAM;
  memmove(to, from, size);
  return ACL_SUCCESS;
}

aclError aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t size, aclrtMemcpyKind kind,
                          aclrtStream stream) {
  return aclrtMemcpy(to, room, from, size, kind);
}

aclError aclrtMemset(void *memory, size_t room, int32_t value, size_t size) {
  if (size > room) return ACL_ERROR_INVALID_PARAM;
  memset(memory, value, size);
  return ACL_SUCCESS;
}

aclError aclrtMemsetAsync(void *memory, size_t room, int32_t value, size_t size, aclrtStream stream) {
  return aclrtMemset(memory, room, value, size);
}

aclError aclrtGetMemInfo(aclrtMemAttr kind, size_t *available, size_t *total) {
  *total = TOTAL_MEMORY, *available = TOTAL_MEMORY / 16 * 15;
  return ACL_SUCCESS;
}

// ---- streams and events: nothing is ever outstanding

aclError aclrtCreateStream(aclrtStream *stream) { return take(stream, 1); }
aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t priority, uint32_t flags) { return take(stream, 1); }
aclError aclrtDestroyStream(aclrtStream stream) { return free(stream), ACL_SUCCESS; }
aclError aclrtDestroyStreamForce(aclrtStream stream) { return aclrtDestroyStream(stream); }
aclError aclrtSynchronizeStream(aclrtStream stream) { return ACL_SUCCESS; }
aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout) { return ACL_SUCCESS; }
aclError aclrtSynchronizeDevice(void) { return ACL_SUCCESS; }
aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout) { return ACL_SUCCESS; }
aclError aclrtSetStreamOverflowSwitch(aclrtStream stream, uint32_t on) { return ACL_SUCCESS; }
aclError aclrtSetStreamFailureMode(aclrtStream stream, uint64_t mode) { return ACL_SUCCESS; }

aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus *status) {
  *status = ACL_STREAM_STATUS_COMPLETE;
  return ACL_SUCCESS;
}

aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t flags) {
  *event = calloc(1, sizeof(struct timespec));
  return *event ? ACL_SUCCESS : NO_MEMORY;
}

aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flags) { return aclrtCreateEventExWithFlag(event, flags); }
aclError aclrtDestroyEvent(aclrtEvent event) { return free(event), ACL_SUCCESS; }
aclError aclrtResetEvent(aclrtEvent event, aclrtStream stream) { return ACL_SUCCESS; }
aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) { return ACL_SUCCESS; }
aclError aclrtSynchronizeEvent(aclrtEvent event) { return ACL_SUCCESS; }

aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
  clock_gettime(CLOCK_MONOTONIC, event);
  return ACL_SUCCESS;
}

aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus *status) {
  *status = ACL_EVENT_RECORDED_STATUS_COMPLETE;
  return ACL_SUCCESS;
}

aclError aclrtQueryEventWaitStatus(aclrtEvent event, aclrtEventWaitStatus *status) {
  *status = ACL_EVENT_WAIT_STATUS_COMPLETE;
  return ACL_SUCCESS;
}

aclError aclrtEventElapsedTime(float *milliseconds, aclrtEvent start, aclrtEvent end) {
  const struct timespec *from = start, *to = end;
  *milliseconds = (float)((to->tv_sec - from->tv_sec) * 1e3 + (to->tv_nsec - from->tv_nsec) * 1e-6);
  return ACL_SUCCESS;
}

// ---- settings

static aclrtFloatOverflowMode overflow_mode = ACL_RT_OVERFLOW_MODE_SATURATION;
static int overflowed;  // since it was cleared last; backward sets it in a thread of its own
static int64_t options[256];

// For the kernels: on chips that saturate, numbers too large for fp16 become the largest, and a flag is raised.
int fake_acl_saturates(void) { return overflow_mode == ACL_RT_OVERFLOW_MODE_SATURATION; }
void fake_acl_overflow(void) { overflowed = 1; }
int fake_acl_overflowed(void) { return overflowed; }

aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode mode) { return overflow_mode = mode, ACL_SUCCESS; }
aclError aclrtGetDeviceSatMode(aclrtFloatOverflowMode *mode) { return *mode = overflow_mode, ACL_SUCCESS; }
aclError aclrtSetOpWaitTimeout(uint32_t timeout) { return ACL_SUCCESS; }
aclError aclrtSetOpExecuteTimeOut(uint32_t timeout) { return ACL_SUCCESS; }
aclError aclSetCompileopt(aclCompileOpt option, const char *value) { return ACL_SUCCESS; }
aclError aclopSetCompileFlag(aclOpCompileFlag flag) { return ACL_SUCCESS; }

aclError aclrtSetSysParamOpt(aclSysParamOpt option, int64_t value) {
  options[(unsigned)option & 255] = value;
  return ACL_SUCCESS;
}

aclError aclrtGetSysParamOpt(aclSysParamOpt option, int64_t *value) {
  *value = options[(unsigned)option & 255];
  return ACL_SUCCESS;
}

aclError aclrtCtxSetSysParamOpt(aclSysParamOpt option, int64_t value) { return aclrtSetSysParamOpt(option, value); }
aclError aclrtCtxGetSysParamOpt(aclSysParamOpt option, int64_t *value) { return aclrtGetSysParamOpt(option, value); }

// ---- single operators: what torch_npu starts by name, past PyTorch's dispatcher

struct aclTensorDesc {
  aclDataType type;
  int rank;
  int64_t sizes[8];
};
struct aclDataBuffer {
  void *memory;
  size_t size;
};

aclTensorDesc *aclCreateTensorDesc(aclDataType type, int rank, const int64_t *sizes, aclFormat format) {
  if (rank > 8) return NULL;
  aclTensorDesc *made = calloc(1, sizeof *made);
  made->type = type, made->rank = rank;
  memcpy(made->sizes, sizes, sizeof *sizes * (size_t)rank);
  return made;
}

void aclDestroyTensorDesc(const aclTensorDesc *tensor) { free((void *)tensor); }
void aclSetTensorDescName(aclTensorDesc *tensor, const char *name) {}
aclError aclSetTensorFormat(aclTensorDesc *tensor, aclFormat format) { return ACL_SUCCESS; }
aclError aclSetTensorShape(aclTensorDesc *tensor, int rank, const int64_t *sizes) { return ACL_SUCCESS; }
aclError aclSetTensorPlaceMent(aclTensorDesc *tensor, aclMemType where) { return ACL_SUCCESS; }

aclDataBuffer *aclCreateDataBuffer(void *memory, size_t size) {
  aclDataBuffer *made = malloc(sizeof *made);
  made->memory = memory, made->size = size;
  return made;
}

aclError aclDestroyDataBuffer(const aclDataBuffer *buffer) { return free((void *)buffer), ACL_SUCCESS; }
aclopAttr *aclopCreateAttr(void) { return malloc(1); }
void aclopDestroyAttr(const aclopAttr *attributes) { free((void *)attributes); }
aclError aclopSetAttrBool(aclopAttr *attributes, const char *name, uint8_t value) { return ACL_SUCCESS; }
aclError aclopSetAttrString(aclopAttr *attributes, const char *name, const char *value) { return ACL_SUCCESS; }

static size_t width(aclDataType type) {
  switch (type) {
    case ACL_INT8: case ACL_UINT8: case ACL_BOOL: return 1;
    case ACL_FLOAT16: case ACL_BF16: case ACL_INT16: case ACL_UINT16: return 2;
    case ACL_FLOAT: case ACL_INT32: case ACL_UINT32: return 4;
    case ACL_INT64: case ACL_UINT64: case ACL_DOUBLE: return 8;
    default: return 0;
  }
}

static int is_row(const aclTensorDesc *tensor) {
  for (int number = 0; number + 1 < tensor->rank; ++number)
    if (tensor->sizes[number] != 1) return 0;
  return 1;
}

aclError aclopCompileAndExecute(const char *name, int num_inputs, const aclTensorDesc *const tensors[],
                                const aclDataBuffer *const inputs[], int num_outputs,
                                const aclTensorDesc *const made[], aclDataBuffer *const outputs[],
                                const aclopAttr *attributes, aclopEngineType engine, aclopCompileType compile,
                                const char *path, aclrtStream stream) {
  aclDataBuffer *out = num_outputs ? outputs[0] : NULL;
  if (!strcmp(name, "Fill") && num_inputs == 2 && num_outputs == 1) {  // the shape, then the value
    size_t each = width(made[0]->type);
    if (each == 0 || inputs[1]->size < each) return ACL_ERROR_UNSUPPORTED_DATA_TYPE;
    for (size_t at = 0; at + each <= out->size; at += each) memcpy((char *)out->memory + at, inputs[1]->memory, each);
    return ACL_SUCCESS;
  }
  if (!strcmp(name, "PadV3") && num_outputs == 1 && is_row(tensors[0]) && inputs[0]->size <= out->size) {
    memset(out->memory, 0, out->size);  // torch_npu pads rows at their end only, with zeros
    memcpy(out->memory, inputs[0]->memory, inputs[0]->size);
    return ACL_SUCCESS;
  }
  if (!strcmp(name, "NPUGetFloatStatus") && num_outputs == 1) {
    *(float *)inputs[0]->memory = *(float *)out->memory = (float)overflowed;
    return ACL_SUCCESS;
  }
  if (!strcmp(name, "NPUClearFloatStatus")) {
    overflowed = 0;
    return ACL_SUCCESS;
  }
  fprintf(stderr, "fake Ascend runtime: there is no operator %s\n", name);
  return ACL_ERROR_OP_NOT_FOUND;
}
