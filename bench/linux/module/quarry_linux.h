/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the two files of quarry_linux share: a request, the CPUs that work on
 * it, and the table of workloads.
 */
#ifndef QUARRY_LINUX_H
#define QUARRY_LINUX_H

#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/slab.h>
#include <linux/types.h>

#define MOST_PHASES 2

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

	const phase_fn *phases;
	unsigned int phase_count;
	struct kmem_cache *cache;
	struct worker *workers;
	atomic_t arrived;
	unsigned int generation;
	atomic_t running;
	struct completion done;
};

/* By name; in loops.c. */
extern const struct workload workloads[];
extern const unsigned int workload_count;

/* Where the random numbers of a CPU start. */
u64 first_random(u64 seed, u64 stream);

#endif
