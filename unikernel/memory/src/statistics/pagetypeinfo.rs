//! [`Pagetypeinfo`]: free blocks and pageblocks of every zone by mobility, as `/proc/pagetypeinfo`.

use core::fmt;

use quarry_topology::NodeId;

use super::Report;
use crate::frame::Order;
use crate::machine::Machine;
use crate::mobility::{Mobility, PAGEBLOCK_ORDER, PageTypeInfo};
use crate::service::Service;

/// `/proc/pagetypeinfo`: for each node how many free blocks of each order, and how many pageblocks, there are of each
/// mobility. Looks at every pageblock.
pub struct Pagetypeinfo<'s, M: Machine>(pub &'s Service<M>);

impl<M: Machine> Report for Pagetypeinfo<'_, M> {
    fn name(&self) -> &'static str {
        "pagetypeinfo"
    }

    fn for_each_value(&self, each: &mut dyn FnMut(&dyn fmt::Display, &dyn fmt::Display, u64)) {
        for zone in self.0.page_type_info() {
            let title = format_args!("Node {}, zone {}", zone.node.0, zone.kind);
            for (mobility, blocks) in Mobility::ALL.into_iter().zip(zone.free_blocks) {
                for (order, blocks) in blocks.into_iter().enumerate() {
                    each(&format_args!("{title}, type {}", mobility.name()), &order, blocks.into());
                }
            }
            for (mobility, pageblocks) in Mobility::ALL.into_iter().zip(zone.pageblocks) {
                each(&title, &mobility.name(), pageblocks.into());
            }
        }
    }
}

impl<M: Machine> fmt::Display for Pagetypeinfo<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_node = |node| self.0.page_type_info().filter(move |zone| zone.node == node);
        self.0.nodes().with_memory().try_for_each(|(node, _)| section(f, || of_node(node)))
    }
}

/// What there is of one node: its zones' free blocks, then its zones' pageblocks.
fn section<Z: Iterator<Item = PageTypeInfo>>(f: &mut impl fmt::Write, zones: impl Fn() -> Z) -> fmt::Result {
    writeln!(f, "Page block order: {}\nPages per block:  {}\n", PAGEBLOCK_ORDER.get(), PAGEBLOCK_ORDER.frames())?;
    write!(f, "{:43} ", "Free pages count per migrate type at order")?;
    Order::all().try_for_each(|order| write!(f, "{:>6} ", order.get()))?;
    writeln!(f)?;
    for PageTypeInfo { node: NodeId(node), kind, free_blocks, .. } in zones() {
        for (mobility, blocks) in Mobility::ALL.into_iter().zip(free_blocks) {
            write!(f, "Node {node:>4}, zone {kind:>8}, type {:>12} ", mobility.name())?;
            blocks.iter().try_for_each(|blocks| write!(f, "{blocks:>6} "))?;
            writeln!(f)?;
        }
    }
    write!(f, "\n{:23}", "Number of blocks type ")?;
    Mobility::ALL.iter().try_for_each(|mobility| write!(f, "{:>12} ", mobility.name()))?;
    writeln!(f)?;
    for PageTypeInfo { node: NodeId(node), kind, pageblocks, .. } in zones() {
        write!(f, "Node {node}, zone {kind:>8} ")?;
        pageblocks.iter().try_for_each(|pageblocks| write!(f, "{pageblocks:>12} "))?;
        writeln!(f)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::string::String;

    use super::*;
    use crate::zone::ZoneKind;

    #[test]
    fn a_node_s_lines_are_linux_s_to_the_byte() {
        let zone = PageTypeInfo {
            node: NodeId(12),
            kind: ZoneKind::Dma32,
            free_blocks: [[0; Order::COUNT], [2, 2, 4, 2, 5, 4, 3, 3, 4, 2, 752], [1; Order::COUNT]],
            pageblocks: [0, 1528, 7],
        };
        let mut text = String::new();
        section(&mut text, || [zone].into_iter()).expect("a string takes all");
        let expected = [
            "Page block order: 9",
            "Pages per block:  512",
            "",
            "Free pages count per migrate type at order       0      1      2      3      4      5      6      7      8      9     10 ",
            "Node   12, zone    DMA32, type    Unmovable      0      0      0      0      0      0      0      0      0      0      0 ",
            "Node   12, zone    DMA32, type      Movable      2      2      4      2      5      4      3      3      4      2    752 ",
            "Node   12, zone    DMA32, type  Reclaimable      1      1      1      1      1      1      1      1      1      1      1 ",
            "",
            "Number of blocks type     Unmovable      Movable  Reclaimable ",
            "Node 12, zone    DMA32            0         1528            7 ",
            "",
        ];
        assert_eq!(text, expected.join("\n"));
    }
}
