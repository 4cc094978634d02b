/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The decisions of the microslice scheduler: C's view of sched-rs/ffi.
 *
 * One block of memory is one pool.  The caller holds the pool's lock around
 * every call that takes the block.  Times are nanoseconds of one monotonic
 * clock.  A pool numbers its pCPUs 0..63, as the caller likes; a mask has one
 * bit each.
 */
#ifndef MICROSLICE_RS_H
#define MICROSLICE_RS_H

#define MS_RS_ABI 6

/* No unit. */
#define MS_NONE 0xffffU

enum ms_event_kind {
    MS_EV_CPU_UP = 1,   /* id: pCPU; a: its number on the host */
    MS_EV_CPU_DOWN,     /* id: pCPU */
    MS_EV_DOM_ADD,      /* id: domain */
    MS_EV_DOM_REMOVE,   /* id: domain */
    MS_EV_DOM_SET,      /* id: domain; a: weight, b: cap (% of a pCPU) */
    MS_EV_UNIT_ADD,     /* id: unit; a: domain; b: ms ahead; hard, soft */
    MS_EV_UNIT_REMOVE,  /* id: unit */
    MS_EV_AFFINITY,     /* id: unit; hard, soft */
    MS_EV_WAKE,         /* id: unit */
    MS_EV_SLEEP,        /* id: unit */
    MS_EV_YIELD,        /* id: unit; b: class; a: MS_SIBLINGS_* elsewhere */
    MS_EV_KICK,         /* id: unit */
    MS_EV_SCHEDULE,     /* id: pCPU; a: offer; b: prev is runnable; class */
    MS_EV_SAVED,        /* id: unit */
    MS_EV_TIMER,
    MS_EV_SET,          /* params */
    MS_EV_DOM_POLICY,   /* id: domain; a: action for source i in byte i */
    MS_EV_AWAITED,      /* id: domain whose unit elsewhere waits; b: class */
    MS_EV_DOM_ELSEWHERE,/* id: domain; a: its units in other pools */
};

#define MS_SIBLINGS_HELPED 1
#define MS_SIBLINGS_LEFT   2

enum ms_offer { MS_OFFER_RUN, MS_OFFER_IDLE_ONCE, MS_OFFER_OFFLINE };

struct ms_params {
    uint64_t slice;         /* ns, 1 ms .. 1 s */
    uint64_t micro_slice;   /* ns, 50 us .. slice */
    uint64_t ratelimit;     /* ns, 0 .. 500 ms */
    uint64_t grace;         /* ns, 10 us .. slice */
    uint32_t nr_micro;      /* fewer than the pool has; highest on the host */
    uint32_t reserve;       /* 1: micro cores do no normal work */
    uint32_t sizing;        /* 0 static, 1 paper, 2 adaptive */
    uint32_t min_micro;
    uint32_t max_micro;
    uint32_t pad;
};

/* Waiting for a lock, for IPIs to be answered, and inside a hypercall. */
#define MS_CLASS_LOCK_WAIT 1
#define MS_CLASS_IPI_WAIT  3
#define MS_CLASS_HYPERCALL 10
/* Entering or leaving an interrupt, or one is about to be delivered. */
#define MS_CLASS_IRQ      6
/* In kernel mode with interrupts off, outside every range. */
#define MS_CLASS_IRQS_OFF 9

struct ms_event {
    uint32_t kind;
    uint32_t id;
    uint32_t a;
    uint32_t b;
    uint32_t class;
    uint32_t pad;
    uint64_t hard;
    uint64_t soft;
    struct ms_params params;
};

struct ms_decision {
    uint64_t poke;      /* pCPUs that must schedule now */
    uint64_t slice;     /* MS_EV_SCHEDULE: ns, 0: no limit */
    uint64_t timer;     /* when to send MS_EV_TIMER, absolute; 0: as before */
    uint32_t run;       /* MS_EV_SCHEDULE: unit, or MS_NONE */
    uint32_t kept;      /* MS_EV_YIELD: the yielder keeps its pCPU;
                           MS_EV_AWAITED: a sibling is being helped */
    uint32_t left;      /* MS_EV_AWAITED: a sibling waits and is not */
    uint32_t waits;     /* Units wait */
    int32_t error;      /* 0 or -errno; then nothing has changed */
    uint32_t pad;
};

/* One event and what was decided; layout of xen_sysctl_microslice_record. */
struct ms_record {
    uint64_t now, x, y;
    uint32_t a, b, digest;
    uint16_t id, run;
    uint8_t kind;       /* MS_EV_*; 0: the event was refused as malformed */
    uint8_t class, flags, pad;
    uint32_t seq;       /* The caller's */
};

struct ms_pool_info {
    struct ms_params params;
    uint64_t online;
    uint64_t micro;
    uint64_t micro_runs;
    uint64_t micro_ns;
    uint64_t micro_stay_max;
};

/* The leading fields of struct xen_domctl_microslice_stats, in its order. */
struct ms_counts {
    uint64_t yields_ipi, yields_lock, yields_other, yields_kept;
    uint64_t kicks_preempted, preempted, preempted_critical;
    uint64_t accel_ipi, accel_lock, accel_irq, accel_preempt, graces;
    uint64_t refused_affinity, refused_limit, refused_full;
    uint64_t lent_runs, borrow_runs;
    uint64_t micro_runs, micro_ns, run_ns;
};

struct ms_unit_info {
    uint64_t vtime;
    uint32_t place;     /* 1 asleep, 2 queued, 3 on a pCPU, 4 leaving it */
    uint32_t cpu;
    uint32_t class;
    uint32_t urgent;
    int32_t ahead;      /* ms of virtual time */
    uint32_t weight;
};

/* Layout of struct xen_domctl_microslice_range. */
struct ms_range {
    uint64_t start;
    uint64_t end;
    uint32_t class;
    uint32_t pad;
};

uint32_t ms_rs_abi(void);
size_t ms_rs_size(uint32_t units, uint32_t doms);
int32_t ms_rs_init(void *mem, size_t size, uint32_t units, uint32_t doms,
                   const struct ms_params *params);
/* record: NULL, or where to leave what is needed to do it again. */
void ms_rs_handle(void *mem, uint64_t now, const struct ms_event *e,
                  struct ms_decision *d, struct ms_record *record);
int32_t ms_rs_check_params(void *mem, const struct ms_params *params);
/* Weights of the units that run or wait, added up. */
uint64_t ms_rs_load(void *mem);
/* From that one on; MS_NONE if nobody waits whom no pCPU was poked for. */
uint32_t ms_rs_next_waiting(void *mem, uint32_t from);
int32_t ms_rs_dom_counts(void *mem, uint32_t dom, struct ms_counts *out);
int32_t ms_rs_dom_get(void *mem, uint32_t dom, uint32_t *weight, uint32_t *cap);
int32_t ms_rs_dom_policy(void *mem, uint32_t dom, uint32_t *policy);
int32_t ms_rs_pool_info(void *mem, struct ms_pool_info *out);
int32_t ms_rs_unit_info(void *mem, uint32_t unit, struct ms_unit_info *out);
uint32_t ms_rs_cpu_work(void *mem, uint32_t cpu);
uint32_t ms_rs_classify(const struct ms_range *ranges, uint32_t nr,
                        uint64_t rip);
int32_t ms_rs_check_ranges(const struct ms_range *ranges, uint32_t nr);

#endif /* MICROSLICE_RS_H */
