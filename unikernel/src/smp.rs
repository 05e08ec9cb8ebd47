//! Starting the other CPUs, and what one CPU asks of all: stop, forget translations.
//!
//! Users: the boot ([`start_others`]), the memory service's host ([`flush_everywhere`], [`drain_everywhere`]), the panic
//! handler ([`stop_others`]). Source: Intel SDM volume 3, chapter "Multiple-processor management".
//!
//! # Theory
//!
//! Starting: all CPUs get INIT, then one after the other is told to start at a page below 1 MiB and handed its stack
//! through [`Mailbox`], in that page. A CPU takes the mailbox only if it holds its own APIC id, and by an atomic
//! exchange, so one that was given up for dead and comes late finds nobody home and halts. What it takes is its stack
//! and the address of its [`Prepared`]; the swap's acquire pairs with the release store of the first CPU.
//!
//! Forgetting translations: a request is a number. The CPU that asks takes the next one, interrupts the others and
//! waits until each has noted a number that is no smaller. Requests of several CPUs overlap freely; whoever waits has
//! interrupts on and so serves the others meanwhile. Draining what CPUs cache of memory works the same way.

use alloc::boxed::Box;
use core::arch::global_asm;
use core::fmt;
use core::mem::{self, MaybeUninit};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use quarry_topology::{Cpu, CpuId, Topology};

use crate::command_line::option;
use crate::cpus::{self, NoMemory, Prepared};
use crate::layout::{PAGE_BYTES, direct};
use crate::memory::{self, service};
use crate::stack::Stack;
use crate::{apic, arch, cpu_local, interrupts, paging, thread, time};
use quarry_memory::{Gfp, Order};

/// The vector that asks a CPU to forget its translations.
const FLUSH_VECTOR: u8 = 0xf2;

/// The vector that asks a CPU to give back what it caches of memory.
const DRAIN_VECTOR: u8 = 0xf3;

/// Bytes of the stack a CPU starts on, which its idle loop keeps.
const START_STACK_BYTES: u64 = 32 << 10;

/// How long a CPU may take to answer its first call, and its second.
const PATIENCE: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];

/// Why a CPU does not run.
enum StartError {
    NoMemory(NoMemory),
    NoAnswer,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory(error) => error.fmt(f),
            Self::NoAnswer => f.write_str("it did not answer"),
        }
    }
}

/// Starts all CPUs of the topology but the first, which runs this. One that does not start is reported and left out.
/// `page` is a free page below 1 MiB for them to start in.
pub(crate) fn start_others(topology: &Topology, page: Option<u64>) {
    interrupts::set_handler(FLUSH_VECTOR, |_| serve_flush()).expect("the vector is this module's own");
    interrupts::set_handler(DRAIN_VECTOR, |_| serve_drain()).expect("the vector is this module's own");
    let others = topology.cpus().get(1..).unwrap_or_default();
    if others.is_empty() {
        return;
    }
    let Some(page) = page else {
        log::error!("no memory below 1 MiB is free: the other {} CPUs cannot start", others.len());
        return;
    };
    let Some(mailbox) = prepare_page(page) else {
        log::error!("no memory below 4 GiB is free: the other {} CPUs cannot start", others.len());
        return;
    };
    for cpu in others {
        apic::send_init(cpu.apic_id);
    }
    // Hardware of this century needs no 10 ms here, and hypervisors need nothing.
    time::spin_for(Duration::from_millis(1));
    let mut failed = 0;
    for (index, cpu) in others.iter().enumerate() {
        let id = CpuId(index as u16 + 1);
        if let Err(error) = start(id, *cpu, page, mailbox) {
            failed += 1;
            log::warn!("{id} (APIC id {:#x}) is left out: {error}", cpu.apic_id);
        }
    }
    log::info!("{} of {} CPUs run", topology.cpus().len() - failed, topology.cpus().len());
}

fn start(id: CpuId, cpu: Cpu, page: u64, mailbox: &Mailbox) -> Result<(), StartError> {
    let prepared = Box::new(Prepared::new(id, cpu).map_err(StartError::NoMemory)?);
    let stack = Stack::new(START_STACK_BYTES, id, cpu.node).ok_or(StartError::NoMemory(NoMemory))?;
    let prepared = Box::into_raw(prepared);
    mailbox.stack.store(stack.end(), Ordering::Relaxed);
    mailbox.argument.store(prepared.expose_provenance() as u64, Ordering::Relaxed);
    // Release: pairs with the exchange in the start page; whoever reads this id reads the stack and argument above.
    mailbox.apic_id.store(u64::from(cpu.apic_id) | MAILBOX_FULL, Ordering::Release);
    // Firmware that lists a CPU which is not there is rare, so tests can ask for one.
    let pretend_dead = option("dead-cpu").and_then(|number| number.parse().ok()) == Some(id.0);
    let came_up = PATIENCE.into_iter().any(|patience| {
        if !pretend_dead {
            apic::send_startup(cpu.apic_id, (page / PAGE_BYTES) as u8);
        }
        let deadline = time::ticks() + time::ticks_in(patience);
        loop {
            if cpus::area(id).is_some() {
                return true;
            }
            if time::ticks() > deadline {
                return false;
            }
            core::hint::spin_loop();
        }
    });
    // Whether it is late or dead: what is in the mailbox is no longer for it. If the exchange fails it has just taken
    // it, and will come up.
    let taken_back = !came_up
        && mailbox
            .apic_id
            .compare_exchange(u64::from(cpu.apic_id) | MAILBOX_FULL, 0, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
    if taken_back {
        // SAFETY: the CPU did not take it and cannot any more, so it is this function's again.
        drop(unsafe { Box::from_raw(prepared) });
        return Err(StartError::NoAnswer);
    }
    while cpus::area(id).is_none() {
        core::hint::spin_loop();
    }
    stack.leak();
    Ok(())
}

/// Set beside the APIC id in a mailbox that is to be taken.
const MAILBOX_FULL: u64 = 1 << 32;

/// What the CPU that is starting is handed. At the end of the start page; the offsets are in the assembly.
#[repr(C)]
struct Mailbox {
    /// Whose it is, and [`MAILBOX_FULL`]; 0 when nobody's.
    apic_id: AtomicU64,
    /// End of its stack.
    stack: AtomicU64,
    /// What [`enter`] gets.
    argument: AtomicU64,
    /// Page tables that map the start page to itself, in 32 bits.
    start_root: AtomicU64,
    /// The kernel's page tables.
    root: AtomicU64,
    /// Where the code outside of the start page goes on.
    entry: AtomicU64,
    /// CR4, EFER and CR0 of the first CPU.
    control: [AtomicU64; 3],
    /// Limit and physical address of `descriptors`, as `lgdt` wants them.
    descriptor_pointer: AtomicU64,
    /// Offset and selector of the code after the switch to long mode, as a far jump wants them.
    long_mode: AtomicU64,
    /// Where the mailbox is in the direct map; in the start page itself nothing can be written.
    mapped_at: AtomicU64,
    /// Null, 64-bit code, data: flat, as long as the CPU has no tables of its own.
    descriptors: [AtomicU64; 3],
}

const MAILBOX_OFFSET: u64 = 0xf00;

unsafe extern "C" {
    static quarry_start_page: u8;
    static quarry_start_page_end: u8;
    static quarry_start_long: u8;
    static quarry_cpu_entry: u8;
}

/// Copies the code other CPUs start with to its page and fills in what is the same for all.
fn prepare_page(page: u64) -> Option<&'static Mailbox> {
    let start = &raw const quarry_start_page;
    let bytes = (&raw const quarry_start_page_end).addr() - start.addr();
    assert!(bytes as u64 <= MAILBOX_OFFSET, "the code leaves room for the mailbox");
    let to = ptr::with_exposed_provenance_mut::<u8>(direct(page) as usize);
    // SAFETY: the page was free RAM in the direct map and is this module's now; the code fits.
    let mailbox = unsafe {
        to.write_bytes(0, PAGE_BYTES as usize);
        to.copy_from_nonoverlapping(start, bytes);
        &*to.add(MAILBOX_OFFSET as usize).cast::<Mailbox>()
    };
    let mut frames = || {
        let frame = service().alloc_pages(Gfp::KERNEL | Gfp::DMA32 | Gfp::ZERO, Order::ZERO)?;
        Some(memory::physical(frame))
    };
    let root = paging::make_start_root(page, &mut frames).ok()?;
    mailbox.start_root.store(root, Ordering::Relaxed);
    mailbox.root.store(arch::page_table_root(), Ordering::Relaxed);
    mailbox.entry.store((&raw const quarry_cpu_entry).addr() as u64, Ordering::Relaxed);
    for (to, value) in mailbox.control.iter().zip(arch::control_registers()) {
        to.store(value, Ordering::Relaxed);
    }
    mailbox.mapped_at.store(ptr::from_ref(mailbox).addr() as u64, Ordering::Relaxed);
    let descriptors = page + MAILBOX_OFFSET + mem::offset_of!(Mailbox, descriptors) as u64;
    mailbox
        .descriptor_pointer
        .store((mem::size_of_val(&mailbox.descriptors) as u64 - 1) | descriptors << 16, Ordering::Relaxed);
    let long_mode = page + ((&raw const quarry_start_long).addr() - start.addr()) as u64;
    mailbox.long_mode.store(long_mode | 8 << 32, Ordering::Relaxed);
    for (to, value) in mailbox.descriptors.iter().zip([0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]) {
        to.store(value, Ordering::Relaxed);
    }
    Some(mailbox)
}

// The start page. A CPU begins in real mode with CS = page / 16 and IP = 0; all its data is reached relative to that.
// It makes the page's flat descriptors its own, switches to long mode with the first CPU's control registers, finds out
// its APIC id, takes the mailbox if that is for it, and leaves the page for `quarry_cpu_entry`.
global_asm!(
    ".balign 16",
    "quarry_start_page:",
    ".code16",
    "cli",
    "cld",
    "mov ax, cs",
    "mov ds, ax",
    // ebx: physical address of this page.
    "movzx ebx, ax",
    "shl ebx, 4",
    "lgdt [{mailbox} + {descriptor_pointer}]",
    "mov eax, dword ptr [{mailbox} + {control}]",
    "mov cr4, eax",
    "mov eax, dword ptr [{mailbox} + {start_root}]",
    "mov cr3, eax",
    "mov ecx, 0xc0000080",
    "mov eax, dword ptr [{mailbox} + {control} + 8]",
    "xor edx, edx",
    "wrmsr",
    "mov eax, dword ptr [{mailbox} + {control} + 16]",
    "mov cr0, eax",
    "jmp fword ptr [{mailbox} + {long_mode}]",
    ".code64",
    "quarry_start_long:",
    "mov eax, 16",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "xor eax, eax",
    "mov fs, eax",
    "mov gs, eax",
    // rbx survives: its upper half is zero since the switch from 32-bit code only if it is made so.
    "mov ebp, ebx",
    // From here on the mailbox is used where it is writable: in the direct map.
    "mov rbp, [rbp + {mailbox} + {mapped_at}]",
    // The APIC id: 32 bits from leaf 0xb if the CPU has that, else 8 bits from leaf 1.
    "xor eax, eax",
    "cpuid",
    "cmp eax, 0xb",
    "jb 17f",
    "mov eax, 0xb",
    "xor ecx, ecx",
    "cpuid",
    "test ebx, ebx",
    "jnz 18f",
    "17:",
    "mov eax, 1",
    "cpuid",
    "shr ebx, 24",
    "mov edx, ebx",
    "18:",
    "mov eax, edx",
    "bts rax, 32",
    // Only the CPU the mailbox is for takes it; an exchange, for the first CPU may take it back.
    "xor ecx, ecx",
    "lock cmpxchg qword ptr [rbp], rcx",
    "jne 19f",
    "mov rsp, [rbp + {stack}]",
    "mov rdi, [rbp + {argument}]",
    "mov rsi, [rbp + {root}]",
    "jmp qword ptr [rbp + {entry}]",
    "19:",
    "cli",
    "hlt",
    "jmp 19b",
    "quarry_start_page_end:",
    // Outside the page: leaves its page tables behind.
    "quarry_cpu_entry:",
    "mov cr3, rsi",
    "xor ebp, ebp",
    "push 0",
    "jmp {enter}",
    mailbox = const MAILBOX_OFFSET,
    stack = const mem::offset_of!(Mailbox, stack),
    argument = const mem::offset_of!(Mailbox, argument),
    start_root = const mem::offset_of!(Mailbox, start_root),
    root = const mem::offset_of!(Mailbox, root),
    entry = const mem::offset_of!(Mailbox, entry),
    control = const mem::offset_of!(Mailbox, control),
    descriptor_pointer = const mem::offset_of!(Mailbox, descriptor_pointer),
    mapped_at = const mem::offset_of!(Mailbox, mapped_at),
    long_mode = const mem::offset_of!(Mailbox, long_mode),
    enter = sym enter,
);

/// Where a CPU arrives, on its own stack, with interrupts off.
unsafe extern "sysv64" fn enter(prepared: *mut Prepared) -> ! {
    // SAFETY: `start` boxed it and put it into the mailbox, which this CPU alone took. The CPU is the one it was made
    // for, for the mailbox had its id, and the stack came with it.
    unsafe { prepared.read().install() };
    // SAFETY: as above; what was in the box was moved out. Only now has this CPU what it needs to free something.
    drop(unsafe { Box::from_raw(prepared.cast::<MaybeUninit<Prepared>>()) });
    apic::enable_on_this_cpu();
    thread::idle()
}

/// The last request to forget translations.
static FLUSH_REQUESTS: AtomicU64 = AtomicU64::new(0);

/// Makes every CPU forget its translations, and returns when all have. Called with interrupts on.
pub(crate) fn flush_everywhere() {
    // SeqCst: the page tables were changed before, and a CPU that reads this number flushes after it.
    let request = FLUSH_REQUESTS.fetch_add(1, Ordering::SeqCst) + 1;
    arch::flush_all_pages();
    let me = cpu_local::current();
    let others = || cpus::areas().filter(|area| area.id != me.id);
    others().for_each(|area| apic::send(area.apic_id, FLUSH_VECTOR));
    for area in others() {
        // Acquire: pairs with the Release in `serve_flush`.
        while area.flushed.load(Ordering::Acquire) < request {
            core::hint::spin_loop();
        }
    }
}

fn serve_flush() {
    let request = FLUSH_REQUESTS.load(Ordering::SeqCst);
    arch::flush_all_pages();
    // Release: pairs with the Acquire in `flush_everywhere`; max, for a nested request may have been served already.
    cpu_local::current().flushed.fetch_max(request, Ordering::Release);
}

/// The last request to drain what CPUs cache of memory.
static DRAIN_REQUESTS: AtomicU64 = AtomicU64::new(0);

/// Has every other CPU give back what its sets of the memory service hold, and this one what its set for handlers does;
/// returns when all have been asked and those that idle are done. Called with interrupts on.
pub(crate) fn drain_everywhere() {
    let request = DRAIN_REQUESTS.fetch_add(1, Ordering::SeqCst) + 1;
    let me = cpu_local::current();
    let others = || cpus::areas().filter(|area| area.id != me.id);
    others().for_each(|area| apic::send(area.apic_id, DRAIN_VECTOR));
    let interrupts = arch::save_and_disable_interrupts();
    // SAFETY: the handlers' set of this CPU is nobody's while its handlers are kept out. Before it has one, what is
    // drained is the set of CPUs without, of which nothing is written.
    unsafe { service().drain_set_of(me.interrupt_set()) };
    arch::restore_interrupts(interrupts);
    for area in others() {
        // Acquire: pairs with the Release in `serve_drain`.
        while area.drained.load(Ordering::Acquire) < request {
            core::hint::spin_loop();
        }
    }
}

/// The handlers' set is this handler's own; the threads' is nobody's while the CPU idles, and else is drained by the
/// thread that uses it, at its next slow path or wait.
fn serve_drain() {
    let request = DRAIN_REQUESTS.load(Ordering::SeqCst);
    let cpu = cpu_local::current();
    cpu.without_new_set(|| {
        service().drain_local();
        if thread::is_idle(cpu) {
            // SAFETY: the CPU runs no thread, and handlers use the other set; interrupts are off in a handler.
            unsafe { service().drain_set_of(cpu.thread_set()) };
        }
    });
    // Release: pairs with the Acquire in `drain_everywhere`; max, for a nested request may have been served already.
    cpu.drained.fetch_max(request, Ordering::Release);
}

static STOPPING: AtomicBool = AtomicBool::new(false);

/// Stops all other CPUs for good, whatever they do. They are given a moment to do so.
pub(crate) fn stop_others() {
    STOPPING.store(true, Ordering::SeqCst);
    if cpus::areas().count() > 1 {
        apic::send_nmi_to_others();
        time::spin_for(Duration::from_millis(10));
    }
}

/// Whether a non-maskable interrupt means: stop.
pub(crate) fn is_stopping() -> bool {
    STOPPING.load(Ordering::SeqCst)
}
