/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The part of the benchmark that is an ordinary program: arguments, memory, results, and a stack as Xen expects it. */
#include "host.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* STACK_SIZE of Xen on x86: env.c checks it. */
#define STACK 32768ul

#define CALLED_FROM_XEN __attribute__((force_align_arg_pointer))

CALLED_FROM_XEN void *host_alloc(unsigned long size, unsigned long align)
{
    void *p = NULL;

    if ( align < 64 )
        align = 64;
    if ( posix_memalign(&p, align, size) )
        host_die("out of memory");
    return memset(p, 0, size);
}

CALLED_FROM_XEN void host_result(const char *name, unsigned long value)
{
    printf("%s %lu\n", name, value);
}

CALLED_FROM_XEN void host_die(const char *what)
{
    fprintf(stderr, "bench: %s\n", what);
    exit(1);
}

static void *run(void *b)
{
    bench_run(b);
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench b = {};
    pthread_attr_t attr;
    pthread_t thread;
    char *stack;

    if ( argc != 8 )
        host_die("usage: bench SCHEDULER UNITS CPUS RANGES WARM COUNTED SEED");
    b.scheduler = argv[1];
    b.units = strtoul(argv[2], NULL, 10);
    b.cpus = strtoul(argv[3], NULL, 10);
    b.ranges = strtoul(argv[4], NULL, 10);
    b.warm = strtoul(argv[5], NULL, 10);
    b.counted = strtoul(argv[6], NULL, 10);
    b.seed = strtoul(argv[7], NULL, 10);

    /* Xen finds the pCPU's number at the top of the stack: the thread gets the part below. */
    stack = host_alloc(STACK, STACK);
    if ( pthread_attr_init(&attr) ||
         pthread_attr_setstack(&attr, stack, STACK - ((bench_info_size() + 4095) & ~4095ul)) ||
         pthread_create(&thread, &attr, run, &b) || pthread_join(thread, NULL) )
        host_die("cannot start a thread on a stack of its own");
    return 0;
}
