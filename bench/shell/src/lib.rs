//! The guest's prompt without the guest: what turns the bytes of a serial line into commands.
//!
//! Used by the bench image (`mode=shell`), which reads bytes, writes the echo, and does what the commands say. Here is
//! no input or output, no clock and no allocation, so the tests of an ordinary process see all of it.
//!
//! ```text
//! command     a line as a Command; the list of commands, for help and completion
//! editor      a terminal's bytes, as lines: cursor, history, completion
//! script      a pipe's bytes, as lines
//! keys        a terminal's bytes, as keys
//! ```

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate alloc;

mod command;
mod editor;
mod keys;
mod script;

pub use command::{Bench, COMMANDS, Command, CommandError, Description, Fault, Injector, Report, Vocabulary, parse};
pub use editor::{Complete, Echo, Editor};
pub use script::Script;

/// Most characters of a line.
pub const LONGEST_LINE: usize = 255;

/// A line without its end. ASCII where it comes from an [`Editor`].
pub type Line = heapless::String<LONGEST_LINE>;

/// What the bytes so far came to.
#[allow(clippy::large_enum_variant, reason = "a box needs memory, and nobody keeps many of these")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A line to follow.
    Line(Line),
    /// A line that must not be followed: it is longer than [`LONGEST_LINE`], or no text.
    Unreadable,
    /// A line that was given up.
    GivenUp,
    /// There will be no more.
    Closed,
}
