//! The end of a run that went wrong: a panic or a trap that nobody handles.
//!
//! Users: `core` (the panic handler) and the interrupt dispatcher ([`fatal_trap`]). Both lead to one report: what,
//! where, on which CPU and in which thread, registers, backtrace, the state of the memory service, and for the host one
//! last `end` record. Then the exit device ends the run with a code that says so. The report is read by people, its
//! last line by the host.
//!
//! # Theory
//!
//! Any CPU may come here at any time, in any context, holding any lock. So nothing here takes a lock, allocates or
//! waits for another CPU for long.
//!
//! - [`DYING`] names the CPU that reports: the first one to swap its identity in. Others stop where they are.
//! - That CPU stops the others before it writes, so that the console is its own, whoever holds the console's lock.
//! - [`ATTEMPTS`] counts how often that CPU came here. The report itself may fail, for memory may be damaged: the
//!   second time only says so and ends the run, the third time just ends it.
//! - [`REPORT_STACK`] is used by the first attempt alone.

use core::arch::asm;
use core::fmt::{self, Write};
use core::panic::{Location, PanicInfo};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::arch::traps::TrapFrame;
use crate::backtrace::{self, Registers};
use crate::{arch, console, cpu_local, exit, layout, memory, paging, smp, symbols, thread};

/// Identity of the CPU that reports; 0 while all is well. Relaxed: it guards no data, the CPUs that lose only stop.
static DYING: AtomicU64 = AtomicU64::new(0);

/// How often that CPU came here. Used by it alone.
static ATTEMPTS: AtomicU32 = AtomicU32::new(0);

/// Identity of a CPU that has no area yet: only the boot CPU runs then, or one that was just started.
const EARLY: u64 = 1;

/// Characters of the message that the `end` record repeats.
const REASON_LIMIT: usize = 200;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    arch::disable_interrupts();
    let registers = Registers::here();
    die(&Death { what: format_args!("{}", info.message()), place: info.location(), trap: None, registers: &registers })
}

/// Reports an exception that nobody handles, or an interrupt that nobody expects, and ends the run.
pub(crate) fn fatal_trap(frame: &TrapFrame) -> ! {
    arch::disable_interrupts();
    let trap = Trap { frame, fault_address: arch::fault_address() };
    die(&Death { what: format_args!("{trap}"), place: None, trap: Some(frame), registers: &Registers::from(frame) })
}

/// What there is to report.
struct Death<'a> {
    what: fmt::Arguments<'a>,
    /// The place in the source, if it is known.
    place: Option<&'a Location<'a>>,
    /// The interrupted code's registers, if a trap leads here.
    trap: Option<&'a TrapFrame>,
    /// Where the backtrace starts.
    registers: &'a Registers,
}

/// The one way out.
fn die(death: &Death<'_>) -> ! {
    let identity = cpu_local::try_current().map_or(EARLY, |cpu| (&raw const *cpu).addr() as u64);
    if DYING.compare_exchange(0, identity, Relaxed, Relaxed).is_err_and(|winner| winner != identity) {
        arch::stop();
    }
    match ATTEMPTS.fetch_add(1, Relaxed) {
        0 => {
            smp::stop_others();
            // SAFETY: only the first attempt of the first CPU comes here, so the stack is unused. `last_words` takes
            // its argument where the calling convention has it, on a stack aligned for a call, and does not return.
            unsafe {
                asm!(
                    "mov rsp, {end}",
                    "xor ebp, ebp",
                    "call {last_words}",
                    "ud2",
                    end = in(reg) (&raw mut REPORT_STACK).add(1),
                    last_words = sym last_words,
                    in("rdi") death,
                    options(noreturn),
                )
            }
        }
        1 => {
            let _ = Console.write_str("\n*** failed again while reporting the failure\n");
            let _ = write!(Indented { out: &mut Console, at_start: true }, "{}", death.what);
            let _ = match death.place {
                Some(place) => writeln!(Console, ", at {place}"),
                None => Console.write_char('\n'),
            };
            let _ = end_record(&mut Console, death.what);
        }
        _ => {}
    }
    exit::exit_after_panic()
}

/// Where the report is written from: whoever panics may have little stack left, and a build without optimization needs
/// 16 KiB.
static mut REPORT_STACK: [u128; 4096] = [0; 4096];

/// The report in full, and the end.
extern "sysv64" fn last_words(death: &Death<'_>) -> ! {
    // Errors of writing can only come from a Display of the message's, and then the rest matters the more.
    let _ = report(death);
    let _ = end_record(&mut Console, death.what);
    exit::exit_after_panic()
}

/// The console without its lock, as a [`Write`].
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        console::write_unlocked(format_args!("{text}"));
        Ok(())
    }
}

/// Moves a text's lines to the right: none may begin as a record does, whatever the message holds.
struct Indented<'a> {
    out: &'a mut dyn Write,
    /// Whether a line begins with the next character.
    at_start: bool,
}

impl Write for Indented<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for line in text.split_inclusive('\n') {
            if self.at_start {
                self.out.write_str("    ")?;
            }
            self.out.write_str(line)?;
            self.at_start = line.ends_with('\n');
        }
        Ok(())
    }
}

/// What people read.
fn report(death: &Death<'_>) -> fmt::Result {
    let out = &mut Console;
    // Another CPU may have been stopped in the middle of a line.
    write!(out, "\n*** {} on ", if death.trap.is_some() { "fatal trap" } else { "panic" })?;
    match cpu_local::try_current() {
        None => writeln!(out, "a CPU that has no number yet")?,
        Some(cpu) => {
            write!(out, "CPU {} (node {}, APIC id {})", cpu.id.0, cpu.node.0, cpu.apic_id)?;
            if cpu.in_interrupt.get() {
                out.write_str(", in an interrupt handler")?;
            }
            match thread::current_name() {
                Some(name) => writeln!(out, ", thread \"{name}\"")?,
                None => writeln!(out, ", outside threads")?,
            }
        }
    }
    let _ = write!(Indented { out, at_start: true }, "{}", death.what);
    writeln!(out)?;
    if let Some(place) = death.place {
        writeln!(out, "    at {place}")?;
    }
    writeln!(out, "registers\n{}", death.registers)?;
    if let Some(frame) = death.trap {
        let TrapFrame { error, cs, ss, rflags, .. } = frame;
        let (cr2, cr3) = (arch::fault_address(), arch::page_table_root());
        writeln!(
            out,
            " cr2 {cr2:016x}   cr3 {cr3:016x}  rflags {rflags:#x}  cs {cs:#x}  ss {ss:#x}  error {error:#x}"
        )?;
    }
    writeln!(out, "backtrace (addr2line -fie IMAGE ADDRESS... tells lines)")?;
    backtrace::print(death.registers, paging::is_readable, out)?;
    memory::report_for_panic(out)
}

/// The host's last line: an `end` record as `quarry-record` has it, without the memory that a serializer might want.
fn end_record(out: &mut dyn Write, what: fmt::Arguments<'_>) -> fmt::Result {
    out.write_str("\n{\"type\":\"end\",\"status\":\"failed\",\"reason\":\"panic: ")?;
    // If the message breaks off, the record must not.
    let _ = JsonText { out, room: REASON_LIMIT }.write_fmt(what);
    out.write_str("\",\"errors\":1}\n")
}

/// Writes the first characters of a text as the inside of a JSON string (RFC 8259, section 7).
struct JsonText<'a> {
    out: &'a mut dyn Write,
    /// Characters that may still be written.
    room: usize,
}

impl Write for JsonText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars().take(self.room) {
            self.room -= 1;
            match character {
                '"' => self.out.write_str("\\\"")?,
                '\\' => self.out.write_str("\\\\")?,
                '\n' => self.out.write_str("\\n")?,
                '\t' => self.out.write_str("\\t")?,
                '\0'..' ' => write!(self.out, "\\u{:04x}", u32::from(character))?,
                _ => self.out.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// Names of the exceptions (Intel SDM volume 3, table 6-1; AMD APM volume 2, table 8-1).
const EXCEPTIONS: [&str; 32] = [
    "divide error",
    "debug exception",
    "non-maskable interrupt",
    "breakpoint",
    "overflow",
    "bound range exceeded",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor segment overrun",
    "invalid TSS",
    "segment not present",
    "stack-segment fault",
    "general protection fault",
    "page fault",
    "reserved exception 15",
    "x87 floating-point error",
    "alignment check",
    "machine check",
    "SIMD floating-point error",
    "virtualization exception",
    "control protection exception",
    "reserved exception 22",
    "reserved exception 23",
    "reserved exception 24",
    "reserved exception 25",
    "reserved exception 26",
    "reserved exception 27",
    "hypervisor injection exception",
    "VMM communication exception",
    "security exception",
    "reserved exception 31",
];

/// Vector of the page fault.
const PAGE_FAULT: u64 = 14;

/// A trap in a sentence.
struct Trap<'a> {
    frame: &'a TrapFrame,
    /// CR2: what a page fault was about.
    fault_address: u64,
}

impl fmt::Display for Trap<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TrapFrame { vector, error, rip, .. } = *self.frame;
        match EXCEPTIONS.get(vector as usize) {
            Some(name) => out.write_str(name)?,
            None => write!(out, "interrupt {vector}, which nobody expects")?,
        }
        if vector == PAGE_FAULT {
            write!(out, ": {}", PageFault { address: self.fault_address, error })?;
        } else if error != 0 {
            write!(out, ", error code {error:#x}")?;
        }
        write!(out, ", at {rip:#x}")?;
        match symbols::find(rip) {
            Some(symbol) => write!(out, " in {symbol}"),
            None => Ok(()),
        }
    }
}

/// What a page fault's error code and address mean together.
#[derive(Clone, Copy)]
struct PageFault {
    address: u64,
    /// As the CPU pushed it (Intel SDM volume 3, figure 4-12).
    error: u64,
}

impl PageFault {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 1 << 1;
    const RESERVED_BIT: u64 = 1 << 3;
    const FETCH: u64 = 1 << 4;

    fn has(self, bit: u64) -> bool {
        self.error & bit != 0
    }

    /// What was tried.
    fn access(self) -> &'static str {
        if self.has(Self::FETCH) {
            "execution of"
        } else if self.has(Self::WRITE) {
            "write to"
        } else {
            "read of"
        }
    }

    /// Why it could not be done.
    fn cause(self) -> &'static str {
        if self.has(Self::RESERVED_BIT) {
            "the page tables are damaged (a reserved bit is set)"
        } else if self.has(Self::PRESENT) {
            match self.access() {
                "execution of" => "the page is not executable",
                "write to" => "the page is read-only",
                _ => "the page is protected",
            }
        } else if self.address < layout::PAGE_BYTES {
            "a null pointer or a field of one"
        } else if layout::STACK_WINDOW.contains(&self.address) {
            "the guard page of a stack that is used up"
        } else {
            "not mapped"
        }
    }

    /// What lies around the address.
    fn surroundings(self) -> &'static str {
        match self.address {
            address if address < layout::PAGE_BYTES => "the null page",
            address if address < 1 << 47 => "the lower half",
            address if address < layout::DIRECT_MAP_BASE => "the gap that is not canonical",
            address if layout::TAG_WINDOW.contains(&address) => "the tags of pages",
            address if layout::STATE_WINDOW.contains(&address) => "the states of frames",
            address if layout::FRAME_WINDOW.contains(&address) => "the frame table",
            address if layout::MAPPING_WINDOW.contains(&address) => "vmalloc's window",
            address if layout::STACK_WINDOW.contains(&address) => "the window of stacks",
            address if layout::DEVICE_WINDOW.contains(&address) => "the window of devices",
            address if address >= quarry_loader::IMAGE_BASE => "the image",
            address if address < layout::DIRECT_MAP_BASE + quarry_loader::DIRECT_MAP_SIZE => "the direct map",
            _ => "between the windows",
        }
    }
}

impl fmt::Display for PageFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {:#x} in {}: {}", self.access(), self.address, self.surroundings(), self.cause())
    }
}

/// Named by the unwind tables of compiled code. Nothing unwinds here, so nobody calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Where compiled code would go on unwinding after a clean-up; the prebuilt `core` refers to it.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    panic!("something tried to unwind, which images never do")
}
