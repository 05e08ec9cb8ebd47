//! Traces of allocations and frees, event by event and CPU by CPU: a [`Trace`], and its form as text.
//!
//! Used by the suite, which replays and records them in the guest, and by the host, which converts what Linux records
//! and tells what is in a trace. The format is described in `docs/traces.md`; in short, a line is an event:
//!
//! ```text
//! quarry-trace 1
//! a 0 7 64          CPU 0 allocates object 7, of 64 bytes
//! +250 r 1 7 128    250 ns later CPU 1 makes it 128 bytes long
//! f 1 7             and frees it
//! p 0 8 2           CPU 0 allocates block 8, of 4 pages
//! q 0 8             and frees it
//! ```
//!
//! A trace is always whole: what a [`Trace`] holds was allocated before it is resized or freed, and freed once.
//! [`Trace::push`] sees to it, whoever calls. The events of a trace stand in one order in which they can all be done one
//! after another; whoever does those of each CPU in order, and those of each object in order, can do them at once.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod assembly;
mod parse;
mod trace;

pub use assembly::{Assembly, Begun, Moment, Place};
pub use parse::{ParseError, Problem};
pub use trace::{Action, Cpu, Event, Flags, Misuse, Node, ObjectId, Request, Trace};

/// The version of the format that is read and written.
pub const VERSION: u32 = 1;

/// Most bytes of an object: the most `kmalloc` gives, here as in Linux.
pub const MOST_SIZE: u32 = 4 << 20;

/// The largest order of a block of pages, here as in Linux.
pub const MOST_ORDER: u8 = 10;

/// Most bytes of a trace's text that a guest takes.
pub const MOST_TEXT: u64 = 16 << 20;
