// SPDX-License-Identifier: GPL-2.0-only
/*
 * quarry_linux - Linux's own allocators under the loops of Quarry's suite
 *
 * The command `quarry linux` builds this module and boots a kernel with an
 * initramfs that loads it. The init program (bench/linux/init) decides what is
 * measured and makes records of it; this module only runs loops:
 *
 *   write a request to /proc/quarry    runs it; returns when it is done
 *   read /proc/quarry                  what it came to
 *
 * A request is one line of ten words:
 *
 *   workload kind size order count cpus operations samples warm_ups seed
 *
 * `kind` is that of the pass (enum kind), `size` that of a block or the largest
 * there may be. `count` is the number of slots of
 * a CPU or of objects a call, or what node is asked for (enum nodes). The answer is
 *
 *   failures N
 *   START END                          of the first CPU's first sample: time-
 *   ...                                stamp counter, phase after phase, sample
 *                                      after sample, CPU after CPU
 *
 * and of a pass that times every call, warm-ups included, all CPUs together,
 *
 *   allocations WORST                  the longest, in ticks
 *   MOST CALLS                         so many took at most so long, and longer
 *   ...                                than those of the line before
 *   frees WORST
 *   MOST CALLS
 *   ...
 *
 * Another request, `exit N`, ends QEMU with that code by its device
 * isa-debug-exit.
 *
 * Before the first request the answer is what init cannot know otherwise:
 * `tsc_khz N`, `clock N` (ticks that timing no call at all takes, the median)
 * and `slab NAME`.
 *
 * Each request has one thread on each of the first `cpus` online CPUs, bound
 * to it. Threads meet at a barrier before each phase of each sample; between
 * two readings of the counter there is nothing but a loop (loops.h). Interrupts
 * are on and threads may be preempted: that is how Linux's callers find it.
 *
 * Only init writes here, so requests are serialised by one mutex and nothing
 * else is shared between them. Between the threads of a request: the barrier
 * (an atomic count and a generation, which orders all that went before it), the
 * slots of others, which only change owner across a barrier, and channels, whose
 * batches change owner by a release of one CPU and an acquire of the other.
 */
#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/gfp.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/log2.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/nodemask.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/topology.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/io.h>
#include <asm/msr.h>
#include <asm/tsc.h>

#include "quarry_linux.h"

/* A cache of its own must not be merged with another of the same size. */
#ifdef SLAB_NO_MERGE
#define OWN_CACHE SLAB_NO_MERGE
#else
#define OWN_CACHE SLAB_NOLEAKTRACE
#endif

/* Rounds of waiting before a CPU that TCG emulates takes a nap. */
#define PATIENCE 256

#define MOST_SLOTS (1U << 20)
#define MOST_SAMPLES 100000U
#define LONGEST_REQUEST 256

/* Longest lines of an answer: two numbers, or a word and a number. */
#define SPAN_LENGTH 48
#define LINE_LENGTH 64

/* Readings of the counter that show what reading it takes. */
#define CLOCK_READINGS 2001

/* For how long the counter is measured by the kernel's clock, and how often both are read at each end. */
#define CLOCK_MILLISECONDS 100
#define CLOCK_TRIES 20

/* Where QEMU's isa-debug-exit is. */
#define EXIT_PORT 0xf4

static bool nap;
module_param(nap, bool, 0444);
MODULE_PARM_DESC(nap, "CPUs that wait for others sleep now and then: whoever spins may keep those from running");

/* ---- The threads of a request ----------------------------------------- */

void wait_a_round(unsigned int *rounds)
{
	cpu_relax();
	if (++*rounds % PATIENCE)
		return;
	if (nap)
		usleep_range(20, 40);
	else
		cond_resched();
}

/* The last to come resets the count and only then lets the others go. */
void meet(struct job *job)
{
	unsigned int generation = READ_ONCE(job->generation);
	unsigned int rounds = 0;

	/* Full barrier, as all atomics that return a value. */
	if (atomic_inc_return(&job->arrived) == job->cpus) {
		atomic_set(&job->arrived, 0);
		smp_store_release(&job->generation, generation + 1);
		return;
	}
	while (smp_load_acquire(&job->generation) == generation)
		wait_a_round(&rounds);
}

static int work(void *data)
{
	struct worker *worker = data;
	struct job *job = worker->job;
	const struct workload *workload = job->workload;
	struct span *span = worker->spans;
	unsigned int sample, phase;

	set_user_nice(current, MIN_NICE);
	if (workload->fill)
		workload->fill(worker);
	for (sample = 0; sample < job->warm_ups + job->samples; sample++) {
		for (phase = 0; phase < job->phase_count; phase++) {
			u64 start, end, failures;

			meet(job);
			start = rdtsc_ordered();
			failures = job->phases[phase](worker, job->operations);
			end = rdtsc_ordered();
			worker->failures += failures;
			if (sample >= job->warm_ups)
				*span++ = (struct span){ start, end };
			if (workload->after) {
				meet(job);
				worker->failures += workload->after(worker, phase);
			}
		}
		cond_resched();
	}
	if (workload->drain) {
		meet(job);
		workload->drain(worker);
	}
	if (atomic_dec_and_test(&job->running))
		complete(&job->done);
	return 0;
}

/* The node with memory nearest to a CPU: its own, if that has some. */
static int local_node(unsigned int cpu)
{
	int own = cpu_to_node(cpu), nearest = NUMA_NO_NODE, node;

	if (node_state(own, N_MEMORY))
		return own;
	for_each_node_state(node, N_MEMORY)
		if (nearest == NUMA_NO_NODE || node_distance(own, node) < node_distance(own, nearest))
			nearest = node;
	return nearest;
}

/* The other node with memory farthest from a node; itself, if there is none. */
static int remote_node(int local)
{
	int farthest = local, node;

	for_each_node_state(node, N_MEMORY)
		if (node != local && (farthest == local || node_distance(local, node) >= node_distance(local, farthest)))
			farthest = node;
	return farthest;
}

/* The lists that are a CPU's in a phase. */
static struct lists lists(enum whose whose, unsigned int index, unsigned int cpus)
{
	unsigned int of = whose == OF_NEXT ? (index + 1) % cpus : index;

	if (whose == ALL_BY_FIRST)
		return (struct lists){ 0, index ? 0 : cpus };
	return (struct lists){ of, of + 1 };
}

static int prepare_worker(struct job *job, struct worker *worker, unsigned int cpu)
{
	int local = local_node(cpu), remote = remote_node(local);

	worker->job = job;
	worker->cpu = cpu;
	worker->nodes[0] = job->count == REMOTE ? remote : local;
	worker->nodes[1] = job->count == LOCAL ? local : remote;
	worker->fills = lists(job->workload->fills, worker->index, job->cpus);
	worker->empties = lists(job->workload->empties, worker->index, job->cpus);
	worker->random = first_random(job->seed, worker->index);
	worker->spans = kvcalloc(job->samples * job->phase_count, sizeof(*worker->spans), GFP_KERNEL);
	if (job->workload->slots)
		worker->slots = kvcalloc(job->count + (job->workload->given ? given_count(job) : 0),
					 sizeof(*worker->slots), GFP_KERNEL);
	if (job->kind == STAMPED)
		worker->calls = kvzalloc(sizeof(*worker->calls), GFP_KERNEL);
	if (!worker->spans || (job->workload->slots && !worker->slots) ||
	    (job->kind == STAMPED && !worker->calls))
		return -ENOMEM;
	return 0;
}

static void forget_workers(struct job *job)
{
	unsigned int i;

	for (i = 0; job->workers && i < job->cpus; i++) {
		kvfree(job->workers[i].slots);
		kvfree(job->workers[i].spans);
		kvfree(job->workers[i].calls);
	}
	kvfree(job->workers);
	kmem_cache_destroy(job->cache);
}

static const phase_fn *const tables[KINDS] = {
	[BARE] = bare_loops,
	[EMPTY] = empty_loops,
	[STAMPED] = stamped_loops,
};

static int prepare_job(struct job *job)
{
	const phase_fn *loops = tables[job->kind];
	unsigned int cpu, index = 0, phase;

	for (phase = 0; phase < MOST_PHASES; phase++) {
		job->phases[phase] = loops[job->workload->phases[phase]];
		job->phase_count += job->phases[phase] != NULL;
	}
	job->workers = kvcalloc(job->cpus, sizeof(*job->workers), GFP_KERNEL);
	if (!job->workers)
		return -ENOMEM;
	if (job->workload->own_cache) {
		job->cache = kmem_cache_create("quarry", job->size, 0, OWN_CACHE, NULL);
		if (!job->cache)
			return -ENOMEM;
	}
	for_each_online_cpu(cpu) {
		struct worker *worker = &job->workers[index];
		int error;

		if (index == job->cpus)
			break;
		worker->index = index++;
		error = prepare_worker(job, worker, cpu);
		if (error)
			return error;
	}
	return 0;
}

/* Runs all threads to their end. None runs before all are there: one alone would wait for ever. */
static int run_threads(struct job *job)
{
	struct task_struct **tasks;
	unsigned int made, i;
	int error = 0;

	tasks = kvcalloc(job->cpus, sizeof(*tasks), GFP_KERNEL);
	if (!tasks)
		return -ENOMEM;
	for (made = 0; made < job->cpus; made++) {
		struct worker *worker = &job->workers[made];

		tasks[made] = kthread_create_on_node(work, worker, cpu_to_node(worker->cpu), "quarry/%u", worker->cpu);
		if (IS_ERR(tasks[made])) {
			error = PTR_ERR(tasks[made]);
			break;
		}
		kthread_bind(tasks[made], worker->cpu);
	}
	init_completion(&job->done);
	atomic_set(&job->arrived, 0);
	atomic_set(&job->running, made);
	for (i = 0; i < made; i++) {
		if (error)
			kthread_stop(tasks[i]);
		else
			wake_up_process(tasks[i]);
	}
	if (!error)
		wait_for_completion(&job->done);
	kvfree(tasks);
	return error;
}

/* ---- /proc/quarry ------------------------------------------------------ */

static DEFINE_MUTEX(lock);

/* Guarded by the lock. */
static char *answer;
static size_t answer_length;

static const char *slab_name(void)
{
	if (IS_ENABLED(CONFIG_SLAB))
		return "slab";
	if (IS_ENABLED(CONFIG_SLUB_TINY))
		return "slub-tiny";
	return "slub";
}

static int parse(struct job *job, char *line)
{
	char name[32];
	unsigned int kind, i;

	if (sscanf(line, "%31s %u %zu %u %u %u %llu %u %u %llu", name, &kind, &job->size, &job->order,
		   &job->count, &job->cpus, &job->operations, &job->samples, &job->warm_ups, &job->seed) != 10)
		return -EINVAL;
	if (kind >= KINDS)
		return -EINVAL;
	job->kind = kind;
	for (i = 0; i < workload_count; i++)
		if (!strcmp(workloads[i].name, name))
			job->workload = &workloads[i];
	if (!job->workload)
		return -ENOENT;
	if (!job->cpus || job->cpus > num_online_cpus() || !job->samples || job->samples > MOST_SAMPLES ||
	    job->warm_ups > MOST_SAMPLES || job->order > 10)
		return -EINVAL;
	if (job->workload->slots &&
	    (job->count < max(job->workload->least_slots, 1U) || job->count > MOST_SLOTS))
		return -EINVAL;
	if (job->workload->fixed && job->operations != job->count)
		return -EINVAL;
	if (job->workload->power_of_two && !is_power_of_2(job->count))
		return -EINVAL;
	return 0;
}

/* The largest value of a bucket. */
static u64 most_of(u64 bucket)
{
	unsigned int octave = bucket >> KEPT_BITS;
	u64 place = bucket & ((1 << KEPT_BITS) - 1);

	return octave ? (((1ULL << KEPT_BITS) + place + 1) << (octave - 1)) - 1 : place;
}

/* Writes what calls of all CPUs took; `offset` tells which calls. Returns the length. */
static size_t write_calls(struct job *job, const char *name, size_t offset, char *text, size_t room)
{
#define OF_CPU(cpu) ((struct histogram *)((char *)job->workers[cpu].calls + offset))
	u64 worst = 0;
	unsigned int bucket, cpu;
	size_t at;

	for (cpu = 0; cpu < job->cpus; cpu++)
		worst = max(worst, OF_CPU(cpu)->worst);
	at = scnprintf(text, room, "%s %llu\n", name, worst);
	for (bucket = 0; bucket < BUCKETS; bucket++) {
		u64 calls = 0;

		for (cpu = 0; cpu < job->cpus; cpu++)
			calls += OF_CPU(cpu)->buckets[bucket];
		if (calls)
			at += scnprintf(text + at, room - at, "%llu %llu\n", most_of(bucket), calls);
	}
	return at;
#undef OF_CPU
}

static int write_answer(struct job *job)
{
	unsigned int spans = job->samples * job->phase_count, cpu, i;
	size_t room = 2 * (BUCKETS + 1) * LINE_LENGTH + (size_t)job->cpus * spans * SPAN_LENGTH, at;
	u64 failures = 0;
	char *text = kvmalloc(room, GFP_KERNEL);

	if (!text)
		return -ENOMEM;
	for (cpu = 0; cpu < job->cpus; cpu++)
		failures += job->workers[cpu].failures;
	at = scnprintf(text, room, "failures %llu\n", failures);
	for (cpu = 0; cpu < job->cpus; cpu++)
		for (i = 0; i < spans; i++)
			at += scnprintf(text + at, room - at, "%llu %llu\n",
					job->workers[cpu].spans[i].start, job->workers[cpu].spans[i].end);
	if (job->kind == STAMPED) {
		at += write_calls(job, "allocations", offsetof(struct calls, allocations), text + at, room - at);
		at += write_calls(job, "frees", offsetof(struct calls, frees), text + at, room - at);
	}
	kvfree(answer);
	answer = text;
	answer_length = at;
	return 0;
}

static ssize_t quarry_write(struct file *file, const char __user *from, size_t length, loff_t *place)
{
	char line[LONGEST_REQUEST];
	struct job job = {};
	unsigned int code;
	int error;

	if (length >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, from, length))
		return -EFAULT;
	line[length] = '\0';
	if (sscanf(line, "exit %u", &code) == 1) {
		outb(code, EXIT_PORT);
		return length;
	}
	error = parse(&job, line);
	if (error)
		return error;
	mutex_lock(&lock);
	error = prepare_job(&job);
	if (!error)
		error = run_threads(&job);
	if (!error)
		error = write_answer(&job);
	forget_workers(&job);
	mutex_unlock(&lock);
	return error ? error : length;
}

static ssize_t quarry_read(struct file *file, char __user *to, size_t length, loff_t *place)
{
	ssize_t count;

	mutex_lock(&lock);
	count = simple_read_from_buffer(to, length, place, answer, answer_length);
	mutex_unlock(&lock);
	return count;
}

static const struct proc_ops quarry_ops = {
	.proc_read = quarry_read,
	.proc_write = quarry_write,
	.proc_lseek = default_llseek,
};

static int __init by_size(const void *one, const void *other)
{
	u64 left = *(const u64 *)one, right = *(const u64 *)other;

	return left < right ? -1 : left > right;
}

/* Ticks that two readings of the counter take with nothing in between: the median. */
static u64 __init clock_cost(void)
{
	u64 *ticks = kvcalloc(CLOCK_READINGS, sizeof(*ticks), GFP_KERNEL), median;
	unsigned int i;

	if (!ticks)
		return 0;
	for (i = 0; i < CLOCK_READINGS; i++) {
		u64 start = rdtsc_ordered();

		ticks[i] = rdtsc_ordered() - start;
	}
	sort(ticks, CLOCK_READINGS, sizeof(*ticks), by_size, NULL);
	median = ticks[CLOCK_READINGS / 2];
	kvfree(ticks);
	return median;
}

/* A reading of the kernel's clock and one of the counter in the same moment: of some tries the one that took least. */
static void __init read_clocks(u64 *nanoseconds, u64 *ticks)
{
	u64 least = U64_MAX;
	unsigned int i;

	for (i = 0; i < CLOCK_TRIES; i++) {
		u64 before = rdtsc_ordered(), now = ktime_get_raw_ns(), took = rdtsc_ordered() - before;

		if (took < least) {
			least = took;
			*nanoseconds = now;
			*ticks = before + took / 2;
		}
	}
}

/*
 * Rate of the counter. What the kernel found at boot can be wrong many times
 * over where an emulated CPU had to wait for a core of the computer just then.
 * There the kernel's clock is another one, by which the counter is measured
 * again; where that is the counter itself, both agree.
 */
static u64 __init counter_khz(void)
{
	u64 nanoseconds, ticks, later_nanoseconds, later_ticks, khz;

	read_clocks(&nanoseconds, &ticks);
	msleep(CLOCK_MILLISECONDS);
	read_clocks(&later_nanoseconds, &later_ticks);
	khz = div64_u64((later_ticks - ticks) * NSEC_PER_MSEC, later_nanoseconds - nanoseconds);
	return abs((s64)(khz - tsc_khz)) > tsc_khz / 100 ? khz : tsc_khz;
}

static int __init quarry_init(void)
{
	answer = kvmalloc(LONGEST_REQUEST, GFP_KERNEL);
	if (!answer)
		return -ENOMEM;
	answer_length = scnprintf(answer, LONGEST_REQUEST, "tsc_khz %llu\nclock %llu\nslab %s\n",
				  counter_khz(), clock_cost(), slab_name());
	return proc_create("quarry", 0600, NULL, &quarry_ops) ? 0 : -ENOMEM;
}

static void __exit quarry_exit(void)
{
	remove_proc_entry("quarry", NULL);
	kvfree(answer);
}

module_init(quarry_init);
module_exit(quarry_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Linux's own allocators under the loops of Quarry's suite");
