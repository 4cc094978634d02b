/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the two halves of the benchmark know of each other: host.c is a program, env.c is compiled like a file of Xen. */
#ifndef MS_BENCH_HOST_H
#define MS_BENCH_HOST_H

struct bench {
    const char *scheduler;  /* As for Xen's option sched= */
    unsigned int units, cpus;
    unsigned int ranges;    /* Of each domain's guest kernel; 0: it has none */
    unsigned int warm, counted;     /* schedule() so many times, uncounted and counted */
    unsigned long seed;
};

/* env.c, on a stack as Xen has it: `info` is where Xen's struct cpu_info lies. */
void bench_run(const struct bench *b);
unsigned long bench_info_size(void);

/* host.c; aligns the stack, because Xen's code keeps it on 8 bytes only. */
void *host_alloc(unsigned long size, unsigned long align);
void host_result(const char *name, unsigned long value);
void host_die(const char *what);

#endif
