//! The guest-tests image: tests of the kernel that need a real boot, their outcomes as records on the serial line.
//!
//! Booted by `quarry test`, or by hand. `test=<part of a name>` on the command line runs the tests whose names contain
//! it; `seed=<number>` starts the random ones elsewhere. A test that panics ends the run: the panic report names it,
//! for its `started` record is the last.
//!
//! Each module of tests is about one area and ends with their list, `TESTS`.

#![no_std]
#![no_main]

extern crate alloc;

mod flood;
mod harness;
mod hoard;
mod object;
mod team;

mod bio;
mod cache;
mod contig;
mod disk;
mod disk_errors;
mod faults;
mod flags;
mod flags_short;
mod fw_cfg;
mod heap;
mod interrupts;
mod kmalloc;
mod mempool;
mod mobility;
mod pages;
mod paging;
mod registers;
mod statistics;
mod stress;
mod threads;
mod time;
mod vm;
mod vm_four_times;
mod vm_on_disk;
mod vmalloc;

use quarry_unikernel::ExitCode;

quarry_unikernel::main!(main);

fn main() -> ExitCode {
    harness::run(&[
        paging::TESTS,
        threads::TESTS,
        time::TESTS,
        interrupts::TESTS,
        registers::TESTS,
        pages::TESTS,
        kmalloc::TESTS,
        flags::TESTS,
        flags_short::TESTS,
        faults::TESTS,
        cache::TESTS,
        vmalloc::TESTS,
        vm::TESTS,
        vm_four_times::TESTS,
        mempool::TESTS,
        mobility::TESTS,
        contig::TESTS,
        heap::TESTS,
        fw_cfg::TESTS,
        disk::TESTS,
        bio::TESTS,
        vm_on_disk::TESTS,
        disk_errors::TESTS,
        stress::TESTS,
        statistics::TESTS,
    ])
}
