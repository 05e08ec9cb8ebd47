/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of quarry_linux share: a request, the CPUs that work on it,
 * the tables of loops and of workloads, and random numbers.
 */
#ifndef QUARRY_LINUX_H
#define QUARRY_LINUX_H

#include <linux/atomic.h>
#include <linux/cache.h>
#include <linux/compiler.h>
#include <linux/completion.h>
#include <linux/irq_work.h>
#include <linux/log2.h>
#include <linux/slab.h>
#include <linux/types.h>

#define MOST_PHASES 2

/* Nodes that a pair asks for: the nearest, the farthest, both in turn. */
enum nodes { LOCAL, REMOTE, ALTERNATING };

/* Batches between two CPUs. */
#define BATCHES 4

/* Pairs of a handler: so many that getting there and back hardly counts. */
#define PAIRS_OF_HANDLER 256

/* Places of mstress that all CPUs share. */
#define TRANSFERS 1000

/* Parts of the slots of sh6bench and sh8bench, of which one is spared in each round. */
#define PARTS 5

/* Ranges of slots of alloc-test, the fewer the more often each is chosen. */
#define RANGES 7

/*
 * Buckets of what calls took: 32 to each power of two, so that a value is known
 * to 3 %, whatever its size. As in bench/suite/src/histogram.rs.
 */
#define KEPT_BITS 5
#define BUCKETS ((40 + 1) << KEPT_BITS)

/* Whether the loops are as they are, over nothing, or with every call timed. */
enum kind { BARE, EMPTY, STAMPED, KINDS };

struct job;

struct span {
	u64 start;
	u64 end;
};

/* How often calls took how many ticks. */
struct histogram {
	u64 worst;
	u64 buckets[BUCKETS];
};

/* What the calls of one CPU took. */
struct calls {
	struct histogram allocations;
	struct histogram frees;
};

/* Lists of slots by the CPU they are of: `end` is the first that is not meant. */
struct lists {
	unsigned int first;
	unsigned int end;
};

/* Where the sizes of sh6bench or sh8bench are: they follow one another in runs. */
struct runs {
	/* Of sh6bench: the size the halves began with. Of sh8bench: the run. */
	unsigned int at;
	size_t size;
	/* Blocks of this size still to come. */
	unsigned int left;
	/* Sizes above are left out. */
	size_t largest;
};

/*
 * Batches from the CPU it is of to the one that frees for it, in its slots.
 * Both numbers only grow; each has one CPU that writes it.
 */
struct channel {
	unsigned int sent ____cacheline_aligned;
	unsigned int lengths[BATCHES];
	unsigned int emptied ____cacheline_aligned;
};

/* One CPU's part of a request. */
struct worker {
	struct job *job;
	unsigned int cpu;
	unsigned int index;
	int nodes[2];
	void **slots;
	/* Whose slots the phases that fill and empty are about. */
	struct lists fills;
	struct lists empties;
	struct span *spans;
	/* Where every call is timed. */
	struct calls *calls;
	u64 failures;
	u64 random;
	/* How often slots were passed on. */
	unsigned int turns;
	/* Where each range of slots begins, and where the last one ends. */
	u64 starts[RANGES + 1];
	struct runs runs;
	/* The part of the slots that has blocks between two samples. */
	unsigned int spared;
	struct irq_work interrupt;
	u64 pairs;
	bool handled;
	struct channel channel;
};

typedef u64 (*phase_fn)(struct worker *worker, u64 operations);

/* All loops there are. */
#define LOOPS(each)							\
	each(kmalloc_pair) each(kzalloc_pair) each(known_pair)		\
	each(node_pair) each(cache_pair) each(page_pair)		\
	each(kmalloc_fill) each(kmalloc_empty)				\
	each(cache_fill) each(cache_empty)				\
	each(page_fill) each(page_empty)				\
	each(page_group) each(page_replace) each(bulk) each(mix)	\
	each(in_handler) each(interleaved)				\
	each(kmalloc_group) each(larson) each(xmalloc) each(producers)	\
	each(touched_pair) each(alloc_test)				\
	each(mstress) each(sh6bench) each(sh8bench)

enum loop {
	no_loop,
#define LOOP_NAME(name) loop_##name,
	LOOPS(LOOP_NAME)
	LOOP_COUNT
};

/* Each is compiled from loops.h. */
extern const phase_fn bare_loops[LOOP_COUNT];
extern const phase_fn empty_loops[LOOP_COUNT];
extern const phase_fn stamped_loops[LOOP_COUNT];

/* Which lists of slots are whose to fill or to empty. */
enum whose { OWN, OF_NEXT, ALL_BY_FIRST };

struct workload {
	const char *name;
	enum loop phases[MOST_PHASES];
	enum whose fills;
	enum whose empties;
	bool own_cache;
	bool slots;
	/* An operation for each slot, always. */
	bool fixed;
	/* A slot is chosen by a mask. */
	bool power_of_two;
	unsigned int least_slots;
	/* There are slots for blocks that others are given as well. */
	bool given;
	/* Before the first sample. */
	void (*fill)(struct worker *worker);
	/* After a phase of a sample, when all CPUs have done theirs; returns failures. */
	u64 (*after)(struct worker *worker, unsigned int phase);
	/* After the last sample of all CPUs. */
	void (*drain)(struct worker *worker);
};

struct job {
	const struct workload *workload;
	enum kind kind;
	size_t size;
	unsigned int order;
	unsigned int count;
	unsigned int cpus;
	u64 operations;
	unsigned int samples;
	unsigned int warm_ups;
	u64 seed;

	phase_fn phases[MOST_PHASES];
	unsigned int phase_count;
	struct kmem_cache *cache;
	struct worker *workers;
	atomic_t arrived;
	unsigned int generation;
	atomic_t running;
	struct completion done;
};

/* By name; in workloads.c. */
extern const struct workload workloads[];
extern const unsigned int workload_count;

/* Holds threads until all have come. In main.c. */
void meet(struct job *job);

/* One round of waiting for another CPU. In main.c. */
void wait_a_round(unsigned int *rounds);

/* The slots that this CPU has now of those that are passed on. */
static inline void **passed_on(struct worker *worker)
{
	struct job *job = worker->job;

	return job->workers[(worker->index + worker->turns) % job->cpus].slots;
}

/* Only for the CPU the histogram is of. */
static __always_inline void count_call(struct histogram *histogram, u64 called, u64 returned)
{
	u64 ticks = returned > called ? returned - called : 0, bucket = ticks;

	if (ticks >> KEPT_BITS) {
		unsigned int shift = ilog2(ticks) - KEPT_BITS;

		bucket = ((u64)shift << KEPT_BITS) + (ticks >> shift);
	}
	if (bucket >= BUCKETS)
		bucket = BUCKETS - 1;
	histogram->buckets[bucket]++;
	if (ticks > histogram->worst)
		histogram->worst = ticks;
}

/*
 * Writes to a byte so often, and reads it back each time. By way of the stack,
 * as black_box does it in bench/suite/src/pattern.rs: where an object is written
 * a hundred times, most of what is measured is this.
 */
static __always_inline void touch(void *block, unsigned int writes)
{
	/* Out here: kernels are compiled to clear what is declared in a loop every time. */
	u8 *byte, value;
	unsigned int i;

	for (i = 0; i < writes; i++) {
		byte = block;
		*byte = i;
		asm volatile("" : "+m" (byte) : : "memory");
		value = *byte;
		asm volatile("" : : "m" (value) : "memory");
	}
}

/* xorshift64*, as in bench/suite/src/random.rs: the same numbers from a seed. */
static __always_inline u64 next_random(u64 *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dULL;
}

/* Where the random numbers of a CPU start. */
static inline u64 first_random(u64 seed, u64 stream)
{
	u64 state = seed ^ ((stream + 1) * 0x9e3779b97f4a7c15ULL);

	state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ULL;
	state = (state ^ (state >> 27)) * 0x94d049bb133111ebULL;
	state ^= state >> 31;
	return state ? state : 1;
}

static __always_inline u64 random_below(u64 *state, u64 bound)
{
	return ((next_random(state) >> 32) * bound) >> 32;
}

/* 8 to 4095: the octave uniform, then uniform inside it. */
static __always_inline size_t mix_size(u64 *state)
{
	u64 bits = next_random(state);
	u64 start = 1ULL << (3 + (((bits >> 32) * 9) >> 32));

	return start | (bits & (start - 1));
}

/* 8 to 999. */
static __always_inline size_t larson_size(u64 *state)
{
	return 8 + random_below(state, 992);
}

/* 5 to 1024: an octave by the trailing zeros of seven random bits, then uniform inside it. */
static __always_inline size_t alloc_test_size(u64 *state)
{
	u64 bits = next_random(state) >> 32;
	u64 start = 1ULL << (__builtin_ctzll((bits & 0x7f) + 1) + 2);

	return start + 1 + ((bits >> 7) & (start - 1));
}

/* A power of two, in words; one in a hundred is 100 times as large. */
static __always_inline size_t mstress_size(u64 *state, unsigned int sizes)
{
	size_t size = 8UL << random_below(state, sizes);

	return random_below(state, 100) < 1 ? size * 100 : size;
}

/* Places that all CPUs share, empty between requests. In workloads.c. */
extern void *transfers[TRANSFERS];

/* The largest rung below 1000, where sh6bench begins. */
#define LADDER_TOP 709

/* Blocks of a size before the next one. */
static __always_inline unsigned int ladder_count(size_t size)
{
	return size < 100 ? 250 : 50;
}

/* For 1, 2, 4, 7, 11 and so on, below 1000: that size, half of it, and so on to 1. */
static __always_inline size_t ladder_size(struct runs *runs)
{
	if (!runs->left) {
		runs->size /= 2;
		if (!runs->size) {
			runs->at += runs->at / 2 + 1;
			if (runs->at >= 1000)
				runs->at = 1;
			runs->size = runs->at;
		}
		runs->left = ladder_count(runs->size);
	}
	runs->left--;
	return runs->size;
}

/* Sizes of sh8bench and how many blocks of each follow one another. In workloads.c. */
#define HISTOGRAM_RUNS 12
extern const struct histogram_run {
	size_t size;
	unsigned int count;
} histogram_runs[HISTOGRAM_RUNS];

static __always_inline size_t histogram_size(struct runs *runs)
{
	if (!runs->left) {
		runs->at++;
		if (runs->at == HISTOGRAM_RUNS || histogram_runs[runs->at].size > runs->largest)
			runs->at = 0;
		runs->left = histogram_runs[runs->at].count;
	}
	runs->left--;
	return histogram_runs[runs->at].size;
}

/* Blocks of 8 bytes that each CPU allocates for the one before it: a tenth of those of a round. */
static inline unsigned int given_count(struct job *job)
{
	return DIV_ROUND_UP(job->count / PARTS * (PARTS - 1), 10);
}

/* They stand behind the slots. */
static inline void **given_slots(struct worker *worker)
{
	return worker->slots + worker->job->count;
}

/* How likely each range is, in 2^-32, all those before it included. */
extern const u64 cumulative[RANGES];

static __always_inline u64 pareto_slot(const u64 *starts, u64 *state)
{
	u64 bits = next_random(state) >> 32;
	unsigned int range = 0;

	while (range < RANGES && bits >= cumulative[range])
		range++;
	return starts[range] + random_below(state, starts[range + 1] - starts[range]);
}

#endif
