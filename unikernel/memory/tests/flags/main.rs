//! Every flag of the kmalloc family has the effect its manual names, and every call of the family obeys them. One test
//! for each; docs/kmalloc.md is the table of them.
//!
//! The machines are tiny, and a thread that is alone in its instance never really sleeps, so that a test takes no time.

mod combinations;
mod contents;
mod family;
mod placement;
mod support;
mod waiting;
