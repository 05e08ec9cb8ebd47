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
 *   workload empty size order count cpus operations samples warm_ups seed
 *
 * `empty` is 1 to run the loop over nothing. `count` is the number of slots or
 * of objects a call, or what node is asked for (enum nodes). The answer is
 *
 *   failures N
 *   START END                          of the first CPU's first sample: time-
 *   ...                                stamp counter, phase after phase, sample
 *                                      after sample, CPU after CPU
 *
 * Another request, `exit N`, ends QEMU with that code by its device
 * isa-debug-exit.
 *
 * Before the first request the answer is what init cannot know otherwise:
 * `tsc_khz N` and `slab NAME`.
 *
 * Each request has one thread on each of the first `cpus` online CPUs, bound
 * to it. Threads meet at a barrier before each phase of each sample; between
 * two readings of the counter there is nothing but a loop. The loops are those
 * of bench/suite/src/workloads. Interrupts are on and threads may be preempted:
 * that is how Linux's callers find it.
 *
 * Only init writes here, so requests are serialised by one mutex and nothing
 * else is shared between them. Between the threads of a request: the barrier
 * (an atomic count and a generation, which orders all that went before it), and
 * the slots of a neighbour, which only change owner across a barrier.
 */
#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/gfp.h>
#include <linux/kthread.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/nodemask.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/topology.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/io.h>
#include <asm/msr.h>
#include <asm/tsc.h>

/* A cache of its own must not be merged with another of the same size. */
#ifdef SLAB_NO_MERGE
#define OWN_CACHE SLAB_NO_MERGE
#else
#define OWN_CACHE SLAB_NOLEAKTRACE
#endif

/* Rounds of waiting before a CPU that TCG emulates takes a nap. */
#define PATIENCE 256

#define MOST_PHASES 2
#define MOST_SLOTS (1U << 20)
#define MOST_SAMPLES 100000U
#define LONGEST_REQUEST 256

/* Where QEMU's isa-debug-exit is. */
#define EXIT_PORT 0xf4

static bool nap;
module_param(nap, bool, 0444);
MODULE_PARM_DESC(nap, "CPUs that wait for others sleep now and then: whoever spins may keep those from running");

/* Nodes that a pair asks for: the nearest, the farthest, both in turn. */
enum nodes { LOCAL, REMOTE, ALTERNATING };

struct job;

struct span {
	u64 start;
	u64 end;
};

/* One CPU's part of a request. */
struct worker {
	struct job *job;
	unsigned int cpu;
	unsigned int index;
	int nodes[2];
	void **slots;
	/* Whose blocks a free phase frees. */
	void **to_free;
	struct span *spans;
	u64 failures;
	u64 random;
};

typedef u64 (*phase_fn)(struct worker *worker, u64 operations);

struct workload {
	const char *name;
	phase_fn phases[MOST_PHASES];
	phase_fn empty[MOST_PHASES];
	bool own_cache;
	bool slots;
	/* Blocks are freed on the next CPU. */
	bool handed_on;
	/* Slots are full before the first sample and emptied after the last. */
	void (*fill)(struct worker *worker);
	void (*drain)(struct worker *worker);
};

struct job {
	const struct workload *workload;
	bool empty;
	size_t size;
	unsigned int order;
	unsigned int count;
	unsigned int cpus;
	u64 operations;
	unsigned int samples;
	unsigned int warm_ups;
	u64 seed;

	phase_fn *phases;
	unsigned int phase_count;
	struct kmem_cache *cache;
	struct worker *workers;
	atomic_t arrived;
	unsigned int generation;
	atomic_t running;
	struct completion done;
};

/* ---- The timed loops -------------------------------------------------- */

/* What is left of an allocation when there is none; the compiler believes it. */
static __always_inline void *token(size_t size)
{
	void *block = (void *)(size | 1);

	OPTIMIZER_HIDE_VAR(block);
	return block;
}

/* What is left of a free. Volatile: a loop of nothing else must stay a loop. */
static __always_inline void forget(void *block)
{
	asm volatile("" : : "r" (block));
}

/* What the loops ask for, in registers. */
#define ASKED(worker)							\
	size_t size __maybe_unused = (worker)->job->size;		\
	unsigned int order __maybe_unused = (worker)->job->order;	\
	struct kmem_cache *cache __maybe_unused = (worker)->job->cache;	\
	int nodes[2] __maybe_unused = {					\
		(worker)->nodes[0], (worker)->nodes[1],			\
	};								\
	OPTIMIZER_HIDE_VAR(size);					\
	OPTIMIZER_HIDE_VAR(order)

/* One block, over and over. */
#define PAIRS(name, allocate, release)					\
static noinline u64 name(struct worker *worker, u64 operations)		\
{									\
	u64 failures = 0, i;						\
	ASKED(worker);							\
									\
	for (i = 0; i < operations; i++) {				\
		void *block = allocate;					\
									\
		if (likely(block))					\
			release;					\
		else							\
			failures++;					\
	}								\
	return failures;						\
}

/* All slots filled. */
#define FILLS(name, allocate)						\
static noinline u64 name(struct worker *worker, u64 operations)		\
{									\
	void **slots = worker->slots;					\
	u64 i;								\
	ASKED(worker);							\
									\
	for (i = 0; i < operations; i++)				\
		slots[i] = allocate;					\
	return 0;							\
}

/* All slots emptied; those that were empty already are failures. */
#define EMPTIES(name, release)						\
static noinline u64 name(struct worker *worker, u64 operations)		\
{									\
	void **slots = worker->to_free;					\
	u64 failures = 0, i;						\
	ASKED(worker);							\
									\
	for (i = 0; i < operations; i++) {				\
		void *block = slots[i];					\
									\
		slots[i] = NULL;					\
		if (likely(block))					\
			release;					\
		else							\
			failures++;					\
	}								\
	return failures;						\
}

/* All slots filled, all slots emptied, over and over. */
#define GROUPS(name, allocate, release)					\
static noinline u64 name(struct worker *worker, u64 operations)		\
{									\
	void **slots = worker->slots;					\
	unsigned int count = worker->job->count, at;			\
	u64 failures = 0, groups = operations / count, i;		\
	ASKED(worker);							\
									\
	for (i = 0; i < groups; i++) {					\
		for (at = 0; at < count; at++)				\
			slots[at] = allocate;				\
		for (at = 0; at < count; at++) {			\
			void *block = slots[at];			\
									\
			if (likely(block))				\
				release;				\
			else						\
				failures++;				\
		}							\
	}								\
	return failures;						\
}

PAIRS(empty_pair, token(size), forget(block))
PAIRS(empty_node, token(size + nodes[i & 1]), forget(block))
FILLS(empty_fill, token(size))
EMPTIES(empty_drain, forget(block))
GROUPS(empty_group, token(order), forget(block))

PAIRS(kmalloc_pair, kmalloc(size, GFP_KERNEL), kfree(block))
PAIRS(kzalloc_pair, kzalloc(size, GFP_KERNEL), kfree(block))
PAIRS(node_pair, kmalloc_node(size, GFP_KERNEL, nodes[i & 1]), kfree(block))
FILLS(kmalloc_fill, kmalloc(size, GFP_KERNEL))
EMPTIES(kmalloc_drain, kfree(block))

PAIRS(cache_pair, kmem_cache_alloc(cache, GFP_KERNEL), kmem_cache_free(cache, block))
FILLS(cache_fill, kmem_cache_alloc(cache, GFP_KERNEL))
EMPTIES(cache_drain, kmem_cache_free(cache, block))

PAIRS(page_pair, alloc_pages(GFP_KERNEL, order), __free_pages(block, order))
FILLS(page_fill, alloc_pages(GFP_KERNEL, order))
EMPTIES(page_drain, __free_pages(block, order))
GROUPS(page_group, alloc_pages(GFP_KERNEL, order), __free_pages(block, order))

/* Sizes the compiler knows. */
#define KNOWN_SIZES(one)						\
	one(8) one(16) one(32) one(64) one(128) one(256) one(512)	\
	one(1024) one(2048) one(4096) one(8192)

#define KNOWN_PAIR(bytes)						\
PAIRS(kmalloc_pair_##bytes, kmalloc(bytes, GFP_KERNEL), kfree(block))	\
PAIRS(empty_pair_##bytes, token(bytes), forget(block))
KNOWN_SIZES(KNOWN_PAIR)

static const struct {
	size_t size;
	phase_fn bare;
	phase_fn empty;
} known_pairs[] = {
#define KNOWN_ENTRY(bytes) { bytes, kmalloc_pair_##bytes, empty_pair_##bytes },
	KNOWN_SIZES(KNOWN_ENTRY)
};

static noinline u64 known_pair(struct worker *worker, u64 operations)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(known_pairs); i++)
		if (known_pairs[i].size == worker->job->size)
			return known_pairs[i].bare(worker, operations);
	return operations;
}

static noinline u64 empty_known_pair(struct worker *worker, u64 operations)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(known_pairs); i++)
		if (known_pairs[i].size == worker->job->size)
			return known_pairs[i].empty(worker, operations);
	return operations;
}

static noinline u64 bulk(struct worker *worker, u64 operations)
{
	struct kmem_cache *cache = worker->job->cache;
	unsigned int count = worker->job->count;
	u64 failures = 0, calls = operations / count, i;
	void **slots = worker->slots;

	for (i = 0; i < calls; i++) {
		if (likely(kmem_cache_alloc_bulk(cache, GFP_KERNEL, count, slots)))
			kmem_cache_free_bulk(cache, count, slots);
		else
			failures += count;
	}
	return failures;
}

static noinline u64 empty_bulk(struct worker *worker, u64 operations)
{
	u64 calls = operations / worker->job->count, i;

	for (i = 0; i < calls; i++)
		forget(worker->slots);
	return 0;
}

/* xorshift64*, as in bench/suite/src/random.rs: the same numbers from a seed. */
static __always_inline u64 next_random(u64 *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dULL;
}

static u64 first_random(u64 seed, u64 stream)
{
	u64 state = seed ^ ((stream + 1) * 0x9e3779b97f4a7c15ULL);

	state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ULL;
	state = (state ^ (state >> 27)) * 0x94d049bb133111ebULL;
	state ^= state >> 31;
	return state ? state : 1;
}

/* 8 to 4095: the octave uniform, then uniform inside it. */
static __always_inline size_t random_size(u64 *state)
{
	u64 bits = next_random(state);
	u64 start = 1ULL << (3 + (((bits >> 32) * 9) >> 32));

	return start | (bits & (start - 1));
}

/* A random slot of a power of two of them gets another block of another size. */
#define MIXES(name, allocate, release)					\
static noinline u64 name(struct worker *worker, u64 operations)		\
{									\
	void **slots = worker->slots;					\
	u64 mask = worker->job->count - 1;				\
	u64 random = worker->random, failures = 0, i;			\
									\
	for (i = 0; i < operations; i++) {				\
		u64 at = (next_random(&random) >> 32) & mask;		\
		void *block = slots[at];				\
		size_t size;						\
									\
		if (likely(block))					\
			release;					\
		size = random_size(&random);				\
		slots[at] = allocate;					\
		failures += !slots[at];					\
	}								\
	worker->random = random;					\
	return failures;						\
}

MIXES(mix, kmalloc(size, GFP_KERNEL), kfree(block))
MIXES(empty_mix, token(size), forget(block))

static void mix_begin(struct worker *worker)
{
	unsigned int i;

	for (i = 0; i < worker->job->count; i++)
		worker->slots[i] = worker->job->empty ? token(1) :
			kmalloc(random_size(&worker->random), GFP_KERNEL);
}

static void mix_end(struct worker *worker)
{
	unsigned int i;

	for (i = 0; i < worker->job->count && !worker->job->empty; i++)
		kfree(worker->slots[i]);
}

static const struct workload workloads[] = {
	{ .name = "pair", .phases = { kmalloc_pair }, .empty = { empty_pair } },
	{ .name = "pair-inlined", .phases = { known_pair }, .empty = { empty_known_pair } },
	{ .name = "pair-zeroed", .phases = { kzalloc_pair }, .empty = { empty_pair } },
	{ .name = "pair-cache", .phases = { cache_pair }, .empty = { empty_pair }, .own_cache = true },
	{ .name = "batch", .phases = { kmalloc_fill, kmalloc_drain },
	  .empty = { empty_fill, empty_drain }, .slots = true },
	{ .name = "batch-cache", .phases = { cache_fill, cache_drain },
	  .empty = { empty_fill, empty_drain }, .slots = true, .own_cache = true },
	{ .name = "bulk", .phases = { bulk }, .empty = { empty_bulk }, .slots = true, .own_cache = true },
	{ .name = "remote", .phases = { kmalloc_fill, kmalloc_drain },
	  .empty = { empty_fill, empty_drain }, .slots = true, .handed_on = true },
	{ .name = "mix", .phases = { mix }, .empty = { empty_mix }, .slots = true,
	  .fill = mix_begin, .drain = mix_end },
	{ .name = "node", .phases = { node_pair }, .empty = { empty_node } },
	{ .name = "page", .phases = { page_pair }, .empty = { empty_pair } },
	{ .name = "page-outstanding", .phases = { page_group }, .empty = { empty_group }, .slots = true },
	{ .name = "page-bulk", .phases = { page_group }, .empty = { empty_group }, .slots = true },
	{ .name = "page-cross", .phases = { page_fill, page_drain },
	  .empty = { empty_fill, empty_drain }, .slots = true, .handed_on = true },
};

/* ---- The threads of a request ----------------------------------------- */

/* Holds threads until all have come. The last resets the count and only then lets the others go. */
static void meet(struct job *job)
{
	unsigned int generation = READ_ONCE(job->generation);
	unsigned int rounds = 0;

	/* Full barrier, as all atomics that return a value. */
	if (atomic_inc_return(&job->arrived) == job->cpus) {
		atomic_set(&job->arrived, 0);
		smp_store_release(&job->generation, generation + 1);
		return;
	}
	while (smp_load_acquire(&job->generation) == generation) {
		cpu_relax();
		if (++rounds % PATIENCE)
			continue;
		if (nap)
			usleep_range(20, 40);
		else
			cond_resched();
	}
}

static int work(void *data)
{
	struct worker *worker = data;
	struct job *job = worker->job;
	struct span *span = worker->spans;
	unsigned int sample, phase;

	set_user_nice(current, MIN_NICE);
	if (job->workload->fill)
		job->workload->fill(worker);
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
		}
		cond_resched();
	}
	if (job->workload->drain)
		job->workload->drain(worker);
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

static int prepare_worker(struct job *job, struct worker *worker, unsigned int cpu)
{
	int local = local_node(cpu), remote = remote_node(local);

	worker->job = job;
	worker->cpu = cpu;
	worker->nodes[0] = job->count == REMOTE ? remote : local;
	worker->nodes[1] = job->count == LOCAL ? local : remote;
	worker->random = first_random(job->seed, worker->index);
	worker->spans = kvcalloc(job->samples * job->phase_count, sizeof(*worker->spans), GFP_KERNEL);
	if (job->workload->slots)
		worker->slots = kvcalloc(job->count, sizeof(*worker->slots), GFP_KERNEL);
	if (!worker->spans || (job->workload->slots && !worker->slots))
		return -ENOMEM;
	return 0;
}

static void forget_workers(struct job *job)
{
	unsigned int i;

	for (i = 0; job->workers && i < job->cpus; i++) {
		kvfree(job->workers[i].slots);
		kvfree(job->workers[i].spans);
	}
	kvfree(job->workers);
	kmem_cache_destroy(job->cache);
}

static int prepare_job(struct job *job)
{
	unsigned int cpu, index = 0;

	job->phases = (phase_fn *)(job->empty ? job->workload->empty : job->workload->phases);
	job->phase_count = job->phases[1] ? 2 : 1;
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
	for (index = 0; index < job->cpus; index++) {
		unsigned int whose = job->workload->handed_on ? (index + 1) % job->cpus : index;

		job->workers[index].to_free = job->workers[whose].slots;
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
	unsigned int empty, i;

	if (sscanf(line, "%31s %u %zu %u %u %u %llu %u %u %llu", name, &empty, &job->size, &job->order,
		   &job->count, &job->cpus, &job->operations, &job->samples, &job->warm_ups, &job->seed) != 10)
		return -EINVAL;
	job->empty = empty;
	for (i = 0; i < ARRAY_SIZE(workloads); i++)
		if (!strcmp(workloads[i].name, name))
			job->workload = &workloads[i];
	if (!job->workload)
		return -ENOENT;
	if (!job->cpus || job->cpus > num_online_cpus() || !job->samples || job->samples > MOST_SAMPLES ||
	    job->warm_ups > MOST_SAMPLES || job->order > 10)
		return -EINVAL;
	if (job->workload->slots && (!job->count || job->count > MOST_SLOTS))
		return -EINVAL;
	/* A phase that fills slots fills each once. */
	if (job->workload->phases[1] && job->operations != job->count)
		return -EINVAL;
	/* A slot is chosen by a mask. */
	if (job->workload->fill && !is_power_of_2(job->count))
		return -EINVAL;
	return 0;
}

static int write_answer(struct job *job)
{
	unsigned int spans = job->samples * job->phase_count, cpu, i;
	size_t room = 64 + (size_t)job->cpus * spans * 48, at;
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

static int __init quarry_init(void)
{
	answer = kvmalloc(LONGEST_REQUEST, GFP_KERNEL);
	if (!answer)
		return -ENOMEM;
	answer_length = scnprintf(answer, LONGEST_REQUEST, "tsc_khz %u\nslab %s\n", tsc_khz, slab_name());
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
