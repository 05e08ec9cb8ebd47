//! The smallest image: says on which machine it runs, and ends.

#![no_std]
#![no_main]

use quarry_unikernel::{cpus, println, topology};

quarry_unikernel::main!(main);

fn main() {
    println!("hello from {} of {}", cpus::current(), cpus::online().count());
    println!("{}", topology());
}
