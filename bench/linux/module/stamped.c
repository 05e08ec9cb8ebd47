// SPDX-License-Identifier: GPL-2.0-only
/* The loops with every call timed by itself. Two readings of the counter are in each. */
#include <linux/types.h>
#include <asm/msr.h>

#define ALLOCATED(worker, asked, call)					\
({									\
	u64 called = rdtsc_ordered();					\
	void *made = (call);						\
	u64 returned = rdtsc_ordered();					\
									\
	count_call(&(worker)->calls->allocations, called, returned);	\
	made;								\
})
#define RELEASED(worker, block, call)					\
do {									\
	u64 called = rdtsc_ordered(), returned;				\
									\
	call;								\
	returned = rdtsc_ordered();					\
	count_call(&(worker)->calls->frees, called, returned);		\
} while (0)
#define TOUCHED(block, writes) touch(block, writes)
#define TABLE stamped_loops

#include "loops.h"
