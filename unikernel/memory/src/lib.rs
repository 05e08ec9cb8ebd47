//! The memory service of Quarry: zones and buddy allocators on every NUMA node, per-CPU page lists, slab caches with
//! per-CPU magazines and per-node depots, and the kmalloc family over them.
//!
//! `no_std`, and it knows no hardware: everything it asks of its host goes through [`Machine`]. The unikernel
//! implements that on real CPUs; the feature `hosted` runs the same code on threads of an ordinary Linux process.
//!
//! A module uses only those below it:
//!
//! | module                       | what it is                                                  |
//! |------------------------------|-------------------------------------------------------------|
//! | [`vm`]                       | objects whose pages a pager can write back; `vm_page_alloc` |
//! | [`bio`]                      | block I/O: bios, sets that never run dry, stacked drivers   |
//! | `typed`                      | caches of values of one type                                |
//! | [`mempool`], `reserve`, `elements` | allocations that cannot fail where they may wait      |
//! | [`kmalloc`], [`kmem_cache`], `bulk` | the interface: `kmalloc`, `kmem_cache_alloc`, their families |
//! | `percpu`                     | a piece of memory for each CPU                              |
//! | `exchange`                   | the usual slow paths of objects                             |
//! | `slab`, `drain`, `depot`     | slow paths; giving back; what is done under a depot's lock  |
//! | `cpu_stacks`                 | what a CPU's magazines cannot hold                          |
//! | `chunk_stack`, `chunks`      | free objects at hand, as pointers; what that is made of     |
//! | `vmalloc`                    | memory contiguous in addresses only                         |
//! | [`contig`]                   | `contigmalloc`: memory contiguous in frames, where asked for |
//! | [`malloc_type`]              | whose memory it is, for those who name their kind           |
//! | [`movable_pages`], `pin`     | pages behind pin guards, which move                         |
//! | [`movable`]                  | pages that an owner of the caller's lets be moved           |
//! | [`page`], `allocate`         | `alloc_pages`: per-CPU page lists; zonelists                |
//! | [`reclaim`], [`shrinker`], `waiters`, `handover`, `attention` | making memory, waiting for it   |
//! | `failure`, [`fault`]         | what is told of a failed allocation; failures on request    |
//! | [`compaction`]               | moves pages together, so that large blocks become free      |
//! | `owner`                      | who has movable pages                                       |
//! | `service`, `node`, `growth`  | the whole: start, state of a node, memory taken in lazily   |
//! | `set`, `registry`, `class`   | per-CPU state; which caches there are; size classes, tags   |
//! | `kept`                       | how much memory pools keep back                             |
//! | [`task`], [`policy`], [`events`] | a thread's scopes and memory policy; what vmstat counts |
//! | [`zone`], `free_area`        | watermarks; buddy free areas                                |
//! | `zeroed`                     | pages that idle CPUs have zeroed                            |
//! | `told`, `trace`              | what is told of every call: nothing, or a trace (feature `trace`) |
//! | [`mobility`]                 | what can be moved, of every pageblock                       |
//! | `run`                        | where a run of frames may lie                               |
//! | [`frame`]                    | frame numbers and sixteen bytes of metadata each            |
//! | [`machine`]                  | what the service asks of its host                           |

#![no_std]

#[cfg(any(test, feature = "hosted"))]
extern crate std;

mod allocate;
mod attention;
pub mod bio;
mod bulk;
mod capacity;
mod chunk_stack;
mod chunks;
mod class;
pub mod compaction;
pub mod contig;
mod cpu_stacks;
mod depot;
mod detached;
mod drain;
mod elements;
mod equip;
pub mod events;
mod exchange;
mod failure;
pub mod fault;
pub mod frame;
mod free_area;
mod gfp;
mod grid;
mod growth;
mod handover;
#[cfg(feature = "hosted")]
pub mod hosted;
mod kept;
pub mod kmalloc;
pub mod kmem_cache;
mod lock;
pub mod machine;
pub mod malloc_type;
pub mod mempool;
pub mod mobility;
pub mod movable;
pub mod movable_pages;
mod node;
mod owner;
pub mod page;
mod percpu;
mod pin;
pub mod policy;
mod raw_lock;
pub mod reclaim;
mod registry;
mod reserve;
mod run;
mod service;
mod set;
pub mod shrinker;
mod slab;
pub mod statistics;
mod sync;
pub mod task;
mod told;
#[cfg(feature = "trace")]
pub mod trace;
mod typed;
pub mod vm;
mod vmalloc;
mod waiters;
mod walks;
mod zeroed;
pub mod zone;

pub use bulk::Sheaf;
pub use class::MAX_SLAB_SIZE;
pub use contig::{ContigBlock, ContigError, ContigFreeError, ContigRequest, MallocFlags};
pub use fault::{FaultAttributes, FaultError};
pub use frame::{FRAME_BYTES, Order, Pfn};
pub use gfp::Gfp;
pub use kmalloc::{MAX_SIZE, ZERO_SIZE_PTR};
pub use kmem_cache::{CacheError, KmemCache, ObjectsRemain, SlabFlags};
pub use lock::{Guard, Lock};
pub use machine::Machine;
pub use malloc_type::{M_DEVBUF, M_TEMP, MallocType, MallocTypeUse};
pub use mempool::{Mempool, MempoolError};
pub use mobility::Mobility;
pub use movable_pages::{MovablePage, MovablePages};
pub use owner::{MAX_OWNERS, OwnerError, OwnerId, PageOwner};
pub use page::PageError;
pub use percpu::PerCpu;
pub use policy::{NodeMask, Policy};
pub use quarry_topology::{CpuId, NodeId, PhysicalRange, Topology};
pub use service::{FreeRange, Service, StartError};
pub use set::Set;
pub use shrinker::{ShrinkControl, Shrinker};
pub use slab::FreeError;
pub use task::Task;
pub use typed::{AllocError, Cache, CacheBox};
