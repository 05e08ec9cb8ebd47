//! The boot: from the loader's jump to the image's `main`, each step one call, in this order.
//!
//! Used by the loader, which jumps to `quarry_start`. One CPU runs all of this; the others join near the end. What has
//! to exist before there is memory to allocate (a stack, descriptor tables, a CPU-local area) is static here and is
//! left behind.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use core::{ptr, slice};

use quarry_loader::{BootInfo, MAGIC, RegionKind, VERSION};
use quarry_topology::{CpuId, NodeId, PhysicalRange, Topology};

use crate::arch::tables::{CpuTables, InterruptStack};
use crate::boot_memory::BootMemory;
use crate::cpu_local::CpuLocal;
use crate::cpus::Prepared;
use crate::layout::{PAGE_BYTES, direct};
use crate::{
    apic, arch, balance, command_line, console, cpu_local, exit, firmware, interrupts, logger, memory, paging,
};
use crate::{smp, symbols, thread, time};

/// Bytes of the boot's stack, which becomes the first CPU's idle stack.
const BOOT_STACK_BYTES: usize = 64 << 10;

/// Bytes of the first CPU's interrupt stacks until it has proper ones.
const EARLY_STACK_BYTES: usize = 16 << 10;

/// Bytes of the stack of the image's `main`.
const MAIN_STACK_BYTES: u64 = 256 << 10;

// The loader's stack is given back to the machine, so the boot moves to its own at once.
global_asm!(
    ".section .text.quarry_start, \"ax\"",
    ".global quarry_start",
    "quarry_start:",
    "lea rsp, [rip + {stack} + {bytes}]",
    "xor ebp, ebp",
    "push 0",
    "jmp {boot}",
    ".text",
    stack = sym BOOT_STACK,
    bytes = const BOOT_STACK_BYTES,
    boot = sym boot,
);

/// Something only the boot writes, before anybody else runs.
#[repr(align(16))]
struct BootCell<T>(UnsafeCell<T>);

// SAFETY: written by the first CPU while no other runs, and only read afterwards.
unsafe impl<T> Sync for BootCell<T> {}

static BOOT_STACK: BootCell<[u8; BOOT_STACK_BYTES]> = BootCell(UnsafeCell::new([0; BOOT_STACK_BYTES]));
static EARLY_STACKS: BootCell<[[u8; EARLY_STACK_BYTES]; InterruptStack::COUNT]> =
    BootCell(UnsafeCell::new([[0; EARLY_STACK_BYTES]; InterruptStack::COUNT]));
static EARLY_TABLES: BootCell<CpuTables> = BootCell(UnsafeCell::new(CpuTables::new()));
static EARLY_LOCAL: BootCell<CpuLocal> = BootCell(UnsafeCell::new(CpuLocal::new(CpuId(0), NodeId(0), 0)));
static MEMORY: BootCell<BootMemory> = BootCell(UnsafeCell::new(BootMemory::empty()));
static TOPOLOGY: BootCell<Topology> = BootCell(UnsafeCell::new(Topology::empty()));
static TOPOLOGY_WARNINGS: AtomicU32 = AtomicU32::new(0);
static BOOT_NANOSECONDS: AtomicU64 = AtomicU64::new(0);

/// The machine's topology.
pub fn topology() -> &'static Topology {
    // SAFETY: the boot wrote it before anybody could ask, and never again.
    unsafe { &*TOPOLOGY.0.get() }
}

/// How many warnings there were about the tables the topology came from.
pub fn topology_warnings() -> u32 {
    TOPOLOGY_WARNINGS.load(Relaxed)
}

/// How long the boot took, from the loader's first instruction to the image's `main`.
pub fn boot_duration() -> Duration {
    Duration::from_nanos(BOOT_NANOSECONDS.load(Relaxed))
}

/// The whole boot.
extern "sysv64" fn boot(boot_info: u64) -> ! {
    console::initialise();
    // SAFETY: the loader passes the address of what it wrote, in memory it keeps in the direct map.
    let info = unsafe { &*ptr::with_exposed_provenance::<BootInfo>(direct(boot_info) as usize) };
    if (info.magic, info.version) != (MAGIC, VERSION) {
        console::write(format_args!(
            "quarry: error: this image wants version {VERSION} of the loader's boot information: use the loader of the same release\n"
        ));
        exit::exit(exit::ExitCode::Failure);
    }
    start_first_cpu();
    command_line::initialise(bytes_at(info.command_line));
    symbols::initialise(bytes_at(info.image_file));
    logger::initialise(command_line::option("loglevel"));
    interrupts::mask_legacy_controllers();
    paging::drop_lower_half();
    time::initialise(info.entry_tsc, paging::translate);
    log::info!("TSC runs at {} kHz ({})", time::ticks_per_second() / 1000, time::method());
    discover_topology(info);
    let start_page = start_memory(info);
    let mut frames = memory::page_table_frames();
    apic::initialise(topology().local_apic_address().0, &mut frames).expect("there was memory a moment ago");
    move_in_first_cpu();
    apic::calibrate_timer();
    thread::initialise();
    // Handlers exist and the first CPU is whole: from here on interrupts may come.
    arch::enable_interrupts();
    smp::start_others(topology(), start_page);
    balance::start();
    let uptime = time::uptime();
    BOOT_NANOSECONDS.store(uptime.as_nanos() as u64, Relaxed);
    log::info!("booted in {uptime:.1?}");
    let main = thread::spawn_with_stack(CpuId(0), "main", MAIN_STACK_BYTES, || {
        memory::inject_faults();
        exit::exit(quarry_main())
    });
    if let Err(error) = main {
        panic!("the image's main cannot start: {error}");
    }
    thread::idle()
}

unsafe extern "Rust" {
    /// Defined by [`main!`](crate::main).
    safe fn quarry_main() -> exit::ExitCode;
}

fn bytes_at(range: quarry_loader::PhysicalRange) -> &'static [u8] {
    let start = ptr::with_exposed_provenance::<u8>(direct(range.start) as usize);
    // SAFETY: the loader keeps the command line and the image file in memory of their own, in the direct map; nobody
    // writes to them.
    unsafe { slice::from_raw_parts(start, range.size() as usize) }
}

/// Gives the first CPU descriptor tables, interrupt stacks and an area: from here on a fault says what happened.
fn start_first_cpu() {
    let stacks = EARLY_STACKS.0.get().addr() as u64;
    let ends = core::array::from_fn(|index| stacks + ((index + 1) * EARLY_STACK_BYTES) as u64);
    // SAFETY: this runs once, on the only CPU; the statics are used by nothing else, and by this CPU for a while only.
    unsafe {
        (*EARLY_TABLES.0.get()).install(ends);
        cpu_local::make_detached_set();
        (*EARLY_LOCAL.0.get()).install();
    }
    arch::enable_features();
    arch::memory_functions::choose(arch::under_emulation());
}

/// Reads the firmware's tables.
fn discover_topology(info: &BootInfo) {
    // SAFETY: the loader found the root pointer; nothing has been allocated yet, so nobody writes to the tables.
    let tables = unsafe { firmware::find_tables(info.rsdp) };
    let mut ram = [PhysicalRange::new(0, 0); quarry_loader::MAX_REGIONS];
    let mut count = 0;
    let is_ram = |kind| matches!(kind, RegionKind::Usable | RegionKind::AcpiReclaimable | RegionKind::Boot);
    for region in info.regions().iter().filter(|region| is_ram(region.kind)) {
        ram[count] = PhysicalRange::new(region.range.start, region.range.end);
        count += 1;
    }
    // SAFETY: this runs once, before anybody asks for the topology.
    let topology = unsafe { &mut *TOPOLOGY.0.get() };
    topology.discover(&tables, &ram[..count], Some(arch::apic_id()), &mut |warning| {
        TOPOLOGY_WARNINGS.fetch_add(1, Relaxed);
        log::warn!("{warning}");
    });
}

/// Hands all free memory to the service; returns the page other CPUs start in.
fn start_memory(info: &BootInfo) -> Option<u64> {
    // SAFETY: this runs once, on the only CPU.
    let memory = unsafe { &mut *MEMORY.0.get() };
    memory.fill(info, topology());
    let start_page = memory.take_real_mode_frame();
    // SAFETY: the ranges are free RAM: what the loader says is in use is not among them, its stack was left at once,
    // the tables of the firmware have been read, and the pages taken so far are no longer in the list.
    if let Err(error) = unsafe { memory::start(topology(), memory, info.direct_map_end) } {
        panic!("the memory service cannot start: {error}");
    }
    start_page
}

/// Gives the first CPU what every other will have: an area, stacks and sets on its own node.
fn move_in_first_cpu() {
    let Some(cpu) = topology().cpus().first().copied() else { panic!("a topology has a CPU") };
    match Prepared::new(CpuId(0), cpu) {
        // SAFETY: this is the first CPU, on the boot's stack, with interrupts off.
        Ok(prepared) => unsafe { prepared.install() },
        Err(error) => panic!("the first CPU cannot go on: {error}"),
    }
    apic::enable_on_this_cpu();
}

const _: () = assert!(BOOT_STACK_BYTES.is_multiple_of(PAGE_BYTES as usize), "stacks are whole pages");
