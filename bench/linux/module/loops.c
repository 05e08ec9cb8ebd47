// SPDX-License-Identifier: GPL-2.0-only
/*
 * The timed loops, and the table of workloads they belong to. Each is what
 * stands between two readings of the counter, in the shape of those of
 * bench/suite/src/workloads. Nothing is shared here but what quarry_linux.h
 * says; who calls when is in main.c.
 */
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "quarry_linux.h"

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

u64 first_random(u64 seed, u64 stream)
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

const struct workload workloads[] = {
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

const unsigned int workload_count = ARRAY_SIZE(workloads);
