//! [`Malloctypes`]: what was handed out of each malloc type, as FreeBSD's `vmstat -m`.

use core::fmt;

use super::Report;
use crate::machine::Machine;
use crate::malloc_type::{MallocType, MallocTypeUse};
use crate::service::Service;

/// `vmstat -m`: a line for each type that has been used, in the order of first use.
pub struct Malloctypes<'s, M: Machine>(pub &'s Service<M>);

impl<M: Machine> Report for Malloctypes<'_, M> {
    fn name(&self) -> &'static str {
        "malloctypes"
    }

    fn for_each_value(&self, each: &mut dyn FnMut(&dyn fmt::Display, &dyn fmt::Display, u64)) {
        for (kind, numbers) in self.0.malloc_types() {
            for (name, value) in
                [("InUse", numbers.in_use), ("MemUse", kib(numbers.bytes)), ("Requests", numbers.requests)]
            {
                each(kind, &name, value);
            }
        }
    }
}

impl<M: Machine> fmt::Display for Malloctypes<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>13} {:>5} {:>6} {:>7} {:>8}  Size(s)", "Type", "InUse", "MemUse", "HighUse", "Requests")?;
        self.0.malloc_types().try_for_each(|(kind, numbers)| line(f, kind, &numbers))
    }
}

fn line(f: &mut fmt::Formatter<'_>, kind: &MallocType, numbers: &MallocTypeUse) -> fmt::Result {
    let MallocTypeUse { in_use, bytes, requests, sizes } = *numbers;
    write!(f, "{kind:>13} {in_use:>5} {:>5}K {:>7} {requests:>8}  ", kib(bytes), "-")?;
    let mut separator = "";
    for bit in (0..u64::BITS).filter(|bit| sizes >> bit & 1 != 0) {
        write!(f, "{separator}{}", 1u64 << bit)?;
        separator = ",";
    }
    writeln!(f)
}

/// KiB, rounded up.
const fn kib(bytes: u64) -> u64 {
    bytes.div_ceil(1024)
}
