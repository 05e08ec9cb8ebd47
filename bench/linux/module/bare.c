// SPDX-License-Identifier: GPL-2.0-only
/* The loops as they are measured: nothing but the calls. */
#define ALLOCATED(worker, asked, call) (call)
#define RELEASED(worker, block, call) (call)
#define TOUCHED(block, writes) touch(block, writes)
#define TABLE bare_loops

#include "loops.h"
