/* What driver.c and fibres.c ask of each other. */
#ifndef STANDIN_H
#define STANDIN_H

#include <stdint.h>

/* A kernel's code for the host: it finds each of its arguments in eight bytes. */
typedef void (*host_code)(uint64_t *arguments);

struct shape {
    unsigned grid[3];
    unsigned block[3];
    unsigned shared; /* bytes of dynamic shared memory */
};

/* Says that a real driver or GPU would have refused this, or done harm. */
void standin_wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Runs every thread of every block; 0: some threads ended while others of their block waited at a barrier. */
int standin_run(host_code code, const struct shape *shape, uint64_t *arguments);

#endif
