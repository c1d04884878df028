/*
 * Runs a kernel's host code: one block after the other, each thread of a block as a fibre with a stack of its own.
 *
 * A fibre runs until its next barrier (or its end), then the next one's turn comes. Every other turn goes backwards
 * through the block, so that code which counts on the order of threads between two barriers is found out.
 */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

enum {
    MOST_THREADS = 1024,
    MOST_SHARED = 1 << 20,
    STACK_BYTES = 192 << 10,
    SAVED_REGISTERS = 6,
    GUARD_BYTES = 64, /* behind the shared memory of a block: nobody may write there */
    FILLING = 0xEE,   /* what shared memory holds before a block begins: anything but zeros */
};

/* Kernels name it as their dynamic shared memory. */
char standin_shared[MOST_SHARED + GUARD_BYTES] __attribute__((aligned(1024)));

/* Blocks of all host threads that launch run one at a time. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static struct {
    host_code code;
    uint64_t *arguments;
    struct shape shape;
    unsigned block[3]; /* which one runs */
    unsigned thread;   /* which one of it runs */
    void *scheduler;   /* the stack pointer of who switches between fibres */
    void *fibre[MOST_THREADS];
    char ended[MOST_THREADS];
} now;

/* Puts what a function must preserve on the stack, keeps the stack pointer in *save and goes on with that of load. */
void standin_switch(void **save, void *load);
__asm__(".text\n"
        ".globl standin_switch\n"
        "standin_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n");

void standin_barrier(void)
{
    standin_switch(&now.fibre[now.thread], now.scheduler);
}

static void whole_thread(void)
{
    now.code(now.arguments);
    now.ended[now.thread] = 1;
    standin_barrier();
    abort(); /* an ended fibre gets no turn */
}

/* A stack from which standin_switch returns into whole_thread. */
static void *fresh_stack(unsigned thread)
{
    static char *stacks;
    if (!stacks)
        stacks = malloc((size_t)MOST_THREADS * STACK_BYTES);
    if (!stacks)
        abort();
    uint64_t *top = (uint64_t *)(((uintptr_t)stacks + (size_t)(thread + 1) * STACK_BYTES) & ~(uintptr_t)15);
    *--top = 0; /* where whole_thread would return to: keeps the alignment that functions expect */
    *--top = (uint64_t)whole_thread;
    for (int i = 0; i < SAVED_REGISTERS; i++)
        *--top = 0;
    return top;
}

/* Gives every thread that goes on a turn: how many ended in it, and how many wait at a barrier. */
static void give_turns(unsigned threads, int backwards, unsigned *ended, unsigned *waiting)
{
    *ended = *waiting = 0;
    for (unsigned i = 0; i < threads; i++) {
        now.thread = backwards ? threads - 1 - i : i;
        if (now.ended[now.thread])
            continue;
        standin_switch(&now.scheduler, now.fibre[now.thread]);
        ++*(now.ended[now.thread] ? ended : waiting);
    }
}

static int run_block(void)
{
    unsigned threads = now.shape.block[0] * now.shape.block[1] * now.shape.block[2];
    memset(standin_shared, FILLING, now.shape.shared + GUARD_BYTES);
    memset(now.ended, 0, sizeof now.ended);
    for (unsigned i = 0; i < threads; i++)
        now.fibre[i] = fresh_stack(i);

    int together = 1, backwards = 0;
    unsigned ended, waiting;
    do {
        give_turns(threads, backwards, &ended, &waiting);
        together &= !(ended && waiting);
        backwards = !backwards;
    } while (waiting);

    for (unsigned i = 0; i < GUARD_BYTES; i++)
        if ((unsigned char)standin_shared[now.shape.shared + i] != FILLING) {
            standin_wrong("a block wrote beyond its %u bytes of shared memory", now.shape.shared);
            break;
        }
    return together;
}

int standin_run(host_code code, const struct shape *shape, uint64_t *arguments)
{
    pthread_mutex_lock(&turn);
    now.code = code;
    now.arguments = arguments;
    now.shape = *shape;
    int together = 1;
    for (now.block[2] = 0; now.block[2] < shape->grid[2]; now.block[2]++)
        for (now.block[1] = 0; now.block[1] < shape->grid[1]; now.block[1]++)
            for (now.block[0] = 0; now.block[0] < shape->grid[0]; now.block[0]++)
                together &= run_block();
    pthread_mutex_unlock(&turn);
    return together;
}

/* What a thread reads of itself: host.py puts these in the place of the GPU's special registers. */

int standin_tid_x(void) { return now.thread % now.shape.block[0]; }
int standin_tid_y(void) { return now.thread / now.shape.block[0] % now.shape.block[1]; }
int standin_tid_z(void) { return now.thread / now.shape.block[0] / now.shape.block[1]; }

#define AXIS(letter, number)                                                                                           \
    int standin_ntid_##letter(void) { return now.shape.block[number]; }                                                \
    int standin_ctaid_##letter(void) { return now.block[number]; }                                                     \
    int standin_nctaid_##letter(void) { return now.shape.grid[number]; }

AXIS(x, 0)
AXIS(y, 1)
AXIS(z, 2)

int standin_shared_bytes(void) { return now.shape.shared; }

/* libdevice's functions, by the C library's. */

#define OF_ONE(name)                                                                                                   \
    float __nv_##name##f(float x) { return name##f(x); }                                                               \
    double __nv_##name(double x) { return name(x); }
#define OF_TWO(name, function)                                                                                         \
    float __nv_##name##f(float x, float y) { return function##f(x, y); }                                               \
    double __nv_##name(double x, double y) { return function(x, y); }

OF_ONE(exp)
OF_ONE(expm1)
OF_ONE(log)
OF_ONE(log1p)
OF_ONE(tanh)
OF_ONE(sin)
OF_ONE(cos)
OF_ONE(sqrt)
OF_ONE(fabs)
OF_ONE(floor)
OF_ONE(ceil)
OF_ONE(erf)
OF_ONE(erfc)
OF_TWO(copysign, copysign)
OF_TWO(pow, pow)
OF_TWO(fmax, fmax)
OF_TWO(fmin, fmin)

float __nv_fmaf(float x, float y, float z) { return fmaf(x, y, z); }
double __nv_fma(double x, double y, double z) { return fma(x, y, z); }

int __nv_finitef(float x) { return isfinite(x); }
int __nv_isfinited(double x) { return isfinite(x); }
int __nv_isinff(float x) { return isinf(x) != 0; }
int __nv_isinfd(double x) { return isinf(x) != 0; }
int __nv_isnanf(float x) { return isnan(x); }
int __nv_isnand(double x) { return isnan(x); }

int __nv_float_as_int(float x)
{
    int bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

float __nv_int_as_float(int bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
