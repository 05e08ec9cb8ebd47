// SPDX-License-Identifier: GPL-2.0-only
/* The loops without the calls: what they cost by themselves. Writes go to a byte of the stack. */
#include <linux/compiler.h>
#include <linux/types.h>

/* What is left of an allocation when there is none; the compiler believes it. */
static __always_inline void *token(size_t asked)
{
	void *block = (void *)(asked | 1);

	OPTIMIZER_HIDE_VAR(block);
	return block;
}

/* What is left of a free. Volatile: a loop of nothing else must stay a loop. */
static __always_inline void forget(void *block)
{
	asm volatile("" : : "r" (block));
}

#define ALLOCATED(worker, asked, call) token(asked)
#define RELEASED(worker, block, call) forget(block)
#define TOUCHED(block, writes)						\
do {									\
	u8 byte;							\
									\
	touch(&byte, writes);						\
} while (0)
#define TABLE empty_loops

#include "loops.h"
