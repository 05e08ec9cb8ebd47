//! VM objects: `vm_page_alloc` and its classes and flags at their borders, what can be done to a page, the page daemon, moving,
//! and what fails.

mod alloc;
#[path = "../support/cases.rs"]
mod cases;
mod costs;
mod daemon;
mod model;
mod moving;
mod pages;
mod paging;
mod support;
mod sweep;
