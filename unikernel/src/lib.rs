//! A single-address-space unikernel whose kernel is a memory service.
//!
//! Users: images. An image depends on this crate, calls `quarry_build_helper::link_image()` in its build.rs, and is
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//!
//! quarry_unikernel::main!(run);
//!
//! fn run() {
//!     quarry_unikernel::println!("hello from {}", quarry_unikernel::cpus::current());
//! }
//! ```
//!
//! A module uses only those below it, but for the panic handler, which everything can end in:
//!
//! | module | what it is |
//! | --- | --- |
//! | `boot`, `balance` | the boot, step by step; the topology; threads that balance nodes |
//! | [`block`], `pci` | disks; functions of the PCI bus |
//! | [`thread`], `smp`, [`cpus`] | threads, starting CPUs, the CPUs that run |
//! | [`memory`], `report`, `stack` | the memory service on this machine; its state for people; stacks |
//! | [`fw_cfg`] | files from QEMU |
//! | [`interrupts`], `apic`, [`time`], [`turns`] | who is called for which vector; local APIC; clock; how long an emulator stays with a CPU |
//! | `firmware`, `boot_memory` | ACPI tables; memory before the service runs |
//! | `panic`, `backtrace`, `symbols` | the end of a run that went wrong |
//! | `paging`, [`probe`], `layout` | page tables; what is mapped; where things are |
//! | [`console`], `logger`, `command_line`, [`exit`] | serial line, log, options, exit codes |
//! | `cpu_local`, `sync` | what belongs to one CPU; locks |
//! | `arch` | privileged instructions |

#![no_std]

extern crate alloc;

mod apic;
mod arch;
mod backtrace;
mod balance;
pub mod block;
mod boot;
mod boot_memory;
mod command_line;
pub mod console;
mod cpu_local;
pub mod cpus;
pub mod exit;
mod firmware;
pub mod fw_cfg;
pub mod interrupts;
mod layout;
mod logger;
pub mod memory;
mod paging;
mod panic;
mod pci;
pub mod probe;
mod smp;
mod stack;
mod symbols;
mod sync;
pub mod thread;
pub mod time;
pub mod turns;

pub use arch::traps::TrapFrame;
pub use arch::under_emulation;
pub use boot::{boot_duration, topology, topology_warnings};
pub use command_line::{command_line, option};
pub use exit::{ExitCode, Termination, exit};
pub use log;
pub use logger::warnings;
pub use paging::rights;
pub use quarry_memory as memory_service;
pub use quarry_topology as topology_model;

/// Names the function an image starts with: no arguments, and returns `()` or anything else that is a [`Termination`].
#[macro_export]
macro_rules! main {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "Rust" fn quarry_main() -> $crate::ExitCode {
            $crate::Termination::exit_code($main())
        }
    };
}
