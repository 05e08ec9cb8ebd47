/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The timed loops. Each is what stands between two readings of the counter, in
 * the shape of that of bench/suite/src/workloads.
 *
 * This is compiled once for each kind of pass (bare.c, empty.c, stamped.c), which
 * say before what stands for a call:
 *
 *   ALLOCATED(worker, asked, call)   the block the call gives; `asked` is what
 *                                    it is asked for
 *   RELEASED(worker, block, call)    the call gives the block back
 *   TOUCHED(block, writes)           writes to its first byte
 *   TABLE                            the name of the table of loops
 *
 * Nothing is shared here but what quarry_linux.h says; who calls when is in
 * main.c, which loops make a workload in workloads.c.
 */
#include <linux/gfp.h>
#include <linux/irq_work.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "quarry_linux.h"

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
#define PAIRS(name, asked, allocate, release)				\
static noinline u64 name(struct worker *worker, u64 operations)		\
{									\
	u64 failures = 0, i;						\
	ASKED(worker);							\
									\
	for (i = 0; i < operations; i++) {				\
		void *block = ALLOCATED(worker, asked, allocate);	\
									\
		if (likely(block))					\
			RELEASED(worker, block, release);		\
		else							\
			failures++;					\
	}								\
	return failures;						\
}

/* All slots of the lists that are this CPU's to fill. */
#define FILLS(name, asked, allocate)					\
static noinline u64 name(struct worker *worker, u64 operations)		\
{									\
	unsigned int list;						\
	ASKED(worker);							\
									\
	for (list = worker->fills.first; list < worker->fills.end; list++) { \
		void **slots = worker->job->workers[list].slots;	\
		u64 i;							\
									\
		for (i = 0; i < operations; i++)			\
			slots[i] = ALLOCATED(worker, asked, allocate);	\
	}								\
	return 0;							\
}

/* All slots of the lists that are this CPU's to empty; those that were empty already are failures. */
#define EMPTIES(name, release)						\
static noinline u64 name(struct worker *worker, u64 operations)		\
{									\
	unsigned int list;						\
	u64 failures = 0;						\
	ASKED(worker);							\
									\
	for (list = worker->empties.first; list < worker->empties.end; list++) { \
		void **slots = worker->job->workers[list].slots;	\
		u64 i;							\
									\
		for (i = 0; i < operations; i++) {			\
			void *block = slots[i];				\
									\
			slots[i] = NULL;				\
			if (likely(block))				\
				RELEASED(worker, block, release);	\
			else						\
				failures++;				\
		}							\
	}								\
	return failures;						\
}

/* All slots filled, all slots emptied, over and over. */
#define GROUPS(name, asked, allocate, release)				\
static noinline u64 name(struct worker *worker, u64 operations)		\
{									\
	void **slots = worker->slots;					\
	unsigned int count = worker->job->count, at;			\
	u64 failures = 0, groups = operations / count, i;		\
	ASKED(worker);							\
									\
	for (i = 0; i < groups; i++) {					\
		for (at = 0; at < count; at++)				\
			slots[at] = ALLOCATED(worker, asked, allocate);	\
		for (at = 0; at < count; at++) {			\
			void *block = slots[at];			\
									\
			if (likely(block))				\
				RELEASED(worker, block, release);	\
			else						\
				failures++;				\
		}							\
	}								\
	return failures;						\
}

PAIRS(kmalloc_pair, size, kmalloc(size, GFP_KERNEL), kfree(block))
PAIRS(kzalloc_pair, size, kzalloc(size, GFP_KERNEL), kfree(block))
PAIRS(node_pair, size + nodes[i & 1], kmalloc_node(size, GFP_KERNEL, nodes[i & 1]), kfree(block))
FILLS(kmalloc_fill, size, kmalloc(size, GFP_KERNEL))
EMPTIES(kmalloc_empty, kfree(block))
GROUPS(kmalloc_group, size, kmalloc(size, GFP_KERNEL), kfree(block))

PAIRS(cache_pair, size, kmem_cache_alloc(cache, GFP_KERNEL), kmem_cache_free(cache, block))
FILLS(cache_fill, size, kmem_cache_alloc(cache, GFP_KERNEL))
EMPTIES(cache_empty, kmem_cache_free(cache, block))

PAIRS(page_pair, order, alloc_pages(GFP_KERNEL, order), __free_pages(block, order))
FILLS(page_fill, order, alloc_pages(GFP_KERNEL, order))
EMPTIES(page_empty, __free_pages(block, order))
GROUPS(page_group, order, alloc_pages(GFP_KERNEL, order), __free_pages(block, order))

/* Sizes the compiler knows. */
#define KNOWN_SIZES(one)						\
	one(8) one(16) one(32) one(64) one(128) one(256) one(512)	\
	one(1024) one(2048) one(4096) one(8192)

#define KNOWN_PAIR(bytes)						\
PAIRS(kmalloc_pair_##bytes, bytes, kmalloc(bytes, GFP_KERNEL), kfree(block))
KNOWN_SIZES(KNOWN_PAIR)

static const struct {
	size_t size;
	phase_fn loop;
} known_pairs[] = {
#define KNOWN_ENTRY(bytes) { bytes, kmalloc_pair_##bytes },
	KNOWN_SIZES(KNOWN_ENTRY)
};

static noinline u64 known_pair(struct worker *worker, u64 operations)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(known_pairs); i++)
		if (known_pairs[i].size == worker->job->size)
			return known_pairs[i].loop(worker, operations);
	return operations;
}

static noinline u64 bulk(struct worker *worker, u64 operations)
{
	unsigned int count = worker->job->count;
	u64 failures = 0, calls = operations / count, i;
	void **slots = worker->slots;
	ASKED(worker);

	for (i = 0; i < calls; i++) {
		void *made = ALLOCATED(worker, size, (void *)(unsigned long)
				       kmem_cache_alloc_bulk(cache, GFP_KERNEL, count, slots));

		if (likely(made))
			RELEASED(worker, slots, kmem_cache_free_bulk(cache, count, slots));
		else
			failures += count;
	}
	return failures;
}

/* A random slot of a power of two of them gets another block of another size. */
static noinline u64 mix(struct worker *worker, u64 operations)
{
	void **slots = worker->slots;
	u64 mask = worker->job->count - 1;
	u64 random = worker->random, failures = 0, i;

	for (i = 0; i < operations; i++) {
		u64 at = (next_random(&random) >> 32) & mask;
		void *block = slots[at];
		size_t size;

		if (likely(block))
			RELEASED(worker, block, kfree(block));
		size = mix_size(&random);
		slots[at] = ALLOCATED(worker, size, kmalloc(size, GFP_KERNEL));
		failures += !slots[at];
	}
	worker->random = random;
	return failures;
}

/* A random block of pages is given back and another one asked for. */
static noinline u64 page_replace(struct worker *worker, u64 operations)
{
	void **slots = worker->slots;
	u64 count = worker->job->count / 2;
	u64 random = worker->random, failures = 0, i;
	ASKED(worker);

	for (i = 0; i < operations; i++) {
		void **slot = &slots[random_below(&random, count)];
		void *block = *slot;

		if (likely(block))
			RELEASED(worker, block, __free_pages(block, order));
		*slot = ALLOCATED(worker, order, alloc_pages(GFP_KERNEL, order));
		failures += !*slot;
	}
	worker->random = random;
	return failures;
}

/* Slots of another CPU after each sample. */
static noinline u64 larson(struct worker *worker, u64 operations)
{
	void **slots = passed_on(worker);
	u64 count = worker->job->count;
	u64 random = worker->random, failures = 0, i;

	for (i = 0; i < operations; i++) {
		void **slot = &slots[random_below(&random, count)];
		void *block = *slot;
		size_t size;

		if (likely(block))
			RELEASED(worker, block, kfree(block));
		size = larson_size(&random);
		block = ALLOCATED(worker, size, kmalloc(size, GFP_KERNEL));
		*slot = block;
		if (likely(block))
			TOUCHED(block, 2);
		else
			failures++;
	}
	worker->random = random;
	return failures;
}

/* A slot by Pareto's rule: emptied when there is a block, filled when there is none. */
static noinline u64 alloc_test(struct worker *worker, u64 operations)
{
	void **slots = worker->slots;
	u64 random = worker->random, failures = 0, i;

	for (i = 0; i < operations; i++) {
		void **slot = &slots[pareto_slot(worker->starts, &random)];
		void *block = *slot;
		size_t size;

		if (block) {
			*slot = NULL;
			RELEASED(worker, block, kfree(block));
			continue;
		}
		size = alloc_test_size(&random);
		block = ALLOCATED(worker, size, kmalloc(size, GFP_KERNEL));
		*slot = block;
		if (likely(block))
			TOUCHED(block, 1);
		else
			failures++;
	}
	worker->random = random;
	return failures;
}

/* Lifetimes at random; some blocks are retained to the end, some swapped with places that all CPUs share. */
static noinline u64 mstress(struct worker *worker, u64 operations)
{
	unsigned int to_retain = worker->job->count / 3, to_allocate = worker->job->count - to_retain;
	void **retained = worker->slots, **others = worker->slots + to_retain;
	unsigned int retained_count = 0, other_count = 0, i;
	u64 random = worker->random, failures = 0;

	while (to_allocate || to_retain) {
		bool retain = to_retain && (!to_allocate || random_below(&random, 100) < 50);
		size_t size = mstress_size(&random, retain ? 7 : 5);
		void *block = ALLOCATED(worker, size, kmalloc(size, GFP_KERNEL));

		if (likely(block))
			TOUCHED(block, 1);
		else
			failures++;
		if (retain) {
			to_retain--;
			retained[retained_count++] = block;
		} else {
			to_allocate--;
			others[other_count++] = block;
		}
		if (other_count && random_below(&random, 100) < 66) {
			void **place = &others[random_below(&random, other_count)];

			block = *place;
			if (block) {
				*place = NULL;
				RELEASED(worker, block, kfree(block));
			}
		}
		if (other_count && random_below(&random, 100) < 25) {
			void **place = &others[random_below(&random, other_count)];

			*place = xchg(&transfers[random_below(&random, TRANSFERS)], *place);
		}
	}
	for (i = 0; i < retained_count + other_count; i++) {
		void *block = worker->slots[i];

		if (block)
			RELEASED(worker, block, kfree(block));
	}
	worker->random = random;
	return failures;
}

/* All parts of the slots but one filled, then all emptied but the next one, from both ends. */
#define ROUNDS(name, next_size)						\
static noinline u64 name(struct worker *worker, u64 operations)		\
{									\
	unsigned int part = worker->job->count / PARTS, at, i;		\
	void **slots = worker->slots;					\
	u64 failures = 0;						\
									\
	for (at = 0; at < PARTS; at++) {				\
		if (at == worker->spared)				\
			continue;					\
		for (i = at * part; i < (at + 1) * part; i++) {		\
			size_t size = next_size(&worker->runs);		\
			void *block = ALLOCATED(worker, size, kmalloc(size, GFP_KERNEL)); \
									\
			slots[i] = block;				\
			if (likely(block))				\
				TOUCHED(block, 1);			\
			else						\
				failures++;				\
		}							\
	}								\
	worker->spared = (worker->spared + 1) % PARTS;			\
	for (i = 0; i < worker->spared * part; i++)			\
		EMPTY_SLOT(&slots[i]);					\
	for (i = PARTS * part; i-- > (worker->spared + 1) * part;)	\
		EMPTY_SLOT(&slots[i]);					\
	return failures;						\
}

#define EMPTY_SLOT(slot)						\
do {									\
	void *block = *(slot);						\
									\
	*(slot) = NULL;							\
	if (likely(block))						\
		RELEASED(worker, block, kfree(block));			\
} while (0)

ROUNDS(sh6bench, ladder_size)
ROUNDS(sh8bench_round, histogram_size)

/* First all blocks go that the next CPU has allocated for this one. */
static noinline u64 sh8bench(struct worker *worker, u64 operations)
{
	struct job *job = worker->job;
	void **given = given_slots(&job->workers[(worker->index + 1) % job->cpus]);
	unsigned int i;

	for (i = 0; i < given_count(job); i++)
		EMPTY_SLOT(&given[i]);
	return sh8bench_round(worker, operations);
}

/* Pairs of a block that is written to; first the block this CPU was given goes, where it was given one. */
static noinline u64 touched_pair(struct worker *worker, u64 operations)
{
	u64 failures = 0, i;
	ASKED(worker);

	if (worker->slots && worker->slots[0]) {
		void *block = worker->slots[0];

		worker->slots[0] = NULL;
		RELEASED(worker, block, kfree(block));
	}
	for (i = 0; i < operations; i++) {
		void *block = ALLOCATED(worker, size, kmalloc(size, GFP_KERNEL));

		if (likely(block)) {
			TOUCHED(block, 100);
			RELEASED(worker, block, kfree(block));
		} else {
			failures++;
		}
	}
	return failures;
}

/* ---- Interrupts --------------------------------------------------------- */

/* In a handler. */
static noinline void pairs_in_handler(struct irq_work *work)
{
	struct worker *worker = container_of(work, struct worker, interrupt);
	u64 failures = 0, pairs = worker->pairs, i;
	ASKED(worker);

	for (i = 0; i < pairs; i++) {
		void *block = ALLOCATED(worker, size, kmalloc(size, GFP_ATOMIC));

		if (likely(block))
			RELEASED(worker, block, kfree(block));
		else
			failures++;
	}
	worker->failures += failures;
	smp_store_release(&worker->handled, true);
}

/* Has a handler of this CPU do so many pairs, and returns when it has. */
static __always_inline void interrupt(struct worker *worker, u64 pairs)
{
	worker->pairs = pairs;
	worker->handled = false;
	irq_work_queue(&worker->interrupt);
	while (!smp_load_acquire(&worker->handled))
		cpu_relax();
}

/* All is done by handlers, many pairs each. */
static noinline u64 in_handler(struct worker *worker, u64 operations)
{
	u64 left;

	init_irq_work(&worker->interrupt, pairs_in_handler);
	for (left = operations; left; left -= worker->pairs)
		interrupt(worker, min_t(u64, left, PAIRS_OF_HANDLER));
	return 0;
}

/* A pair of the thread, a pair of a handler, and so on. */
static noinline u64 interleaved(struct worker *worker, u64 operations)
{
	u64 failures = 0, i;
	ASKED(worker);

	init_irq_work(&worker->interrupt, pairs_in_handler);
	for (i = 0; i < operations / 2; i++) {
		void *block = ALLOCATED(worker, size, kmalloc(size, GFP_KERNEL));

		if (likely(block))
			RELEASED(worker, block, kfree(block));
		else
			failures++;
		interrupt(worker, 1);
	}
	return failures;
}

/* ---- Batches from CPU to CPU --------------------------------------------- */

/* Fills a batch; returns how many blocks there were none of. */
static __always_inline u64 fill_batch(struct worker *worker, void **batch, unsigned int length, size_t size)
{
	unsigned int i;
	u64 failures = 0;

	for (i = 0; i < length; i++) {
		void *block = ALLOCATED(worker, size, kmalloc(size, GFP_KERNEL));

		if (likely(block))
			TOUCHED(block, 1);
		else
			failures++;
		batch[i] = block;
	}
	return failures;
}

static __always_inline void empty_batch(struct worker *worker, void **batch, unsigned int length)
{
	unsigned int i;

	for (i = 0; i < length; i++) {
		void *block = batch[i];

		if (likely(block))
			RELEASED(worker, block, kfree(block));
	}
}

/* Fills batches and empties them, for there is nobody else. */
static noinline u64 handoff_alone(struct worker *worker, u64 left)
{
	unsigned int most = worker->job->count / BATCHES, length;
	u64 failures = 0;
	ASKED(worker);

	for (; left; left -= length) {
		length = min_t(u64, left, most);
		failures += fill_batch(worker, worker->slots, length, size);
		empty_batch(worker, worker->slots, length);
	}
	return failures;
}

/* Fills batches and sends them, as soon as there is one that is empty. */
static noinline u64 handoff_produce(struct worker *worker, u64 left)
{
	unsigned int most = worker->job->count / BATCHES, length, rounds = 0;
	struct channel *channel = &worker->channel;
	u64 failures = 0;
	ASKED(worker);

	for (; left; left -= length) {
		unsigned int sent = channel->sent, at = sent % BATCHES;

		/* Pairs with the release of who emptied it. */
		while (sent - smp_load_acquire(&channel->emptied) == BATCHES)
			wait_a_round(&rounds);
		length = min_t(u64, left, most);
		failures += fill_batch(worker, &worker->slots[at * most], length, size);
		channel->lengths[at] = length;
		smp_store_release(&channel->sent, sent + 1);
	}
	return failures;
}

/* Empties what those behind this CPU send, each in turn. */
static noinline void handoff_consume(struct worker *worker, unsigned int producers, u64 left)
{
	unsigned int most = worker->job->count / BATCHES, rounds = 0, i;

	while (left) {
		u64 before = left;

		for (i = 1; i <= producers; i++) {
			struct worker *producer = worker + i;
			struct channel *channel = &producer->channel;
			unsigned int emptied = channel->emptied, at = emptied % BATCHES;

			/* Pairs with the release of who filled it. */
			if (smp_load_acquire(&channel->sent) == emptied)
				continue;
			empty_batch(worker, &producer->slots[at * most], channel->lengths[at]);
			left -= channel->lengths[at];
			smp_store_release(&channel->emptied, emptied + 1);
		}
		if (left == before)
			wait_a_round(&rounds);
	}
}

/* CPUs in teams: the first frees what so many others allocate. The last team may be smaller. */
static __always_inline u64 handoff(struct worker *worker, u64 operations, unsigned int producers)
{
	unsigned int place = worker->index % (producers + 1);
	unsigned int team = min(producers, worker->job->cpus - (worker->index - place) - 1);
	/* Every call is an operation, and every CPU of the team counts as many. */
	u64 share = max_t(u64, operations * (team + 1) / 2 / max(team, 1U), 1);

	if (!team)
		return handoff_alone(worker, share);
	if (place)
		return handoff_produce(worker, share);
	handoff_consume(worker, team, share * team);
	return 0;
}

static noinline u64 xmalloc(struct worker *worker, u64 operations)
{
	return handoff(worker, operations, 1);
}

static noinline u64 producers(struct worker *worker, u64 operations)
{
	return handoff(worker, operations, max(worker->job->cpus - 1, 1U));
}

const phase_fn TABLE[LOOP_COUNT] = {
#define LOOP_ENTRY(name) [loop_##name] = name,
	LOOPS(LOOP_ENTRY)
};
