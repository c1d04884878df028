/*
 * A stand-in for NVIDIA's driver: libcuda.so.1 with one device, whose memory is the host's.
 *
 * Calls do at once what a driver would queue; while a stream captures, its launches go into a graph instead. What a
 * driver would refuse is refused and said to be wrong. Kernels run where host.py gave code for them (fibres.c runs it).
 *
 * STANDIN_WRONG       a file that gets a line for each wrong call (beside standard error)
 * STANDIN_CALLS       a file that gets a line for each call of interest
 * STANDIN_CAPABILITY  the device's compute capability, "9.0" where it isn't set
 * STANDIN_CUDA        the version of CUDA that the driver knows, 13000 where it isn't set
 */
#define _GNU_SOURCE
#include <cuda.h>
#include <elf.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

#if CUDA_VERSION < 13000
#error "written for the calls of CUDA 13's cuda.h"
#endif

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* A call that has nothing to do here. */
#define SUCCEEDS(name, ...)                                                                                            \
    CUresult name(__VA_ARGS__) { return CUDA_SUCCESS; }

enum {
    MOST_PARAMETERS = 128,
    MOST_CONTEXTS = 64, /* on a thread's stack */
    MOST_THREADS = 1024,
    MOST_GRID_YZ = 65535,
    REGISTERS = 65536,
    REGISTER_UNIT = 8,
    PLAIN_SHARED = 48 << 10, /* what a launch may ask for without cuFuncSetAttribute */
    SYSTEM_SHARED = 1024,    /* what a block's shared memory begins with since compute capability 9.0 */
    ALIGNMENT = 512,
    FRESH = 0xAB, /* what memory holds that nobody wrote, and that was freed */
    FREED = 0xCD,
};
static const size_t DEVICE_BYTES = (size_t)139 << 30;

/* ---------------------------------------------------------------- what is said */

static FILE *opened(const char *variable)
{
    const char *path = getenv(variable);
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file)
        setvbuf(file, NULL, _IOLBF, 0);
    return file;
}

static void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void note(const char *format, ...)
{
    static FILE *calls;
    static int asked;
    if (!asked) {
        calls = opened("STANDIN_CALLS");
        asked = 1;
    }
    if (!calls)
        return;
    va_list values;
    va_start(values, format);
    vfprintf(calls, format, values);
    va_end(values);
    fputc('\n', calls);
}

void standin_wrong(const char *format, ...)
{
    static FILE *wrongs;
    if (!wrongs)
        wrongs = opened("STANDIN_WRONG");
    char text[2000];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    if (wrongs)
        fprintf(wrongs, "%s\n", text);
    fprintf(stderr, "WRONG: %s\n", text);
    note("WRONG %s", text);
}

static const struct {
    CUresult error;
    const char *name;
} ERRORS[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
    {CUDA_ERROR_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
};

CUresult cuGetErrorName(CUresult error, const char **name)
{
    for (size_t i = 0; i < COUNT(ERRORS); i++)
        if (ERRORS[i].error == error) {
            *name = ERRORS[i].name;
            return CUDA_SUCCESS;
        }
    *name = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char **text)
{
    *text = "an error of the stand-in for a driver";
    return CUDA_SUCCESS;
}

/* ---------------------------------------------------------------- the device */

static int named_number(const char *variable, int otherwise)
{
    const char *value = getenv(variable);
    return value ? atoi(value) : otherwise;
}

static void capability(int *major, int *minor)
{
    const char *value = getenv("STANDIN_CAPABILITY");
    *major = 9;
    *minor = 0;
    if (value)
        sscanf(value, "%d.%d", major, minor);
}

/* Most bytes of shared memory that a block may ask for. */
static int most_shared(void)
{
    int major, minor;
    capability(&major, &minor);
    if (major >= 9)
        return 232448;
    if (major == 8)
        return minor == 0 ? 166912 : 101376;
    return 65536;
}

static const struct {
    CUdevice_attribute attribute;
    int value;
} DEVICE[] = {
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, MOST_THREADS},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 2147483647},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, MOST_GRID_YZ},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, MOST_GRID_YZ},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, PLAIN_SHARED},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 233472},
    {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65536},
    {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, REGISTERS},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, REGISTERS},
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
    {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132},
    {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1980000},
    {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
    {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
};

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
    int major, minor;
    capability(&major, &minor);
    *value = 0;
    if (attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
        *value = major;
    else if (attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
        *value = minor;
    else if (attribute == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        *value = most_shared();
    for (size_t i = 0; i < COUNT(DEVICE); i++)
        if (DEVICE[i].attribute == attribute)
            *value = DEVICE[i].value;
    return CUDA_SUCCESS;
}

SUCCEEDS(cuInit, unsigned flags)
SUCCEEDS(cuProfilerStart, void)
SUCCEEDS(cuProfilerStop, void)

CUresult cuDriverGetVersion(int *version)
{
    *version = named_number("STANDIN_CUDA", 13000);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count)
{
    *count = 1;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    *device = 0;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    snprintf(name, length, "stand-in for a GPU");
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
    memset(uuid, 7, sizeof *uuid);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char *bus, int length, CUdevice device)
{
    snprintf(bus, length, "0000:01:00.0");
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device)
{
    *bytes = DEVICE_BYTES;
    return CUDA_SUCCESS;
}

/* ---------------------------------------------------------------- contexts: one, and a stack of it for each thread */

struct CUctx_st {
    int retained;
};
static struct CUctx_st primary;
static __thread CUcontext contexts[MOST_CONTEXTS];
static __thread int depth;

static CUresult without_context(const char *call)
{
    standin_wrong("%s without a current context", call);
    return CUDA_ERROR_INVALID_CONTEXT;
}

#define NEEDS_CONTEXT                                                                                                  \
    do {                                                                                                               \
        if (depth == 0)                                                                                                \
            return without_context(__func__);                                                                          \
    } while (0)

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    primary.retained++;
    *context = &primary;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
    primary.retained--;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active)
{
    *flags = 0;
    *active = primary.retained > 0;
    return CUDA_SUCCESS;
}

SUCCEEDS(cuDevicePrimaryCtxReset, CUdevice device)
SUCCEEDS(cuDevicePrimaryCtxSetFlags, CUdevice device, unsigned flags)

CUresult cuCtxPushCurrent(CUcontext context)
{
    if (depth == MOST_CONTEXTS) {
        standin_wrong("%d contexts were pushed and not popped", MOST_CONTEXTS);
        return CUDA_ERROR_INVALID_VALUE;
    }
    contexts[depth++] = context;
    return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext *context)
{
    if (depth == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    depth--;
    if (context)
        *context = contexts[depth];
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context)
{
    *context = depth ? contexts[depth - 1] : NULL;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context)
{
    if (depth)
        depth--;
    if (context)
        contexts[depth++] = context;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device)
{
    *device = 0;
    return depth ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult cuCtxGetId(CUcontext context, unsigned long long *id)
{
    *id = 1;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetApiVersion(CUcontext context, unsigned *version)
{
    *version = named_number("STANDIN_CUDA", 13000);
    return CUDA_SUCCESS;
}

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
    if (least)
        *least = 0;
    if (greatest)
        *greatest = -5;
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize(void)
{
    NEEDS_CONTEXT;
    return CUDA_SUCCESS;
}

/* ---------------------------------------------------------------- streams */

struct launch {
    CUkernel kernel;
    struct shape shape;
    uint64_t arguments[MOST_PARAMETERS];
};

struct CUgraph_st {
    struct launch *launches;
    size_t count, room;
};

struct CUstream_st {
    unsigned flags;
    CUgraph captured; /* NULL: it doesn't capture */
};

static _Atomic int capturing; /* so many streams */

/* A stream that was created; NULL for the default ones, which are small numbers. */
static CUstream created(CUstream stream)
{
    return (uintptr_t)stream < 16 ? NULL : stream;
}

static int captures(CUstream stream)
{
    return created(stream) && stream->captured;
}

/* Says that a call uses the legacy stream at a time when that is forbidden. */
static void check_legacy(CUstream stream, const char *call)
{
    if (!created(stream) && capturing)
        standin_wrong("%s on the legacy stream while a stream captures", call);
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
    NEEDS_CONTEXT;
    *stream = calloc(1, sizeof **stream);
    (*stream)->flags = flags;
    return CUDA_SUCCESS;
}

CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority)
{
    return cuStreamCreate(stream, flags);
}

CUresult cuStreamDestroy(CUstream stream)
{
    if (captures(stream))
        standin_wrong("a stream is destroyed while it captures");
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream stream)
{
    check_legacy(stream, "waiting");
    if (!captures(stream))
        return CUDA_SUCCESS;
    standin_wrong("a stream is waited for while it captures");
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult cuStreamGetFlags(CUstream stream, unsigned *flags)
{
    *flags = created(stream) ? stream->flags : 0;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetPriority(CUstream stream, int *priority)
{
    *priority = 0;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetCtx(CUstream stream, CUcontext *context)
{
    NEEDS_CONTEXT;
    *context = &primary;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetDevice(CUstream stream, CUdevice *device)
{
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetId(CUstream stream, unsigned long long *id)
{
    *id = (uintptr_t)stream;
    return CUDA_SUCCESS;
}

SUCCEEDS(cuStreamQuery, CUstream stream)
SUCCEEDS(cuStreamWaitEvent, CUstream stream, CUevent event, unsigned flags)

struct CUevent_st {
    char unused;
};

CUresult cuEventCreate(CUevent *event, unsigned flags)
{
    NEEDS_CONTEXT;
    *event = calloc(1, sizeof **event);
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event)
{
    free(event);
    return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end)
{
    *milliseconds = 1;
    return CUDA_SUCCESS;
}

SUCCEEDS(cuEventRecord, CUevent event, CUstream stream)
SUCCEEDS(cuEventRecordWithFlags, CUevent event, CUstream stream, unsigned flags)
SUCCEEDS(cuEventSynchronize, CUevent event)
SUCCEEDS(cuEventQuery, CUevent event)

/* ---------------------------------------------------------------- memory: the host's, in blocks that are known */

struct block {
    char *first;
    size_t bytes;
};

static struct {
    struct block *blocks;
    size_t count, room, bytes;
    pthread_mutex_t lock;
} memory = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* The number of the block that an address lies in, or memory.count; memory.lock is held. */
static size_t block_of(CUdeviceptr address)
{
    size_t i = 0;
    while (i < memory.count && address - (uintptr_t)memory.blocks[i].first >= memory.blocks[i].bytes)
        i++;
    return i;
}

/* The block that an address lies in; {NULL, 0}: in none. */
static struct block find(CUdeviceptr address)
{
    pthread_mutex_lock(&memory.lock);
    size_t i = block_of(address);
    struct block found = i < memory.count ? memory.blocks[i] : (struct block){NULL, 0};
    pthread_mutex_unlock(&memory.lock);
    return found;
}

static int within(const char *call, CUdeviceptr address, size_t bytes)
{
    if (bytes == 0)
        return 1;
    struct block found = find(address);
    if (!found.first)
        standin_wrong("%s: %zu bytes in memory that nobody allocated", call, bytes);
    else if (address + bytes > (uintptr_t)found.first + found.bytes)
        standin_wrong("%s: %zu bytes reach beyond an allocation of %zu", call, bytes, found.bytes);
    else
        return 1;
    return 0;
}

CUresult cuMemAlloc(CUdeviceptr *address, size_t bytes)
{
    NEEDS_CONTEXT;
    if (bytes == 0) {
        standin_wrong("an allocation of 0 bytes");
        return CUDA_ERROR_INVALID_VALUE;
    }
    char *first = aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    if (!first)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset(first, FRESH, bytes);
    pthread_mutex_lock(&memory.lock);
    if (memory.count == memory.room) {
        memory.room = 2 * memory.room + 64;
        memory.blocks = realloc(memory.blocks, memory.room * sizeof *memory.blocks);
    }
    memory.blocks[memory.count++] = (struct block){first, bytes};
    memory.bytes += bytes;
    pthread_mutex_unlock(&memory.lock);
    *address = (uintptr_t)first;
    note("allocate %zu%s", bytes, capturing ? " WHILE CAPTURING" : "");
    return CUDA_SUCCESS;
}

CUresult cuMemFree(CUdeviceptr address)
{
    pthread_mutex_lock(&memory.lock);
    size_t i = block_of(address);
    struct block found = i < memory.count ? memory.blocks[i] : (struct block){NULL, 0};
    int whole = found.first && (uintptr_t)found.first == address;
    if (whole) {
        memory.blocks[i] = memory.blocks[--memory.count];
        memory.bytes -= found.bytes;
    }
    pthread_mutex_unlock(&memory.lock);
    if (!whole) {
        standin_wrong("memory is freed that nobody allocated");
        return CUDA_ERROR_INVALID_VALUE;
    }
    note("free %zu%s", found.bytes, capturing ? " WHILE CAPTURING" : "");
    memset(found.first, FREED, found.bytes);
    free(found.first);
    return CUDA_SUCCESS;
}

CUresult cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream stream)
{
    return cuMemAlloc(address, bytes);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *address, size_t bytes, CUmemoryPool pool, CUstream stream)
{
    return cuMemAlloc(address, bytes);
}

CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream)
{
    return cuMemFree(address);
}

CUresult cuMemGetInfo(size_t *left, size_t *total)
{
    NEEDS_CONTEXT;
    *total = DEVICE_BYTES;
    *left = DEVICE_BYTES - memory.bytes;
    return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange(CUdeviceptr *first, size_t *bytes, CUdeviceptr address)
{
    struct block found = find(address);
    if (!found.first)
        return CUDA_ERROR_NOT_FOUND;
    if (first)
        *first = (uintptr_t)found.first;
    if (bytes)
        *bytes = found.bytes;
    return CUDA_SUCCESS;
}

/* A copy's end on the device: its address, and 0 for the other one, which is the host's. */
static CUresult copy(const char *call, void *to, CUdeviceptr device_to, const void *from, CUdeviceptr device_from,
                     size_t bytes, CUstream stream)
{
    if (depth == 0)
        return without_context(call);
    check_legacy(stream, call);
    if (captures(stream)) {
        standin_wrong("%s into a stream that captures: the stand-in captures launches alone", call);
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    if ((device_to && !within(call, device_to, bytes)) || (device_from && !within(call, device_from, bytes)))
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(device_to ? (void *)device_to : to, device_from ? (const void *)device_from : from, bytes);
    note("%s %zu", call, bytes);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes)
{
    return copy(__func__, NULL, to, from, 0, bytes, NULL);
}

CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes)
{
    return copy(__func__, to, 0, NULL, from, bytes, NULL);
}

CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    return copy(__func__, NULL, to, NULL, from, bytes, NULL);
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
    return copy(__func__, NULL, to, from, 0, bytes, stream);
}

CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    return copy(__func__, to, 0, NULL, from, bytes, stream);
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    return copy(__func__, NULL, to, NULL, from, bytes, stream);
}

CUresult cuMemsetD8(CUdeviceptr address, unsigned char value, size_t bytes)
{
    NEEDS_CONTEXT;
    if (!within(__func__, address, bytes))
        return CUDA_ERROR_INVALID_VALUE;
    memset((void *)address, value, bytes);
    return CUDA_SUCCESS;
}

CUresult cuMemsetD8Async(CUdeviceptr address, unsigned char value, size_t bytes, CUstream stream)
{
    if (!captures(stream))
        return cuMemsetD8(address, value, bytes);
    standin_wrong("%s into a stream that captures: the stand-in captures launches alone", __func__);
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned flags)
{
    *address = malloc(bytes);
    return *address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemFreeHost(void *address)
{
    free(address);
    return CUDA_SUCCESS;
}

CUresult cuMemHostGetDevicePointer(CUdeviceptr *device, void *host, unsigned flags)
{
    *device = (uintptr_t)host;
    return CUDA_SUCCESS;
}

SUCCEEDS(cuMemHostRegister, void *address, size_t bytes, unsigned flags)
SUCCEEDS(cuMemHostUnregister, void *address)

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr address)
{
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        *(CUcontext *)data = &primary;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)data = CU_MEMORYTYPE_DEVICE;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *(CUdeviceptr *)data = address;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)data = 0;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuPointerGetAttributes(unsigned count, CUpointer_attribute *attributes, void **data, CUdeviceptr address)
{
    for (unsigned i = 0; i < count; i++)
        if (cuPointerGetAttribute(data[i], attributes[i], address) != CUDA_SUCCESS)
            memset(data[i], 0, sizeof(int));
    return CUDA_SUCCESS;
}

struct CUmemPoolHandle_st {
    char unused;
};
static struct CUmemPoolHandle_st pool;

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *found, CUdevice device)
{
    *found = &pool;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetMemPool(CUmemoryPool *found, CUdevice device)
{
    *found = &pool;
    return CUDA_SUCCESS;
}

CUresult cuMemPoolGetAttribute(CUmemoryPool which, CUmemPool_attribute attribute, void *value)
{
    *(cuuint64_t *)value = 0;
    return CUDA_SUCCESS;
}

SUCCEEDS(cuMemPoolSetAttribute, CUmemoryPool which, CUmemPool_attribute attribute, void *value)

/* ---------------------------------------------------------------- kernels: cubins, and code for the host */

struct CUkern_st { /* a CUfunction is one too */
    char *name;
    unsigned parameters;
    size_t offsets[MOST_PARAMETERS], sizes[MOST_PARAMETERS];
    unsigned registers, most_threads, stack, shared;
    unsigned allowed; /* bytes of dynamic shared memory, where cuFuncSetAttribute said so */
    int was_apart;    /* its threads were found at and past a barrier */
    host_code code;
    CUlibrary library;
    CUkernel next;
};

struct CUlib_st {
    CUkernel kernels;
};

struct known {
    char *name;
    host_code code;
    struct known *next;
};
static struct known *known; /* what host.py compiled, the last one first */

/* host.py calls it, before a kernel is loaded. */
void standin_register(const char *name, host_code code)
{
    struct known *one = malloc(sizeof *one);
    *one = (struct known){strdup(name), code, known};
    known = one;
}

static host_code code_of(const char *name)
{
    for (struct known *one = known; one; one = one->next)
        if (!strcmp(one->name, name))
            return one->code;
    return NULL;
}

/* What a cubin says of its kernels, in sections .nv.info and .nv.info.NAME: words after an attribute's number. */
enum {
    EIFMT_SVAL = 0x04, /* the format of attributes that have words of their own */
    EIATTR_MAX_THREADS = 0x05,
    EIATTR_FRAME_SIZE = 0x12,
    EIATTR_KPARAM_INFO = 0x17,
    EIATTR_REGCOUNT = 0x2f,
    EIATTR_KPARAM_INFO_V2 = 0x45,
};

struct cubin {
    const char *image;
    const Elf64_Shdr *sections;
    int count;
    const char *names;
    const Elf64_Sym *symbols;
    const char *symbol_names;
};

struct info {
    const unsigned char *at, *end;
    int attribute;
    const uint32_t *words;
};

static struct info info_of(const struct cubin *cubin, int section)
{
    const unsigned char *first = (const unsigned char *)cubin->image + cubin->sections[section].sh_offset;
    return (struct info){.at = first, .end = first + cubin->sections[section].sh_size};
}

/* Goes to the next attribute that has words; 0: there is none. */
static int next_info(struct info *info)
{
    while (info->at < info->end) {
        int format = info->at[0], size = info->at[2] | info->at[3] << 8;
        info->attribute = info->at[1];
        info->words = (const uint32_t *)(info->at + 4);
        info->at += 4 + (format == EIFMT_SVAL ? size : 0);
        if (format == EIFMT_SVAL)
            return 1;
    }
    return 0;
}

static struct cubin opened_cubin(const void *image)
{
    const Elf64_Ehdr *header = image;
    struct cubin cubin = {.image = image, .count = header->e_shnum};
    cubin.sections = (const Elf64_Shdr *)(cubin.image + header->e_shoff);
    cubin.names = cubin.image + cubin.sections[header->e_shstrndx].sh_offset;
    for (int i = 0; i < cubin.count; i++)
        if (cubin.sections[i].sh_type == SHT_SYMTAB) {
            cubin.symbols = (const Elf64_Sym *)(cubin.image + cubin.sections[i].sh_offset);
            cubin.symbol_names = cubin.image + cubin.sections[cubin.sections[i].sh_link].sh_offset;
        }
    return cubin;
}

/* What follows a prefix in a section's name; NULL: it begins otherwise. */
static const char *name_after(const struct cubin *cubin, int section, const char *prefix)
{
    const char *name = cubin->names + cubin->sections[section].sh_name;
    size_t length = strlen(prefix);
    return strncmp(name, prefix, length) ? NULL : name + length;
}

static CUkernel kernel_named(CUlibrary library, const char *name)
{
    CUkernel kernel = library->kernels;
    while (kernel && strcmp(kernel->name, name))
        kernel = kernel->next;
    return kernel;
}

static void take_parameter(CUkernel kernel, const uint32_t *words, int has_size)
{
    unsigned ordinal = words[1] & 0xffff;
    if (ordinal >= MOST_PARAMETERS) {
        standin_wrong("more than %d parameters: %.200s", MOST_PARAMETERS, kernel->name);
        return;
    }
    if (ordinal >= kernel->parameters)
        kernel->parameters = ordinal + 1;
    size_t bytes = has_size ? words[2] >> 18 : 0;
    if (bytes > sizeof(uint64_t))
        standin_wrong("a parameter of %zu bytes: %.200s", bytes, kernel->name);
    kernel->offsets[ordinal] = words[1] >> 16;
    kernel->sizes[ordinal] = bytes && bytes < sizeof(uint64_t) ? bytes : sizeof(uint64_t);
}

static void take_kernel(CUlibrary library, const struct cubin *cubin, int section, const char *name)
{
    CUkernel kernel = calloc(1, sizeof *kernel);
    kernel->name = strdup(name);
    kernel->code = code_of(name);
    kernel->library = library;
    kernel->next = library->kernels;
    library->kernels = kernel;
    struct info info = info_of(cubin, section);
    while (next_info(&info))
        if (info.attribute == EIATTR_KPARAM_INFO || info.attribute == EIATTR_KPARAM_INFO_V2)
            take_parameter(kernel, info.words, info.attribute == EIATTR_KPARAM_INFO);
        else if (info.attribute == EIATTR_MAX_THREADS)
            kernel->most_threads = info.words[0];
}

static void take_usage(CUlibrary library, const struct cubin *cubin, int section)
{
    struct info info = info_of(cubin, section);
    while (next_info(&info)) {
        if (info.attribute != EIATTR_REGCOUNT && info.attribute != EIATTR_FRAME_SIZE)
            continue;
        CUkernel kernel = kernel_named(library, cubin->symbol_names + cubin->symbols[info.words[0]].st_name);
        if (kernel)
            *(info.attribute == EIATTR_REGCOUNT ? &kernel->registers : &kernel->stack) = info.words[1];
    }
}

static void take_shared(CUlibrary library, const char *name, size_t bytes)
{
    CUkernel kernel = kernel_named(library, name);
    if (kernel)
        kernel->shared = bytes - (bytes >= SYSTEM_SHARED ? SYSTEM_SHARED : 0);
}

CUresult cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *options, void **values, unsigned count,
                           CUlibraryOption *more, void **more_values, unsigned more_count)
{
    NEEDS_CONTEXT;
    if (memcmp(code, ELFMAG, SELFMAG)) {
        standin_wrong("what is loaded is no cubin: %.60s", (const char *)code);
        return CUDA_ERROR_INVALID_IMAGE;
    }
    *library = calloc(1, sizeof **library);
    struct cubin cubin = opened_cubin(code);
    const char *name;
    for (int i = 0; i < cubin.count; i++)
        if ((name = name_after(&cubin, i, ".nv.info.")))
            take_kernel(*library, &cubin, i, name);
    for (int i = 0; i < cubin.count; i++)
        if ((name = name_after(&cubin, i, ".nv.info")) && !*name)
            take_usage(*library, &cubin, i);
        else if ((name = name_after(&cubin, i, ".nv.shared.")))
            take_shared(*library, name, cubin.sections[i].sh_size);
    for (CUkernel kernel = (*library)->kernels; kernel; kernel = kernel->next)
        note("load %s: %u registers, stack %u, most threads %u, shared %u, %u parameters%s", kernel->name,
             kernel->registers, kernel->stack, kernel->most_threads, kernel->shared, kernel->parameters,
             capturing ? " WHILE CAPTURING" : "");
    return CUDA_SUCCESS;
}

SUCCEEDS(cuLibraryUnload, CUlibrary library) /* its kernels stay: graphs may hold them */

CUresult cuLibraryGetKernel(CUkernel *kernel, CUlibrary library, const char *name)
{
    *kernel = kernel_named(library, name);
    if (*kernel)
        return CUDA_SUCCESS;
    standin_wrong("a library has no kernel %.200s", name);
    return CUDA_ERROR_NOT_FOUND;
}

CUresult cuLibraryGetGlobal(CUdeviceptr *address, size_t *bytes, CUlibrary library, const char *name)
{
    return CUDA_ERROR_NOT_FOUND;
}

CUresult cuLibraryGetModule(CUmodule *module, CUlibrary library)
{
    *module = (CUmodule)library;
    return CUDA_SUCCESS;
}

CUresult cuKernelGetFunction(CUfunction *function, CUkernel kernel)
{
    *function = (CUfunction)kernel;
    return CUDA_SUCCESS;
}

CUresult cuKernelGetLibrary(CUlibrary *library, CUkernel kernel)
{
    *library = kernel->library;
    return CUDA_SUCCESS;
}

CUresult cuKernelGetName(const char **name, CUkernel kernel)
{
    *name = kernel->name;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetName(const char **name, CUfunction function)
{
    return cuKernelGetName(name, (CUkernel)function);
}

static unsigned allowed_shared(CUkernel kernel)
{
    return kernel->allowed ? kernel->allowed : PLAIN_SHARED;
}

CUresult cuKernelGetAttribute(int *value, CUfunction_attribute attribute, CUkernel kernel, CUdevice device)
{
    unsigned threads = kernel->most_threads ? kernel->most_threads : MOST_THREADS;
    *value = 0;
    if (attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)
        *value = kernel->registers && threads > REGISTERS / kernel->registers ? REGISTERS / kernel->registers : threads;
    else if (attribute == CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
        *value = kernel->shared;
    else if (attribute == CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)
        *value = kernel->stack;
    else if (attribute == CU_FUNC_ATTRIBUTE_NUM_REGS)
        *value = kernel->registers;
    else if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
        *value = allowed_shared(kernel);
    return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function)
{
    return cuKernelGetAttribute(value, attribute, (CUkernel)function, 0);
}

CUresult cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel kernel, CUdevice device)
{
    note("attribute %d of %s becomes %d", attribute, kernel->name, value);
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
        return CUDA_SUCCESS;
    if (value > most_shared()) {
        standin_wrong("%d bytes of shared memory are asked for, and there are %d", value, most_shared());
        return CUDA_ERROR_INVALID_VALUE;
    }
    kernel->allowed = value;
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value)
{
    return cuKernelSetAttribute(attribute, value, (CUkernel)function, 0);
}

CUresult cuKernelGetParamInfo(CUkernel kernel, size_t index, size_t *offset, size_t *size)
{
    if (index >= kernel->parameters)
        return CUDA_ERROR_INVALID_VALUE;
    if (offset)
        *offset = kernel->offsets[index];
    if (size)
        *size = kernel->sizes[index];
    return CUDA_SUCCESS;
}

CUresult cuFuncGetParamInfo(CUfunction function, size_t index, size_t *offset, size_t *size)
{
    return cuKernelGetParamInfo((CUkernel)function, index, offset, size);
}

CUresult cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction function)
{
    *state = CU_FUNCTION_LOADING_STATE_LOADED;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode *mode)
{
    *mode = CU_MODULE_LAZY_LOADING;
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction function, int threads, size_t shared)
{
    *blocks = 1;
    return CUDA_SUCCESS;
}

SUCCEEDS(cuFuncLoad, CUfunction function)

/* ---------------------------------------------------------------- launches */

/* Says what a driver would refuse of a launch. */
static void check(const struct launch *launch)
{
    const struct shape *shape = &launch->shape;
    CUkernel kernel = launch->kernel;
    unsigned threads = shape->block[0] * shape->block[1] * shape->block[2];
    unsigned registers = (kernel->registers + REGISTER_UNIT - 1) / REGISTER_UNIT * REGISTER_UNIT;
    for (int i = 0; i < 3; i++) {
        if (!shape->grid[i] || !shape->block[i])
            standin_wrong("an empty grid or block: %.200s", kernel->name);
        if (i && shape->grid[i] > MOST_GRID_YZ)
            standin_wrong("%u blocks along axis %d: %.200s", shape->grid[i], i, kernel->name);
    }
    if (kernel->most_threads && threads > kernel->most_threads)
        standin_wrong("%u threads, compiled for %u: %.200s", threads, kernel->most_threads, kernel->name);
    if (threads > MOST_THREADS || threads * registers > REGISTERS)
        standin_wrong("%u threads of %u registers: %.200s", threads, registers, kernel->name);
    if (shape->shared + kernel->shared > allowed_shared(kernel))
        standin_wrong("%u bytes of shared memory, allowed %u: %.200s", shape->shared + kernel->shared,
                      allowed_shared(kernel), kernel->name);
}

static void run(struct launch *launch)
{
    CUkernel kernel = launch->kernel;
    if (!kernel->code) {
        if (known)
            standin_wrong("no host code for %.200s", kernel->name);
        return;
    }
    if (!standin_run(kernel->code, &launch->shape, launch->arguments) && !kernel->was_apart) {
        kernel->was_apart = 1;
        standin_wrong("threads ended while others waited at a barrier: %.200s", kernel->name);
    }
}

static void append(CUgraph graph, const struct launch *launch)
{
    if (graph->count == graph->room) {
        graph->room = 2 * graph->room + 64;
        graph->launches = realloc(graph->launches, graph->room * sizeof *graph->launches);
    }
    graph->launches[graph->count++] = *launch;
}

static const char *kind(CUstream stream)
{
    if (captures(stream))
        return "a capturing";
    if (created(stream))
        return "an own";
    return stream == CU_STREAM_PER_THREAD ? "the thread's" : "the legacy";
}

static CUresult launched(CUkernel kernel, struct shape shape, CUstream stream, void **parameters, void **extra)
{
    struct launch launch = {.kernel = kernel, .shape = shape};
    if (extra) {
        standin_wrong("arguments as `extra`, which the stand-in doesn't read: %.200s", kernel->name);
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    for (unsigned i = 0; i < kernel->parameters; i++)
        memcpy(&launch.arguments[i], parameters[i], kernel->sizes[i]);
    check(&launch);
    check_legacy(stream, "a launch");
    note("launch %s: grid %u %u %u, block %u %u %u, shared %u, into %s stream", kernel->name, shape.grid[0],
         shape.grid[1], shape.grid[2], shape.block[0], shape.block[1], shape.block[2], shape.shared, kind(stream));
    if (captures(stream))
        append(stream->captured, &launch);
    else
        run(&launch);
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void **parameters,
                        void **extra)
{
    NEEDS_CONTEXT;
    struct shape shape = {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared};
    return launched((CUkernel)function, shape, stream, parameters, extra);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra)
{
    return cuLaunchKernel(function, config->gridDimX, config->gridDimY, config->gridDimZ, config->blockDimX,
                          config->blockDimY, config->blockDimZ, config->sharedMemBytes, config->hStream, parameters,
                          extra);
}

/* ---------------------------------------------------------------- graphs: launches, one after the other */

struct CUgraphExec_st {
    struct CUgraph_st graph;
};

static void copy_graph(CUgraph to, CUgraph from)
{
    to->count = to->room = from->count;
    to->launches = malloc(from->count * sizeof *from->launches);
    memcpy(to->launches, from->launches, from->count * sizeof *from->launches);
}

CUresult cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph, const CUgraphNode *dependencies,
                                     const CUgraphEdgeData *edges, size_t count, CUstreamCaptureMode mode)
{
    if (!created(stream)) {
        standin_wrong("the legacy stream can't capture");
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    if (stream->captured) {
        standin_wrong("a stream is to capture that does already");
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (!(stream->flags & CU_STREAM_NON_BLOCKING))
        standin_wrong("a blocking stream captures: work of the legacy stream is forbidden meanwhile");
    stream->captured = graph;
    capturing++;
    note("capture begins, mode %d", mode);
    return CUDA_SUCCESS;
}

CUresult cuGraphCreate(CUgraph *graph, unsigned flags)
{
    *graph = calloc(1, sizeof **graph);
    return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph)
{
    free(graph->launches);
    free(graph);
    return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode)
{
    CUgraph graph;
    cuGraphCreate(&graph, 0);
    CUresult result = cuStreamBeginCaptureToGraph(stream, graph, NULL, NULL, 0, mode);
    if (result != CUDA_SUCCESS)
        cuGraphDestroy(graph);
    return result;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
    if (!captures(stream))
        return CUDA_ERROR_INVALID_VALUE;
    *graph = stream->captured;
    stream->captured = NULL;
    capturing--;
    note("capture ends, %zu launches", (*graph)->count);
    return CUDA_SUCCESS;
}

CUresult cuStreamGetCaptureInfo(CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *graph,
                                const CUgraphNode **dependencies, const CUgraphEdgeData **edges, size_t *count)
{
    *status = captures(stream) ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    if (id)
        *id = (uintptr_t)stream;
    if (graph)
        *graph = created(stream) ? stream->captured : NULL;
    if (count)
        *count = 0;
    return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status)
{
    return cuStreamGetCaptureInfo(stream, status, NULL, NULL, NULL, NULL, NULL);
}

CUresult cuGraphClone(CUgraph *clone, CUgraph graph)
{
    cuGraphCreate(clone, 0);
    copy_graph(*clone, graph);
    return CUDA_SUCCESS;
}

CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode *nodes, size_t *count)
{
    *count = graph->count;
    return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags)
{
    *exec = calloc(1, sizeof **exec);
    copy_graph(&(*exec)->graph, graph);
    note("instantiate %zu launches", graph->count);
    return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithParams(CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *parameters)
{
    parameters->result_out = CUDA_GRAPH_INSTANTIATE_SUCCESS;
    return cuGraphInstantiateWithFlags(exec, graph, 0);
}

CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream)
{
    NEEDS_CONTEXT;
    note("graph of %zu launches into %s stream", exec->graph.count, kind(stream));
    for (size_t i = 0; i < exec->graph.count; i++)
        run(&exec->graph.launches[i]);
    return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec exec)
{
    free(exec->graph.launches);
    free(exec);
    return CUDA_SUCCESS;
}

struct CUuserObject_st {
    char unused;
};
static struct CUuserObject_st object; /* nothing is destroyed when the last one lets go */

CUresult cuUserObjectCreate(CUuserObject *created, void *pointer, CUhostFn destroy, unsigned count, unsigned flags)
{
    *created = &object;
    return CUDA_SUCCESS;
}

SUCCEEDS(cuGraphUpload, CUgraphExec exec, CUstream stream)
SUCCEEDS(cuGraphRetainUserObject, CUgraph graph, CUuserObject which, unsigned count, unsigned flags)
SUCCEEDS(cuGraphReleaseUserObject, CUgraph graph, CUuserObject which, unsigned count)
SUCCEEDS(cuUserObjectRetain, CUuserObject which, unsigned count)
SUCCEEDS(cuUserObjectRelease, CUuserObject which, unsigned count)
SUCCEEDS(cuThreadExchangeStreamCaptureMode, CUstreamCaptureMode *mode)

/* ---------------------------------------------------------------- calls by their names */

CUresult cuGetExportTable(const void **table, const CUuuid *id)
{
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetProcAddress(const char *name, void **found, int version, cuuint64_t flags,
                          CUdriverProcAddressQueryResult *status);

/* calls.h, which run.py writes, names every call of cuda.h, and whether it is answered above. */
#define ANSWERED(name, function)
#define UNANSWERED(name)                                                                                               \
    static CUresult unanswered_##name(void)                                                                            \
    {                                                                                                                  \
        standin_wrong("the stand-in has no %s yet", #name);                                                            \
        return CUDA_ERROR_NOT_SUPPORTED;                                                                               \
    }
#include "calls.h"
#undef ANSWERED
#undef UNANSWERED

#define ANSWERED(name, function) {#name, (void *)function},
#define UNANSWERED(name) {#name, (void *)unanswered_##name},
static const struct {
    const char *name;
    void *function;
} CALLS[] = {
#include "calls.h"
};

CUresult cuGetProcAddress(const char *name, void **found, int version, cuuint64_t flags,
                          CUdriverProcAddressQueryResult *status)
{
    *found = NULL;
    for (size_t i = 0; i < COUNT(CALLS) && !*found; i++)
        if (!strcmp(CALLS[i].name, name))
            *found = CALLS[i].function;
    if (status)
        *status = *found ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *found ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
