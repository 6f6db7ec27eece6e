/* Uses a real GPU in every way that a container can spoil: loads libcuda, allocates, compiles PTX (by
 * libnvidia-ptxjitcompiler) and launches it, shares memory with another process (CUDA IPC), and
 * measures how fast memory is copied. Prints a line for each, and ends with 0 if all is well.
 *
 *   probe             all of it
 *   probe bandwidth   MB/s to the device and back, two numbers
 *
 * Neither CUDA's headers nor start files are needed: it is built by
 *   cc -O1 -fno-stack-protector -nostartfiles -o probe probe.c -l:libcuda.so.1
 * and runs in any image with glibc 2.17 or newer. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef uint64_t CUdeviceptr;
typedef struct { char bytes[64]; } CUipcMemHandle;

int cuInit(unsigned flags);
int cuDriverGetVersion(int *version);
int cuDeviceGetCount(int *count);
int cuDeviceGet(int *device, int number);
int cuDeviceGetName(char *name, int length, int device);
int cuDevicePrimaryCtxRetain(void **context, int device);
int cuCtxSetCurrent(void *context);
int cuCtxSynchronize(void);
int cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes);
int cuMemFree_v2(CUdeviceptr pointer);
int cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes);
int cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes);
int cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags);
int cuModuleLoadData(void **module, const void *image);
int cuModuleGetFunction(void **function, void *module, const char *name);
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void *stream, void **parameters, void **extra);
int cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr pointer);
int cuIpcOpenMemHandle_v2(CUdeviceptr *pointer, CUipcMemHandle handle, unsigned flags);

enum { WORDS = 1024, COPIES = 20, BYTES = 256 << 20 };

/* Adds 41 to each of 1024 words. */
static const char PTX[] =
    ".version 6.0\n.target sm_50\n.address_size 64\n"
    ".visible .entry add(.param .u64 p) {\n"
    "  .reg .u32 %r<5>; .reg .u64 %d<4>;\n"
    "  ld.param.u64 %d1, [p]; cvta.to.global.u64 %d1, %d1;\n"
    "  mov.u32 %r1, %tid.x; mul.wide.u32 %d2, %r1, 4; add.u64 %d3, %d1, %d2;\n"
    "  ld.global.u32 %r2, [%d3]; add.u32 %r2, %r2, 41; st.global.u32 [%d3], %r2; ret;\n}\n";

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vdprintf(2, format, arguments);
    va_end(arguments);
    _exit(1);
}

#define TRY(call)                                                   \
    do {                                                            \
        int error = call;                                           \
        if (error)                                                  \
            fail("probe: %s: CUDA error %d\n", #call, error);       \
    } while (0)

static void begin(void)
{
    int device;
    void *context;
    TRY(cuInit(0));
    TRY(cuDeviceGet(&device, 0));
    TRY(cuDevicePrimaryCtxRetain(&context, device));
    TRY(cuCtxSetCurrent(context));
}

static void launch(void)
{
    static uint32_t words[WORDS];
    void *module, *function;
    CUdeviceptr memory;
    TRY(cuMemAlloc_v2(&memory, sizeof words));
    for (int n = 0; n < WORDS; n++)
        words[n] = n;
    TRY(cuMemcpyHtoD_v2(memory, words, sizeof words));
    TRY(cuModuleLoadData(&module, PTX));
    TRY(cuModuleGetFunction(&function, module, "add"));
    void *parameters[] = {&memory};
    TRY(cuLaunchKernel(function, 1, 1, 1, WORDS, 1, 1, 0, NULL, parameters, NULL));
    TRY(cuCtxSynchronize());
    TRY(cuMemcpyDtoH_v2(words, memory, sizeof words));
    for (int n = 0; n < WORDS; n++)
        if (words[n] != (uint32_t)n + 41)
            fail("probe: launch: word %d is %u\n", n, words[n]);
    TRY(cuMemFree_v2(memory));
    dprintf(1, "launch: PTX compiled and run\n");
}

/* Another process reads what this one has written, through the device's memory. */
static void share(void)
{
    int handles[2], answers[2];
    if (pipe(handles) || pipe(answers))
        fail("probe: pipe\n");
    /* Before CUDA begins here: it does not survive a fork. */
    pid_t child = fork();
    if (child == 0) {
        CUipcMemHandle handle;
        CUdeviceptr memory;
        uint32_t word = 0;
        if (read(handles[0], &handle, sizeof handle) != sizeof handle)
            _exit(1);
        begin();
        TRY(cuIpcOpenMemHandle_v2(&memory, handle, 1));
        TRY(cuMemcpyDtoH_v2(&word, memory, sizeof word));
        _exit(write(answers[1], &word, sizeof word) != sizeof word);
    }
    begin();
    CUipcMemHandle handle;
    CUdeviceptr memory;
    uint32_t word = 4711, answer = 0;
    int status = 1;
    close(answers[1]);
    TRY(cuMemAlloc_v2(&memory, 1 << 21));
    TRY(cuMemcpyHtoD_v2(memory, &word, sizeof word));
    TRY(cuIpcGetMemHandle(&handle, memory));
    if (write(handles[1], &handle, sizeof handle) != sizeof handle)
        fail("probe: write\n");
    ssize_t length = read(answers[0], &answer, sizeof answer);
    waitpid(child, &status, 0);
    if (length != sizeof answer || status || answer != word)
        fail("probe: CUDA IPC: the other process has read %u\n", answer);
    TRY(cuMemFree_v2(memory));
    dprintf(1, "ipc: another process reads it\n");
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static void bandwidth(int terse)
{
    void *host;
    CUdeviceptr memory;
    TRY(cuMemHostAlloc(&host, BYTES, 0));
    memset(host, 1, BYTES);
    TRY(cuMemAlloc_v2(&memory, BYTES));
    TRY(cuMemcpyHtoD_v2(memory, host, BYTES));
    double start = now();
    for (int n = 0; n < COPIES; n++)
        TRY(cuMemcpyHtoD_v2(memory, host, BYTES));
    double to = now() - start;
    start = now();
    for (int n = 0; n < COPIES; n++)
        TRY(cuMemcpyDtoH_v2(host, memory, BYTES));
    double from = now() - start;
    double bytes = (double)BYTES * COPIES / 1e6;
    dprintf(1, terse ? "%d %d\n" : "bandwidth: %d MB/s to it, %d MB/s back\n", (int)(bytes / to),
            (int)(bytes / from));
}

static int run(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "bandwidth") == 0) {
        begin();
        bandwidth(1);
        return 0;
    }
    share();
    int version, count;
    char name[100];
    TRY(cuDriverGetVersion(&version));
    TRY(cuDeviceGetCount(&count));
    TRY(cuDeviceGetName(name, sizeof name, 0));
    dprintf(1, "cuda: %d.%d, %d GPUs, the first a %s\n", version / 1000, version % 1000 / 10, count, name);
    launch();
    bandwidth(0);
    return 0;
}

/* What the kernel leaves on the stack: the count of arguments, and they. */
__attribute__((used, noreturn)) static void entered(long *stack)
{
    _exit(run((int)stack[0], (char **)(stack + 1)));
}

#if defined __x86_64__
__asm__(".globl _start\n_start: mov %rsp, %rdi\nand $-16, %rsp\ncall entered\n");
#elif defined __aarch64__
__asm__(".globl _start\n_start: mov x0, sp\nbl entered\n");
#endif
