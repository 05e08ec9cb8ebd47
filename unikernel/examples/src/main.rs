//! The smallest Quarry image: says hello.

#![no_std]
#![no_main]

quarry_unikernel::main!(run);

fn run() {
    quarry_unikernel::println!("hello from {}", quarry_unikernel::cpus::current());
}
