//! A buffer for every CPU, in memory of the CPU's own node.
//!
//! Each CPU runs a thread that allocates with `kmalloc`, which prefers the memory nearest to the caller; then the first
//! CPU asks where the buffers are, and gives them back: any CPU may free what another allocated.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;

use quarry_memory::Gfp;
use quarry_topology::CpuId;
use quarry_unikernel::memory::service;
use quarry_unikernel::thread::SpawnError;
use quarry_unikernel::{ExitCode, cpus, log, println, thread};

quarry_unikernel::main!(main);

/// Bytes of each buffer.
const BUFFER_BYTES: usize = 64 << 10;

/// A buffer, as it travels from the CPU that allocated it to the one that frees it.
struct Buffer {
    address: *mut u8,
    made_by: CpuId,
}

// SAFETY: the buffer is whoever's has the `Buffer`; kmalloc's memory belongs to no CPU.
unsafe impl Send for Buffer {}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::Success,
        Err(error) => {
            log::error!("a thread cannot start: {error}");
            ExitCode::Failure
        }
    }
}

fn run() -> Result<(), SpawnError> {
    let threads = cpus::online().map(|cpu| thread::spawn_on(cpu, "buffer", allocate)).collect::<Result<Vec<_>, _>>()?;
    for buffer in threads.into_iter().map(thread::JoinHandle::join) {
        match service().virt_to_page(buffer.address).and_then(|page| service().page_to_node(page)) {
            Some(node) => println!("{}: {BUFFER_BYTES} bytes at {:p}, on {node}", buffer.made_by, buffer.address),
            None => println!("{}: no memory", buffer.made_by),
        }
        // SAFETY: the buffer came from `kmalloc` (or is null, which is nothing to free), and nobody uses it any more.
        unsafe { service().kfree(buffer.address) };
    }
    Ok(())
}

fn allocate() -> Buffer {
    Buffer { address: service().kzalloc(BUFFER_BYTES, Gfp::KERNEL), made_by: cpus::current() }
}
