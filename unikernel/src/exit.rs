//! The end of a run: a code the host can tell from a crash.
//!
//! Users: images (through `main`'s result or [`exit`]), and the panic handler. QEMU's `isa-debug-exit` device turns a
//! value v written to port 0xf4 into exit status 2 v + 1; a triple fault with `-no-reboot` exits 0, so 0 is never
//! success.

use crate::{arch, console};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// All went well: QEMU exits with 33.
    Success,
    /// The image found something wrong: QEMU exits with 35.
    Failure,
}

/// Port of QEMU's `isa-debug-exit` device.
const PORT: u16 = 0xf4;

/// Ends the run: everything written to the console comes out first. Where there is no exit device the machine stops
/// with a line that says so.
pub fn exit(code: ExitCode) -> ! {
    leave(match code {
        ExitCode::Success => 0x10,
        ExitCode::Failure => 0x11,
    })
}

/// Ends the run after a panic: QEMU exits with 37.
pub(crate) fn exit_after_panic() -> ! {
    leave(0x12)
}

fn leave(value: u32) -> ! {
    arch::disable_interrupts();
    console::flush();
    // SAFETY: the exit device ends the machine; where there is none nobody listens.
    unsafe { arch::write_port_u32(PORT, value) };
    console::write_unlocked(format_args!(
        "the run is over with code {value:#x}; this machine has no isa-debug-exit device, so it stays halted\n"
    ));
    arch::stop()
}

/// What an image's `main` may return.
pub trait Termination {
    /// The exit code it stands for.
    fn exit_code(self) -> ExitCode;
}

impl Termination for () {
    fn exit_code(self) -> ExitCode {
        ExitCode::Success
    }
}

impl Termination for ExitCode {
    fn exit_code(self) -> ExitCode {
        self
    }
}
