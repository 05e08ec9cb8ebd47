//! Who called whom: exact backtraces from the unwind tables the image carries.
//!
//! Users: the panic report. The compiler keeps no frame pointers, but it describes every function's frame in
//! `.eh_frame`; the linker script keeps that section and its sorted index `.eh_frame_hdr` in the constants segment. The
//! crate `gimli` reads them (DWARF 5, section 6.4; System V ABI for x86-64, section 3.7). Assembly is passed if it has
//! `.cfi` directives; the trail ends where there are none.
//!
//! Nothing here allocates, locks or writes memory, and the stack is read only where it is mapped, so that a damaged
//! stack costs frames of the report, not the report. It needs some 5 KiB of stack, and thrice that without
//! optimization.

use core::arch::asm;
use core::{fmt, ptr, slice};

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, LittleEndian, Register, RegisterRule, UnwindContext,
    UnwindContextStorage, UnwindSection, UnwindTableRow, X86_64,
};

use crate::arch::traps::TrapFrame;
use crate::symbols;

/// Longest backtrace: enough for a reader, and an end for a damaged stack that leads in circles.
const MAX_FRAMES: usize = 32;

/// Registers in the numbering of DWARF: the sixteen general ones and the return address.
const REGISTERS: usize = 17;

type Bytes = EndianSlice<'static, LittleEndian>;

/// Tells whether the eight-byte word at an address can be read without a fault.
pub(crate) type IsReadable = fn(u64) -> bool;

/// The registers of a point of execution, as far as they are known: the call chain is found from them.
#[derive(Clone)]
pub(crate) struct Registers([Option<u64>; REGISTERS]);

impl Registers {
    /// Those of the caller, here and now. What a callee need not preserve is left out.
    #[inline(always)]
    pub(crate) fn here() -> Self {
        let mut values = [0; 8];
        // SAFETY: copies registers into an array of eight words; the address of the next instruction stands for RIP.
        unsafe {
            asm!(
                "lea {scratch}, [rip + 2f]",
                "2:",
                "mov [{to}], rbx",
                "mov [{to} + 8], rbp",
                "mov [{to} + 16], rsp",
                "mov [{to} + 24], r12",
                "mov [{to} + 32], r13",
                "mov [{to} + 40], r14",
                "mov [{to} + 48], r15",
                "mov [{to} + 56], {scratch}",
                scratch = out(reg) _,
                to = in(reg) values.as_mut_ptr(),
                options(nostack, preserves_flags),
            );
        }
        let mut registers = Self([None; REGISTERS]);
        let names =
            [X86_64::RBX, X86_64::RBP, X86_64::RSP, X86_64::R12, X86_64::R13, X86_64::R14, X86_64::R15, X86_64::RA];
        for (name, value) in names.into_iter().zip(values) {
            registers.set(name, Some(value));
        }
        registers
    }

    /// Where execution is.
    fn instruction(&self) -> Option<u64> {
        self.get(X86_64::RA)
    }

    fn get(&self, register: Register) -> Option<u64> {
        self.0.get(usize::from(register.0)).copied().flatten()
    }

    fn set(&mut self, register: Register, value: Option<u64>) {
        // Vector registers play no part in finding frames.
        if let Some(place) = self.0.get_mut(usize::from(register.0)) {
            *place = value;
        }
    }
}

impl From<&TrapFrame> for Registers {
    fn from(frame: &TrapFrame) -> Self {
        // DWARF's order: rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 to r15, return address.
        Self(
            [
                frame.rax, frame.rdx, frame.rcx, frame.rbx, frame.rsi, frame.rdi, frame.rbp, frame.rsp, frame.r8,
                frame.r9, frame.r10, frame.r11, frame.r12, frame.r13, frame.r14, frame.r15, frame.rip,
            ]
            .map(Some),
        )
    }
}

/// The values that are known, by name.
impl fmt::Display for Registers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// How many a line holds.
        const COLUMNS: usize = 4;
        let order = [16, 7, 6, 3, 0, 2, 1, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];
        let known = order.into_iter().filter_map(|number| Some((number, self.0[usize::from(number)]?)));
        for (column, (number, value)) in known.enumerate() {
            let name = if number == 16 { "rip" } else { X86_64::register_name(Register(number)).unwrap_or("?") };
            let separator = match column {
                0 => "",
                _ if column % COLUMNS == 0 => "\n",
                _ => "  ",
            };
            write!(out, "{separator}{name:>4} {value:016x}")?;
        }
        Ok(())
    }
}

/// Writes the call chain from a point of execution outwards, a line a frame, the innermost first: at most
/// [`MAX_FRAMES`]. Where the chain breaks off a line says why.
///
/// May be called in any context; errors are `out`'s own.
pub(crate) fn print(start: &Registers, is_readable: IsReadable, out: &mut dyn fmt::Write) -> fmt::Result {
    let mut context = Context::new_in();
    let mut frame = Frame { registers: start.clone(), returns_here: false };
    for number in 0..MAX_FRAMES {
        let Some(address) = frame.registers.instruction().filter(|address| *address != 0 || number == 0) else {
            return Ok(());
        };
        if number > 0 && !frame.returns_here {
            writeln!(out, "     (interrupted)")?;
        }
        match symbols::find(frame.lookup_address(address)) {
            // The offset is that of the return address itself, as debuggers have it.
            Some(symbol) => {
                let offset = symbol.offset + (address - frame.lookup_address(address));
                writeln!(out, "  {number:>2} {address:#018x} {}", symbols::Symbol { offset, ..symbol })?;
            }
            None => writeln!(out, "  {number:>2} {address:#018x} ?")?,
        }
        let caller = match frame.caller(address, &mut context, is_readable) {
            // A call through a wild pointer: nothing is known of the place, but its return address was just pushed.
            Err(_) if number == 0 && !in_text(address) => frame.assume_just_called(is_readable),
            result => result,
        };
        frame = match caller {
            Ok(caller) => caller,
            Err(reason) => return writeln!(out, "     ({reason})"),
        };
    }
    writeln!(out, "     (and more)")
}

/// Why a frame's caller cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// The unwind tables have nothing on the address.
    NoTable,
    /// They say what compiled code has no need to say.
    Unusual,
    /// A register that they refer to is not known.
    UnknownRegister,
    /// The stack is not mapped at this address.
    Unreadable(u64),
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTable => out.write_str("the image has no unwind information for this address"),
            Self::Unusual => out.write_str("this address's unwind information is of an unexpected kind"),
            Self::UnknownRegister => out.write_str("this frame's size depends on a register that is not known"),
            Self::Unreadable(address) => write!(out, "the stack cannot be read at {address:#x}"),
        }
    }
}

/// Room for the rules of one function, in place: compiled code has rules for the callee-saved registers, and the
/// interrupt entry for all.
struct InPlace;

impl UnwindContextStorage<usize> for InPlace {
    type Rules = [(Register, RegisterRule<usize>); REGISTERS];
    type Stack = [UnwindTableRow<usize, Self>; 3];
}

type Context = UnwindContext<usize, InPlace>;

/// One activation of a function.
struct Frame {
    registers: Registers,
    /// Whether a call in progress returns to the instruction, so that the call stands before it; otherwise the
    /// instruction itself was interrupted.
    returns_here: bool,
}

impl Frame {
    /// An address inside the instruction that is in progress. A call that never returns may be the last instruction of
    /// its function, and then the return address is another function's.
    fn lookup_address(&self, address: u64) -> u64 {
        address - u64::from(self.returns_here && address != 0)
    }

    fn caller(&self, address: u64, context: &mut Context, is_readable: IsReadable) -> Result<Self, Broken> {
        let lookup = self.lookup_address(address);
        let (frames, index, bases) = unwind_tables();
        let index = index.parse(&bases, 8).map_err(|_| Broken::NoTable)?;
        let description = index
            .table()
            .ok_or(Broken::NoTable)?
            .fde_for_address(&frames, &bases, lookup, EhFrame::cie_from_offset)
            .map_err(|_| Broken::NoTable)?;
        let row = description.unwind_info_for_address(&frames, &bases, context, lookup).map_err(|_| Broken::Unusual)?;
        let registers = self.registers.unwound(row, is_readable)?;
        // An interrupt's entry goes back to the interrupted instruction, not behind a call.
        Ok(Self { registers, returns_here: !description.is_signal_trampoline() })
    }

    /// The caller, if not a single instruction was executed since the call.
    fn assume_just_called(&self, is_readable: IsReadable) -> Result<Self, Broken> {
        let stack = self.registers.get(X86_64::RSP).ok_or(Broken::UnknownRegister)?;
        let mut registers = self.registers.clone();
        registers.set(X86_64::RA, Some(read(stack, is_readable)?));
        registers.set(X86_64::RSP, Some(stack.wrapping_add(8)));
        Ok(Self { registers, returns_here: true })
    }
}

impl Registers {
    /// The caller's registers, by a function's rules. A register without a rule is as it was.
    fn unwound(&self, row: &UnwindTableRow<usize, InPlace>, is_readable: IsReadable) -> Result<Self, Broken> {
        let CfaRule::RegisterAndOffset { register, offset } = row.cfa() else { return Err(Broken::Unusual) };
        let frame_address = self.get(*register).ok_or(Broken::UnknownRegister)?.wrapping_add_signed(*offset);
        let mut caller = self.clone();
        // What a call may destroy is not known; the interrupt entry's rules, which come after this, bring it back.
        let destroyed = [X86_64::RAX, X86_64::RDX, X86_64::RCX, X86_64::RSI, X86_64::RDI];
        for register in destroyed.into_iter().chain([X86_64::R8, X86_64::R9, X86_64::R10, X86_64::R11]) {
            caller.set(register, None);
        }
        caller.set(X86_64::RSP, Some(frame_address));
        // The outermost function says that its return address is undefined, or has no rule for it.
        caller.set(X86_64::RA, None);
        for (register, rule) in row.registers() {
            let value = match rule {
                RegisterRule::Undefined => None,
                RegisterRule::SameValue => self.get(*register),
                RegisterRule::Offset(offset) => Some(read(frame_address.wrapping_add_signed(*offset), is_readable)?),
                RegisterRule::ValOffset(offset) => Some(frame_address.wrapping_add_signed(*offset)),
                RegisterRule::Register(other) => self.get(*other),
                _ => return Err(Broken::Unusual),
            };
            caller.set(*register, value);
        }
        Ok(caller)
    }
}

/// A word of the stack.
fn read(address: u64, is_readable: IsReadable) -> Result<u64, Broken> {
    // An address that is not canonical faults, though its lower bits have a translation.
    let canonical = (address as i64) << 16 >> 16 == address as i64;
    if !address.is_multiple_of(8) || !canonical || !is_readable(address) {
        return Err(Broken::Unreadable(address));
    }
    let word = ptr::with_exposed_provenance::<u64>(address as usize);
    // SAFETY: the word is aligned, so it lies in one page, and that is mapped. Volatile, for whoever owns the stack may
    // be another CPU's thread that was stopped anywhere.
    Ok(unsafe { word.read_volatile() })
}

// The linker script defines them around what they are named after.
unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __eh_frame_hdr_start: u8;
    static __eh_frame_hdr_end: u8;
    static __eh_frame_start: u8;
    static __eh_frame_end: u8;
}

/// Whether an address is one of code.
pub(crate) fn in_text(address: u64) -> bool {
    ((&raw const __text_start).addr() as u64..(&raw const __text_end).addr() as u64).contains(&address)
}

/// The frame descriptions, their sorted index, and where in memory the two are.
fn unwind_tables() -> (EhFrame<Bytes>, EhFrameHdr<Bytes>, BaseAddresses) {
    let section = |start: *const u8, end: *const u8| {
        // SAFETY: the linker script puts the section's bytes, and nothing else, between the two symbols. They are
        // constants that nothing writes.
        let bytes = unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) };
        (bytes, start.addr() as u64)
    };
    let (frames, frames_address) = section(&raw const __eh_frame_start, &raw const __eh_frame_end);
    let (index, index_address) = section(&raw const __eh_frame_hdr_start, &raw const __eh_frame_hdr_end);
    let bases = BaseAddresses::default().set_eh_frame(frames_address).set_eh_frame_hdr(index_address);
    (EhFrame::new(frames, LittleEndian), EhFrameHdr::new(index, LittleEndian), bases)
}
