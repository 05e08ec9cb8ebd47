//! A real program on a [`Hosted`].

mod program;

use quarry_memory::hosted::Hosted;

#[global_allocator]
static ALLOCATOR: Hosted = Hosted::new();

fn main() {
    program::run();
}
