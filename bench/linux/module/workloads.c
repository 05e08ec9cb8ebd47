// SPDX-License-Identifier: GPL-2.0-only
/*
 * The table of workloads, and what they do outside of their loops: blocks held
 * from before the first sample, and what changes hands between samples. The
 * same as in bench/suite/src/workloads, where each is explained.
 */
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "quarry_linux.h"

/* Of six choices between 80 % and 20 %, so many were the latter. */
const u64 cumulative[RANGES] = {
	1125899906, 2814749767, 3870280930, 4222124650, 4288095348, 4294692418, 1ULL << 32,
};

/* A block to be held; where nothing is allocated, what stands for one. */
static void *held(struct worker *worker, size_t size)
{
	return worker->job->kind == EMPTY ? (void *)1 : kmalloc(size, GFP_KERNEL);
}

static void drop_all(struct worker *worker)
{
	unsigned int i;

	for (i = 0; i < worker->job->count && worker->job->kind != EMPTY; i++)
		kfree(worker->slots[i]);
}

static void mix_begin(struct worker *worker)
{
	unsigned int i;

	for (i = 0; i < worker->job->count; i++)
		worker->slots[i] = held(worker, mix_size(&worker->random));
}

static void larson_begin(struct worker *worker)
{
	unsigned int i;

	for (i = 0; i < worker->job->count; i++)
		worker->slots[i] = held(worker, larson_size(&worker->random));
}

static u64 pass_on(struct worker *worker, unsigned int phase)
{
	worker->turns++;
	return 0;
}

/* Half of the slots are filled. The slots of a range are the part that the mirrored range has of the accesses. */
static void alloc_test_begin(struct worker *worker)
{
	unsigned int count = worker->job->count, i;

	for (i = 0; i < count; i++)
		if (random_below(&worker->random, 2))
			worker->slots[i] = held(worker, alloc_test_size(&worker->random));
	for (i = 1; i < RANGES; i++) {
		u64 part = (1ULL << 32) - cumulative[RANGES - 1 - i];

		/* Every range has a slot. */
		worker->starts[i] = max((count * part) >> 32, worker->starts[i - 1] + 1);
	}
	worker->starts[RANGES] = count;
}

/* The first CPU allocates a block for each, one after the other. */
static u64 give(struct worker *worker, unsigned int phase)
{
	struct job *job = worker->job;
	unsigned int i;
	u64 failures = 0;

	if (worker->index)
		return 0;
	for (i = 0; i < job->cpus; i++) {
		void *block = held(worker, job->size);

		job->workers[i].slots[0] = block;
		failures += !block;
	}
	return failures;
}

static void give_first(struct worker *worker)
{
	worker->failures += give(worker, 0);
}

void *transfers[TRANSFERS];

static void drop_transfers(struct worker *worker)
{
	struct job *job = worker->job;
	unsigned int i;

	for (i = worker->index; i < TRANSFERS; i += job->cpus) {
		if (job->kind != EMPTY)
			kfree(transfers[i]);
		transfers[i] = NULL;
	}
}

const struct histogram_run histogram_runs[HISTOGRAM_RUNS] = {
	{ 8, 1000 }, { 16, 5000 }, { 48, 1000 }, { 72, 100 }, { 148, 100 }, { 200, 100 },
	{ 520, 10 }, { 1056, 5 }, { 4096, 3 }, { 9162, 1 }, { 34562, 1 }, { 168524, 1 },
};

static void ladder_begin(struct worker *worker)
{
	unsigned int i;

	worker->runs = (struct runs){ LADDER_TOP, LADDER_TOP, ladder_count(LADDER_TOP) };
	for (i = 0; i < worker->job->count / PARTS; i++)
		worker->slots[i] = held(worker, ladder_size(&worker->runs));
}

/* Blocks for the CPU before this one. */
static u64 give_small(struct worker *worker, unsigned int phase)
{
	void **slots = given_slots(worker);
	unsigned int i;
	u64 failures = 0;

	for (i = 0; i < given_count(worker->job); i++) {
		slots[i] = held(worker, 8);
		failures += !slots[i];
	}
	return failures;
}

/* Behind the long run, so that a short one sees most sizes. */
static void histogram_begin(struct worker *worker)
{
	unsigned int i;

	worker->runs = (struct runs){ .at = 2, .left = histogram_runs[2].count, .largest = worker->job->size };
	for (i = 0; i < worker->job->count / PARTS; i++)
		worker->slots[i] = held(worker, histogram_size(&worker->runs));
	worker->failures += give_small(worker, 0);
}

static void drop_given(struct worker *worker)
{
	void **slots = given_slots(worker);
	unsigned int i;

	drop_all(worker);
	for (i = 0; i < given_count(worker->job) && worker->job->kind != EMPTY; i++)
		kfree(slots[i]);
}

static void hold_pages(struct worker *worker)
{
	unsigned int i;

	for (i = 0; i < worker->job->count && worker->job->kind != EMPTY; i++)
		worker->slots[i] = alloc_pages(GFP_KERNEL, worker->job->order);
}

static void drop_pages(struct worker *worker)
{
	unsigned int i;

	for (i = 0; i < worker->job->count && worker->job->kind != EMPTY; i++)
		if (worker->slots[i])
			__free_pages(worker->slots[i], worker->job->order);
}

static void **card(struct job *job, u64 at)
{
	return &job->workers[at / job->count].slots[at % job->count];
}

/* The first CPU shuffles the slots of all (Fisher and Yates). */
static void shuffle(struct worker *worker)
{
	struct job *job = worker->job;
	u64 end;

	if (worker->index)
		return;
	for (end = (u64)job->cpus * job->count - 1; end; end--) {
		void **last = card(job, end), **other = card(job, random_below(&worker->random, end + 1));

		swap(*last, *other);
	}
}

static u64 shuffle_between(struct worker *worker, unsigned int phase)
{
	if (!phase)
		shuffle(worker);
	return 0;
}

/* Half of all blocks are given back, so that memory is full of holes. */
static void make_holes(struct worker *worker)
{
	struct job *job = worker->job;
	unsigned int i;

	hold_pages(worker);
	meet(job);
	shuffle(worker);
	meet(job);
	for (i = job->count / 2; i < job->count; i++) {
		if (worker->slots[i])
			__free_pages(worker->slots[i], job->order);
		worker->slots[i] = NULL;
	}
}

#define LOOP(name) { loop_##name }
#define FILL_EMPTY(of) .phases = { loop_##of##_fill, loop_##of##_empty }, .slots = true, .fixed = true

const struct workload workloads[] = {
	{ .name = "pair", .phases = LOOP(kmalloc_pair) },
	{ .name = "pair-inlined", .phases = LOOP(known_pair) },
	{ .name = "pair-zeroed", .phases = LOOP(kzalloc_pair) },
	{ .name = "pair-cache", .phases = LOOP(cache_pair), .own_cache = true },
	{ .name = "batch", FILL_EMPTY(kmalloc) },
	{ .name = "batch-cache", FILL_EMPTY(cache), .own_cache = true },
	{ .name = "bulk", .phases = LOOP(bulk), .slots = true, .own_cache = true },
	{ .name = "remote", FILL_EMPTY(kmalloc), .empties = OF_NEXT },
	{ .name = "remote-zero", FILL_EMPTY(kmalloc), .empties = ALL_BY_FIRST },
	{ .name = "one-allocates", FILL_EMPTY(kmalloc), .fills = ALL_BY_FIRST },
	{ .name = "mix", .phases = LOOP(mix), .slots = true, .power_of_two = true,
	  .fill = mix_begin, .drain = drop_all },
	{ .name = "node", .phases = LOOP(node_pair) },
	{ .name = "interrupt", .phases = LOOP(in_handler) },
	{ .name = "interrupt-interleaved", .phases = LOOP(interleaved) },

	{ .name = "page", .phases = LOOP(page_pair) },
	{ .name = "page-outstanding", .phases = LOOP(page_group), .slots = true },
	{ .name = "page-bulk", .phases = LOOP(page_group), .slots = true },
	{ .name = "page-cross", FILL_EMPTY(page), .empties = OF_NEXT },
	{ .name = "llfree-bulk", FILL_EMPTY(page) },
	{ .name = "llfree-rand", FILL_EMPTY(page), .after = shuffle_between },
	{ .name = "llfree-repeat", .phases = LOOP(page_pair), .slots = true,
	  .fill = hold_pages, .drain = drop_pages },
	{ .name = "llfree-frag", .phases = LOOP(page_replace), .slots = true, .least_slots = 2,
	  .fill = make_holes, .drain = drop_pages },

	{ .name = "larson", .phases = LOOP(larson), .slots = true,
	  .fill = larson_begin, .after = pass_on, .drain = drop_all },
	{ .name = "xmalloc", .phases = LOOP(xmalloc), .slots = true, .least_slots = BATCHES },
	{ .name = "producers", .phases = LOOP(producers), .slots = true, .least_slots = BATCHES },
	{ .name = "mstress", .phases = LOOP(mstress), .slots = true, .fixed = true, .least_slots = 3,
	  .drain = drop_transfers },
	{ .name = "sh6bench", .phases = LOOP(sh6bench), .slots = true, .least_slots = PARTS,
	  .fill = ladder_begin, .drain = drop_all },
	{ .name = "sh8bench", .phases = LOOP(sh8bench), .slots = true, .least_slots = PARTS, .given = true,
	  .fill = histogram_begin, .after = give_small, .drain = drop_given },
	{ .name = "threadtest", .phases = LOOP(kmalloc_group), .slots = true, .fixed = true },
	{ .name = "cache-scratch", .phases = LOOP(touched_pair), .slots = true,
	  .fill = give_first, .after = give, .drain = drop_all },
	{ .name = "cache-thrash", .phases = LOOP(touched_pair) },
	{ .name = "alloc-test", .phases = LOOP(alloc_test), .slots = true, .least_slots = 4 * RANGES,
	  .fill = alloc_test_begin, .drain = drop_all },
};

const unsigned int workload_count = ARRAY_SIZE(workloads);
