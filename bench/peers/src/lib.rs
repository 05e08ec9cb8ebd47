//! The hosted memory service beside the allocators people use.
//!
//! ```text
//! cargo bench -p quarry-peers                          everything, some minutes
//! cargo bench -p quarry-peers -- --quick               a look, under a minute
//! cargo bench -p quarry-peers -- --workload pair,mix --size 64 --threads 1 --output peers.json
//! ```
//! Needs a C and a C++ compiler, `make` and `cmake` (which is for snmalloc alone; `--no-default-features` leaves it
//! out).
//!
//! The loops, the calibration and the checking pass are those of `quarry-suite`, the same as in the guest. All
//! allocators take part in one process and one run, interleaved ([`compare`]): each round measures every case over
//! every allocator for a moment, in an order that rotates, so whatever else the machine does meets them all alike.
//!
//! # What is equal for all
//!
//! - `allocate` and `free` are one real call each, the size in a register: the C allocators' own functions, and a
//!   function that is never inlined around those written in Rust. Nothing is told to `free` but the address, except
//!   for `buddy-slab`, whose interface wants the size back and gets it with the block.
//! - Every measurement runs on new threads bound to CPUs, and runs warm before its first sample.
//! - Page blocks are aligned to their size, as the buddy's are: from `malloc` families by way of their aligned
//!   allocation.
//! - Each allocator is as its crate builds it: optimised, assertions off, default options. The build scripts of
//!   snmalloc and mimalloc take a profile with debug information for a debug build, and snmalloc's then does not even
//!   optimise: what `[profile.bench]` says of debug information must leave dependencies out.
//!
//! Not equal, and to be kept in mind when reading the table: the hosted service checks every free (is it an object, is
//! it free already) and never returns memory to the system; the peers give memory back now and then. glibc's `malloc`
//! also serves the harness.
//!
//! # Adding a peer
//!
//! 1. Its crate goes to `Cargo.toml` here.
//! 2. If it has `malloc` and `free`: implement [`malloc::Malloc`] for a unit type in `malloc.rs`. Otherwise implement
//!    [`quarry_suite::Subject`] in a file of its own; `buddy_slab.rs` is an example.
//! 3. Add a line to [`Contestant::all`]. The test that checks every contestant's blocks then covers it, and the bench
//!    shows it.

pub mod buddy_slab;
pub mod compare;
mod contestant;
pub mod malloc;
pub mod quarry;
pub mod report;
pub mod table;
mod threads;

pub use contestant::Contestant;
pub use quarry_subjects::Memory;
pub use threads::Threads;
