/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A machine for Xen's schedulers in an ordinary process. This file is compiled in Xen's tree with Xen's flags, and linked
 * with the very objects that Xen is linked from: a scheduler, the microslice library, cpumask and string functions.
 *
 * Here are a clock that only this file moves, pCPUs that are entries of tables, and units that work, wait and yield by a
 * seeded plan: each unit's plan is its own, so that it is the same under every scheduler. Locks, traces and performance
 * counters do nothing, timers and softirqs are noted: they cost no scheduler more than a few instructions.
 *
 * What is to be counted runs inside functions named measured_*; the same before that, inside warm_*.
 */
#include <xen/lib.h>
#include <xen/numa.h>
#include <xen/sched.h>
#include <xen/softirq.h>
#include <xen/timer.h>
#include <xen/trace.h>
#include <xen/xvmalloc.h>

#include <asm/current.h>
#include <asm/hvm/hvm.h>
#include <asm/random.h>

#include "private.h"
#include "microslice-rs.h"
#include "host.h"

#define NEVER STIME_MAX
#define MAX_TIMERS 128
#define VCPUS_PER_DOMAIN 4
#define TEXT 0xffffffff81000000UL   /* Where a guest kernel lies */
#define RANGE_STEP 256              /* Of which each range covers half */

/* What Xen defines elsewhere */

DEFINE_PER_CPU_READ_MOSTLY(struct sched_resource *, sched_res);
DEFINE_PER_CPU(cpumask_t, cpumask_scratch);
DEFINE_PER_CPU_READ_MOSTLY(cpumask_var_t, cpu_sibling_mask);
DEFINE_PER_CPU_READ_MOSTLY(cpumask_var_t, cpu_core_mask);
DEFINE_PER_CPU(unsigned int, __preempt_count);

extern char bench_percpu_start[], bench_percpu_end[];
extern const struct scheduler *__start_schedulers_array[];
extern const struct scheduler *__end_schedulers_array[];

unsigned long __per_cpu_offset[NR_CPUS];
unsigned int nr_cpu_ids;
cpumask_t cpu_online_map;
nodemask_t node_online_map = { { [0] = 1UL } };
nodeid_t cpu_to_node[NR_CPUS];
cpumask_t node_to_cpumask[MAX_NUMNODES];
struct cpuinfo_x86 cpu_data[NR_CPUS];
int sched_ratelimit_us = SCHED_DEFAULT_RATELIMIT_US;
bool sched_smt_power_savings;
bool tb_init_done;
struct hvm_function_table hvm_funcs;

static s_time_t now;
static bool softirq[NR_CPUS];
static struct timer *timers[MAX_TIMERS];
static unsigned int nr_timers;

s_time_t get_s_time(void) { return now; }
void printk(const char *fmt, ...) {}
void trace(uint32_t event, unsigned int extra, const void *data) {}

void _spin_lock(spinlock_t *l) {}
void _spin_lock_irq(spinlock_t *l) {}
unsigned long _spin_lock_irqsave(spinlock_t *l) { return 0; }
void _spin_unlock(spinlock_t *l) {}
void _spin_unlock_irq(spinlock_t *l) {}
void _spin_unlock_irqrestore(spinlock_t *l, unsigned long flags) {}
bool _spin_trylock(spinlock_t *l) { return true; }
void queue_read_lock_slowpath(rwlock_t *l) { host_die("a lock is held"); }
void queue_write_lock_slowpath(rwlock_t *l) { host_die("a lock is held"); }

void *_xmalloc(unsigned long size, unsigned long align) { return host_alloc(size, align); }
void *_xzalloc(unsigned long size, unsigned long align) { return host_alloc(size, align); }
void *_xvmalloc(size_t size, unsigned int align) { return host_alloc(size, align); }
void *_xvzalloc(size_t size, unsigned int align) { return host_alloc(size, align); }
void xfree(void *p) {}
void xvfree(void *p) {}

void init_timer(struct timer *t, void (*fn)(void *data), void *data, unsigned int cpu)
{
    if ( nr_timers == MAX_TIMERS )
        host_die("too many timers");
    t->function = fn;
    t->data = data;
    t->cpu = cpu;
    t->expires = NEVER;
    timers[nr_timers++] = t;
}
void set_timer(struct timer *t, s_time_t expires) { t->expires = expires; }
void stop_timer(struct timer *t) { t->expires = NEVER; }
void kill_timer(struct timer *t) { t->expires = NEVER; }
void migrate_timer(struct timer *t, unsigned int cpu) { t->cpu = cpu; }

void cpu_raise_softirq(unsigned int cpu, unsigned int nr) { softirq[cpu] = true; }
void cpumask_raise_softirq(const cpumask_t *mask, unsigned int nr)
{
    unsigned int cpu;

    for_each_cpu ( cpu, mask )
        softirq[cpu] = true;
}

/* The guest's memory is ours. */
unsigned int copy_from_user_hvm(void *to, const void *from, unsigned int len)
{
    memcpy(to, from, len);
    return 0;
}

#define NOT_HERE(type, name, args...) type name(args) { host_die(#name " is not expected here"); return (type)0; }
NOT_HERE(unsigned int, copy_to_user_hvm, void *to, const void *from, unsigned int len)
NOT_HERE(unsigned int, copy_from_guest_pv, void *to, const void __user *from, unsigned int len)
NOT_HERE(unsigned int, copy_to_guest_pv, void __user *to, const void *from, unsigned int len)
void vcpu_pause_nosync(struct vcpu *v) { host_die("vcpu_pause_nosync is not expected here"); }
void vcpu_unpause(struct vcpu *v) { host_die("vcpu_unpause is not expected here"); }

/* The machine */

struct plan {
    struct sched_unit *unit;
    uint64_t random;
    bool busy;                  /* Works more than it waits */
    bool yields;                /* What comes after this work; else it waits */
    s_time_t work, since;       /* Left of it; running since */
    s_time_t wake;              /* NEVER: awake */
    unsigned int cpl;
    unsigned long rip, yield_rip;
};

static const struct bench *b;
static struct scheduler ops;
static struct cpupool pool;
static struct plan *plans;
static s_time_t slice_end[NR_CPUS];
static bool measuring;
static unsigned long schedules, switches, same, wakes, yields, timer_calls;
static s_time_t spent[4];       /* By all units, in each RUNSTATE_* */

static uint64_t draw(uint64_t *state)
{
    /* splitmix64, by Vigna. */
    uint64_t z = *state += 0x9e3779b97f4a7c15UL;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9UL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebUL;
    return z ^ (z >> 31);
}

unsigned int get_random(void)
{
    static uint64_t state;

    return draw(&state);
}

/* About as often from each of `octaves` octaves above `least`. */
static s_time_t span(uint64_t *state, s_time_t least, unsigned int octaves)
{
    s_time_t low = least << (draw(state) % octaves);

    return low + draw(state) % low;
}

static unsigned long in_range(uint64_t *state, uint32_t class)
{
    unsigned long i = draw(state) % max(b->ranges / 8, 1U);

    return TEXT + (i * 8 + class - 1) * RANGE_STEP + RANGE_STEP / 4;
}

static void next_work(struct plan *p)
{
    p->work = p->busy ? span(&p->random, MILLISECS(1), 5) : span(&p->random, MICROSECS(50), 4);
    p->yields = !(draw(&p->random) % (p->busy ? 2 : 4));
    /* Three quarters of the time is user mode. A yield is one in an IPI wait or for a lock. */
    p->cpl = draw(&p->random) % 4 ? 3 : 0;
    p->rip = TEXT + draw(&p->random) % ((b->ranges + 1UL) * RANGE_STEP);
    p->yield_rip = in_range(&p->random, draw(&p->random) % 2 ? 3 : 1);
}

static unsigned int cf_check get_cpl(struct vcpu *v) { return plans[v->sched_unit->unit_id].cpl; }
int hvm_local_events_need_delivery(struct vcpu *v) { return 0; }

static void become(unsigned int cpu)
{
    struct cpu_info *info = get_cpu_info();

    info->processor_id = cpu;
    info->per_cpu_offset = __per_cpu_offset[cpu];
    info->current_vcpu = get_sched_res(cpu)->curr->vcpu_list;
}

#define noclone __attribute__((noclone))
#define OP(name, what, args...)                                        \
    static void noinline noclone warm_ ## name(args)                   \
    { what; asm volatile ( "# warm " #name ::: "memory" ); }           \
    static void noinline noclone measured_ ## name(args)               \
    { what; asm volatile ( "# measured " #name ::: "memory" ); }
#define CALL(name, args...) \
    do { if ( measuring ) measured_ ## name(args); else warm_ ## name(args); } while ( 0 )

OP(schedule, ops.do_schedule(&ops, u, now, false), struct sched_unit *u)
OP(saved, ops.context_saved(&ops, u), struct sched_unit *u)
OP(wake, ops.wake(&ops, u), struct sched_unit *u)
OP(yield, ops.yield(&ops, u), struct sched_unit *u)
OP(timer, t->function(t->data), struct timer *t)
OP(pick, *r = ops.pick_resource(&ops, u), struct sched_unit *u, struct sched_resource **r)
OP(migrate, ops.migrate(&ops, u, cpu), struct sched_unit *u, unsigned int cpu)

/* As in Xen's core.c, for units of one vCPU */

static void runstate(struct vcpu *v, int state)
{
    if ( !is_idle_vcpu(v) && v->runstate.state != state )
    {
        if ( measuring )
            spent[v->runstate.state] += now - v->runstate.state_entry_time;
        v->sched_unit->runstate_cnt[v->runstate.state]--;
        v->sched_unit->runstate_cnt[state]++;
    }
    v->runstate.state = state;
    v->runstate.state_entry_time = now;
}

static void wake(struct sched_unit *u)
{
    struct vcpu *v = u->vcpu_list;

    if ( v->runstate.state >= RUNSTATE_blocked )
        runstate(v, RUNSTATE_runnable);
    wakes += measuring;
    CALL(wake, u);
}

static void migrate_finish(struct sched_unit *u)
{
    struct vcpu *v = u->vcpu_list;
    struct sched_resource *to;

    if ( u->is_running || !(v->pause_flags & VPF_migrating) )
        return;
    CALL(pick, u, &to);
    if ( to != u->res && ops.migrate )
        CALL(migrate, u, to->master_cpu);
    else
        sched_set_res(u, to);
    clear_bit(_VPF_migrating, &v->pause_flags);
    if ( vcpu_runnable(v) )
        wake(u);
}

static void schedule(unsigned int cpu)
{
    struct sched_resource *sr = get_sched_res(cpu);
    struct sched_unit *prev = sr->curr, *next;
    struct plan *p;

    become(cpu);
    if ( !is_idle_unit(prev) )
    {
        p = &plans[prev->unit_id];
        guest_cpu_user_regs()->rip = p->rip;
        guest_cpu_user_regs()->eflags = X86_EFLAGS_IF;
        p->work -= min(now - p->since, p->work - 1);
        p->since = now;
    }

    schedules++;
    CALL(schedule, prev);
    next = prev->next_task;
    slice_end[cpu] = prev->next_time >= 0 ? now + prev->next_time : NEVER;
    if ( next == prev )
    {
        same += measuring;
        return;
    }

    switches += measuring;
    if ( next->is_running || (!is_idle_unit(next) && !unit_runnable(next)) || next->res != sr )
        host_die("the scheduler chose a unit that cannot run here");
    runstate(prev->vcpu_list, unit_runnable(prev) ? RUNSTATE_runnable : vcpu_runstate_blocked(prev->vcpu_list));
    runstate(next->vcpu_list, RUNSTATE_running);
    next->is_running = true;
    next->state_entry_time = now;
    sr->curr = next;
    become(cpu);
    if ( !is_idle_unit(next) )
        plans[next->unit_id].since = now;

    prev->is_running = false;
    prev->state_entry_time = now;
    if ( ops.context_saved )
        CALL(saved, prev);
    if ( !is_idle_unit(prev) )
        migrate_finish(prev);
}

static void work_done(unsigned int cpu)
{
    struct sched_unit *u = get_sched_res(cpu)->curr;
    struct plan *p = &plans[u->unit_id];
    bool yield = p->yields;

    become(cpu);
    if ( yield )
    {
        guest_cpu_user_regs()->rip = p->yield_rip;
        p->cpl = 0;
        yields += measuring;
        CALL(yield, u);
    }
    next_work(p);
    p->since = now;
    if ( !yield )
    {
        p->wake = now + (p->busy ? span(&p->random, MICROSECS(100), 4) : span(&p->random, MICROSECS(400), 5));
        set_bit(_VPF_blocked, &u->vcpu_list->pause_flags);
    }
    softirq[cpu] = true;
}

/* Goes to the next thing that happens, and does it. */
static void step(void)
{
    struct timer *timer = NULL;
    struct plan *waker = NULL;
    unsigned int cpu, i, worker = nr_cpu_ids, over = nr_cpu_ids;
    s_time_t at = NEVER;

    for ( i = 0; i < nr_timers; i++ )
        if ( timers[i]->expires < at )
            at = (timer = timers[i])->expires;
    for ( cpu = 0; cpu < nr_cpu_ids; cpu++ )
        if ( slice_end[cpu] < at )
            at = slice_end[over = cpu];
    for ( cpu = 0; cpu < nr_cpu_ids; cpu++ )
    {
        const struct sched_unit *u = get_sched_res(cpu)->curr;
        const struct plan *p = &plans[u->unit_id];

        if ( !is_idle_unit(u) && p->since + p->work < at )
            at = plans[u->unit_id].since + plans[u->unit_id].work, worker = cpu;
    }
    for ( i = 0; i < b->units; i++ )
        if ( plans[i].wake < at )
            at = (waker = &plans[i])->wake;

    if ( at == NEVER )
        host_die("nothing happens any more");
    now = max(now, at);
    if ( waker )
    {
        waker->wake = NEVER;
        become(waker->unit->res->master_cpu);
        clear_bit(_VPF_blocked, &waker->unit->vcpu_list->pause_flags);
        if ( vcpu_runnable(waker->unit->vcpu_list) )
            wake(waker->unit);
    }
    else if ( worker < nr_cpu_ids )
        work_done(worker);
    else if ( over < nr_cpu_ids )
    {
        slice_end[over] = NEVER;
        softirq[over] = true;
    }
    else
    {
        timer->expires = NEVER;
        become(timer->cpu);
        timer_calls += measuring;
        CALL(timer, timer);
    }

    for ( i = 0; i < 100000; i++ )
    {
        for ( cpu = 0; cpu < nr_cpu_ids && !softirq[cpu]; cpu++ )
            ;
        if ( cpu == nr_cpu_ids )
            return;
        softirq[cpu] = false;
        schedule(cpu);
    }
    host_die("pCPUs poke each other without end");
}

static cpumask_t *mask(void)
{
    return host_alloc(sizeof(cpumask_t), 64);
}

static struct domain *new_domain(unsigned int id)
{
    struct domain *d = host_alloc(sizeof(*d), PAGE_SIZE);

    d->domain_id = id;
    d->options = XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap;
    d->cpupool = id == DOMID_IDLE ? NULL : &pool;
    d->max_vcpus = VCPUS_PER_DOMAIN;
    return d;
}

static struct sched_unit *new_unit(struct domain *d, unsigned int id, unsigned int cpu)
{
    struct sched_unit *u = host_alloc(sizeof(*u), 64);
    struct vcpu *v = host_alloc(sizeof(*v), PAGE_SIZE);

    v->domain = d;
    v->vcpu_id = id;
    v->sched_unit = u;
    v->processor = cpu;
    v->is_initialised = true;
    u->domain = d;
    u->unit_id = id;
    u->vcpu_list = v;
    u->res = get_sched_res(cpu);
    u->cpu_hard_affinity = mask();
    u->cpu_hard_affinity_saved = mask();
    u->cpu_soft_affinity = mask();
    cpumask_setall(u->cpu_hard_affinity);
    cpumask_setall(u->cpu_soft_affinity);
    return u;
}

static void make_cpus(void)
{
    const size_t size = ROUNDUP(bench_percpu_end - bench_percpu_start, PAGE_SIZE);
    struct domain *idle = new_domain(DOMID_IDLE);
    unsigned int cpu;

    nr_cpu_ids = b->cpus;
    pool.cpu_valid = mask();
    pool.res_valid = mask();
    pool.sched = &ops;
    pool.sched_gran = 1;
    for ( cpu = 0; cpu < b->cpus; cpu++ )
    {
        struct sched_resource *sr = host_alloc(sizeof(*sr), 64);
        struct sched_unit *u;

        __per_cpu_offset[cpu] = (unsigned long)host_alloc(size, PAGE_SIZE) - (unsigned long)bench_percpu_start;
        per_cpu(sched_res, cpu) = sr;
        per_cpu(cpu_sibling_mask, cpu) = mask();
        per_cpu(cpu_core_mask, cpu) = mask();
        cpumask_set_cpu(cpu, per_cpu(cpu_sibling_mask, cpu));
        cpumask_set_cpu(cpu, &cpu_online_map);
        cpumask_set_cpu(cpu, &node_to_cpumask[0]);
        cpumask_set_cpu(cpu, pool.cpu_valid);
        cpumask_set_cpu(cpu, pool.res_valid);
        /* One socket of cores without threads. */
        cpu_data[cpu].x86_num_siblings = 1;
        cpu_data[cpu].cpu_core_id = cpu;

        sr->master_cpu = cpu;
        sr->granularity = 1;
        sr->cpupool = &pool;
        sr->scheduler = &ops;
        sr->schedule_lock = &sr->_lock;
        sr->cpus = mask();
        cpumask_set_cpu(cpu, (cpumask_t *)sr->cpus);
        sr->curr = sr->sched_unit_idle = u = new_unit(idle, cpu, cpu);
        u->is_running = true;
        u->vcpu_list->runstate.state = RUNSTATE_running;
        slice_end[cpu] = NEVER;
    }
    for ( cpu = 0; cpu < b->cpus; cpu++ )
        cpumask_copy(per_cpu(cpu_core_mask, cpu), &cpu_online_map);
}

static void start_scheduler(void)
{
    const struct scheduler **s = __start_schedulers_array;
    unsigned int cpu;

    while ( s < __end_schedulers_array && strcmp((*s)->opt_name, b->scheduler) )
        s++;
    if ( s == __end_schedulers_array )
        host_die("no such scheduler");
    ops = **s;
    ops.cpupool = &pool;
    if ( (ops.global_init && ops.global_init()) || ops.init(&ops) )
        host_die("the scheduler does not start");
    for ( cpu = 0; cpu < b->cpus; cpu++ )
    {
        struct sched_resource *sr = get_sched_res(cpu);
        void *pdata, *vdata;

        become(cpu);
        pdata = sched_alloc_pdata(&ops, cpu);
        vdata = sched_alloc_udata(&ops, sr->sched_unit_idle, NULL);
        if ( IS_ERR(pdata) || !vdata )
            host_die("the scheduler does not take a pCPU");
        sr->schedule_lock = ops.switch_sched(&ops, cpu, pdata, vdata);
        sr->sched_priv = pdata;
    }
}

#ifdef CONFIG_SCHED_MICROSLICE
static void put_ranges(struct domain *d)
{
    struct xen_domctl_scheduler_op op = { .cmd = XEN_DOMCTL_SCHEDOP_putranges };
    struct xen_domctl_microslice_range *r = host_alloc(b->ranges * sizeof(*r), 64);
    unsigned int i;

    for ( i = 0; i < b->ranges; i++ )
    {
        r[i].start = TEXT + i * RANGE_STEP;
        r[i].end = r[i].start + RANGE_STEP / 2;
        r[i].service = i % 8 + 1;
    }
    op.u.microslice_ranges.nr = b->ranges;
    op.u.microslice_ranges.ranges.p = r;
    if ( ops.adjust(&ops, d, &op) )
        host_die("the scheduler does not take the ranges");
}
#endif

static void make_units(void)
{
    struct domain *d = NULL;
    unsigned int i;

    plans = host_alloc(b->units * sizeof(*plans), 64);
    for ( i = 0; i < b->units; i++ )
    {
        struct plan *p = &plans[i];
        struct sched_unit *u;

        if ( !(i % VCPUS_PER_DOMAIN) )
        {
            d = new_domain(i / VCPUS_PER_DOMAIN + 1);
            d->sched_priv = sched_alloc_domdata(&ops, d);
            if ( IS_ERR(d->sched_priv) )
                host_die("the scheduler does not take a domain");
        }
        u = p->unit = new_unit(d, i, i % b->cpus);
        u->vcpu_list->pause_flags = VPF_blocked;
        u->vcpu_list->runstate.state = RUNSTATE_blocked;
        u->runstate_cnt[RUNSTATE_blocked] = 1;
        become(i % b->cpus);
        u->priv = sched_alloc_udata(&ops, u, d->sched_priv);
        if ( !u->priv )
            host_die("the scheduler does not take a unit");
        sched_insert_unit(&ops, u);

        p->random = b->seed * 1000003 + i;
        p->busy = draw(&p->random) & 1;
        p->wake = span(&p->random, MICROSECS(100), 6);
        next_work(p);
#ifdef CONFIG_SCHED_MICROSLICE
        if ( b->ranges && i % VCPUS_PER_DOMAIN == 0 && ops.sched_id == XEN_SCHEDULER_MICROSLICE )
        {
            set_current(u->vcpu_list);
            put_ranges(d);
        }
#endif
    }
}

/* ms_rs_classify() alone: a table of so many ranges, any address. */
static void noinline measured_classify(const struct ms_range *r, unsigned long rip, unsigned int *sum)
{
    *sum += ms_rs_classify(r, b->ranges, rip);
    asm volatile ( "# measured classify" ::: "memory" );
}

static void classify(void)
{
    struct ms_range *r = host_alloc(b->ranges * sizeof(*r), 64);
    uint64_t random = b->seed;
    unsigned int i, sum = 0, want = 0;

    for ( i = 0; i < b->ranges; i++ )
        r[i] = (struct ms_range){ .start = TEXT + i * RANGE_STEP, .end = TEXT + i * RANGE_STEP + RANGE_STEP / 2,
                                  .class = i % 8 + 1 };
    for ( i = 0; i < b->counted; i++ )
    {
        unsigned long at = draw(&random) % (b->ranges * RANGE_STEP + RANGE_STEP);

        if ( at / RANGE_STEP < b->ranges && at % RANGE_STEP < RANGE_STEP / 2 )
            want += at / RANGE_STEP % 8 + 1;
        measured_classify(r, TEXT + at, &sum);
    }
    if ( sum != want )
        host_die("ms_rs_classify() is wrong");
    host_result("classify", b->counted);
}

unsigned long bench_info_size(void)
{
    BUILD_BUG_ON(STACK_SIZE != 32768);
    return sizeof(struct cpu_info);
}

void bench_run(const struct bench *bench)
{
    s_time_t start;

    b = bench;
    if ( !strcmp(b->scheduler, "classify") )
    {
        classify();
        return;
    }
    if ( !b->cpus || b->cpus > 64 || !b->units )
        host_die("1 to 64 pCPUs, at least one unit");

    now = SECONDS(1);
    hvm_funcs.get_cpl = get_cpl;
    make_cpus();
    start_scheduler();
    make_units();

    while ( schedules < b->warm )
        step();
    start = now;
    measuring = true;
    schedules = 0;
    while ( schedules < b->counted )
        step();

    host_result("schedule", schedules);
    host_result("switch", switches);
    host_result("same", same);
    host_result("wake", wakes);
    host_result("yield", yields);
    host_result("timer", timer_calls);
    host_result("ns", now - start);
    /* Two schedulers did comparable work if these are comparable. */
    host_result("ran_ns", spent[RUNSTATE_running]);
    host_result("waited_ns", spent[RUNSTATE_runnable]);
}
