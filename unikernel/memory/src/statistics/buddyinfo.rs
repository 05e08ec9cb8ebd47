//! [`Buddyinfo`]: free blocks of each order in every zone, as `/proc/buddyinfo`.

use core::fmt;

use super::{Report, ZoneInfo};
use crate::machine::Machine;
use crate::service::Service;

/// `/proc/buddyinfo`: a line for each zone, a column for each order from 0. What sections hold that were not looked at
/// yet is in no column; `nr_deferred` of [`Zoneinfo`](super::Zoneinfo) counts it.
pub struct Buddyinfo<'s, M: Machine>(pub &'s Service<M>);

impl<M: Machine> Report for Buddyinfo<'_, M> {
    fn name(&self) -> &'static str {
        "buddyinfo"
    }

    fn for_each_value(&self, each: &mut dyn FnMut(&dyn fmt::Display, &dyn fmt::Display, u64)) {
        for zone in self.0.zones() {
            for (order, blocks) in zone.free_blocks.iter().enumerate() {
                each(&zone.title(), &order, u64::from(*blocks));
            }
        }
    }
}

impl<M: Machine> fmt::Display for Buddyinfo<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.zones().try_for_each(|zone| line(f, &zone))
    }
}

fn line(f: &mut impl fmt::Write, zone: &ZoneInfo) -> fmt::Result {
    write!(f, "Node {}, zone {:>8} ", zone.node.0, zone.kind)?;
    zone.free_blocks.iter().try_for_each(|blocks| write!(f, "{blocks:>6} "))?;
    writeln!(f)
}

#[cfg(test)]
mod tests {
    use std::string::String;

    use super::super::zoneinfo::tests::zone;
    use super::*;

    #[test]
    fn a_line_is_linuxs_to_the_byte() {
        let mut text = String::new();
        line(&mut text, &zone()).expect("a string takes all");
        assert_eq!(
            text,
            "Node 1, zone    DMA32      1      0      1      0      0      0      0      1      0      1 123456 \n"
        );
    }
}
