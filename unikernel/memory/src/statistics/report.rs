//! [`Report`]: what all reports have in common.

use core::fmt;

/// The state of the service in one of the formats scripts already read: as text to the byte as Linux (or `numactl`)
/// prints it, and number by number for programs.
///
/// A report looks at the service each time it is asked, takes its locks one at a time and for a few steps, and
/// allocates nothing. Any context but one that may have interrupted a holder of such a lock (NMI, debug).
pub trait Report: fmt::Display {
    /// The file or command it is named after.
    fn name(&self) -> &'static str;

    /// Calls `each` with every number of the text: of what it is (`Node 0, zone DMA`; empty when of the whole machine),
    /// what it is called there, and the number.
    fn for_each_value(&self, each: &mut dyn FnMut(&dyn fmt::Display, &dyn fmt::Display, u64));
}
