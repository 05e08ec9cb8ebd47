//! A real program on the [`ProcessHeap`].

mod program;

use quarry_memory::hosted::ProcessHeap;

#[global_allocator]
static ALLOCATOR: ProcessHeap = ProcessHeap;

fn main() {
    program::run();
}
