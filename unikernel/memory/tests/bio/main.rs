//! Block I/O: bios, the sets they come from, and drivers that stand on others.

mod broken;
#[path = "../support/cases.rs"]
mod cases;
mod documentation;
mod faults;
mod handles;
mod model;
mod pager;
mod sets;
mod stacks;
mod support;
