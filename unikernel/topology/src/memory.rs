//! Memory: what is RAM (boot memory map), and which node each byte of it belongs to (SRAT).

use crate::claims::{Added, Claim, Claims};
use crate::report::Reporter;
use crate::srat::SratMemory;
use crate::{
    AbsentRange, MAX_ABSENT_RANGES, MAX_RANGES, MemoryRange, NODE_ALIGNMENT, NodeId, NodeSource, PhysicalRange,
    Position, Problem, Source, Topology,
};

/// How far an entry may reach above all RAM without a word about it. Firmware keeps the top of RAM for itself (ACPI
/// tables, system management mode) and does not carve that out of the SRAT: `SeaBIOS` 128 KiB, UEFI tens of MiB.
const FIRMWARE_SHARE: u64 = 64 << 20;

/// Takes over the RAM of the memory map: sorted, neighbours that touch joined. [`assign`] then says whose it is.
pub(crate) fn keep_ram(topology: &mut Topology, ram: &[PhysicalRange], reporter: &mut Reporter) {
    for range in ram.iter().copied().filter(|range| !range.is_empty()) {
        let kept = topology.memory();
        let from = kept.partition_point(|kept| kept.range.end < range.start);
        let to = kept.partition_point(|kept| kept.range.start <= range.end);
        if from == to && topology.range_count == MAX_RANGES {
            reporter.whole(Source::MemoryMap, Problem::TooManyRanges { range });
            continue;
        }
        let touching = &kept[from..to];
        let start = touching.first().map_or(range.start, |first| first.range.start.min(range.start));
        let end = touching.last().map_or(range.end, |last| last.range.end.max(range.end));
        topology.ranges.copy_within(to..topology.range_count, from + 1);
        topology.range_count = topology.range_count + 1 + from - to;
        topology.ranges[from] = MemoryRange::new(NodeId(0), PhysicalRange::new(start, end));
    }
}

/// Checks one entry of the SRAT and claims what RAM it covers for its domain; whether there was any to claim.
pub(crate) fn claim(
    topology: &mut Topology,
    claims: &mut Claims,
    memory: &SratMemory,
    position: Position,
    reporter: &mut Reporter,
) -> bool {
    let &SratMemory { proximity_domain, address, bytes, hot_pluggable, non_volatile } = memory;
    let mut tell = |problem| reporter.at(Source::Srat, position, problem);
    if bytes == 0 {
        tell(Problem::EmptyMemory { address });
        return false;
    }
    let Some(end) = address.checked_add(bytes) else {
        tell(Problem::MemoryWraps { address, bytes });
        return false;
    };
    let range = PhysicalRange::new(address, end);
    let may_be_absent = hot_pluggable || non_volatile;
    if !touches_ram(topology, range) {
        if may_be_absent {
            keep_absent(topology, AbsentRange { range, proximity_domain, hot_pluggable, non_volatile });
        } else {
            tell(Problem::MemoryOutside { range });
        }
        return false;
    }
    let ram_end = topology.memory().last().map_or(0, |last| last.range.end);
    if range.end.saturating_sub(ram_end) > FIRMWARE_SHARE && !may_be_absent {
        tell(Problem::MemoryBeyond { range, ram_end });
    }
    let claim = Claim { range, proximity_domain, hot_pluggable, non_volatile };
    let Added { any, taken, left_out } = claims.add(claim, |piece| touches_ram(topology, piece));
    if let Some((taken, kept)) = taken {
        tell(if meets_inside(range, taken) {
            Problem::MemorySharesPage { range, kept }
        } else {
            Problem::MemoryOverlap { range, taken, kept }
        });
    }
    if let Some(range) = left_out {
        tell(Problem::TooManyRanges { range });
    }
    any
}

/// Gives every byte of RAM its node, splitting ranges where claims meet.
pub(crate) fn assign(topology: &mut Topology, claims: &Claims, reporter: &mut Reporter) {
    let mut at = 0;
    while at < topology.range_count {
        let whole = topology.ranges[at].range;
        let mut piece = MemoryRange::new(NodeId(0), whole);
        let stretch = claims.stretch(whole.start);
        if let Some(stretch) = stretch {
            piece.range.end = whole.end.min(stretch.end);
            piece.node = topology.node_or_first(stretch.claim.proximity_domain);
            piece.hot_pluggable = stretch.covered && stretch.claim.hot_pluggable;
            piece.non_volatile = stretch.covered && stretch.claim.non_volatile;
        }
        if let Some((node, page_end)) = page_in_use(topology, at).filter(|(node, _)| *node != piece.node) {
            piece.node = node;
            piece.range.end = piece.range.end.min(page_end);
        }
        if topology.node_source == NodeSource::Srat && !stretch.is_some_and(|stretch| stretch.covered) {
            let assumed = topology.proximity_domain(piece.node);
            reporter.whole(Source::Srat, Problem::MemoryUncovered { range: piece.range, assumed });
        }
        at = place(topology, at, piece, reporter);
    }
}

/// The node of the page the range at `at` begins in, if the range before it ends in the same page, and that page's end.
/// Claims end with pages, so the two agree, unless there was no room to split the range before.
fn page_in_use(topology: &Topology, at: usize) -> Option<(NodeId, u64)> {
    let before = topology.ranges[at.checked_sub(1)?];
    let page_end = before.range.end.checked_next_multiple_of(NODE_ALIGNMENT).unwrap_or(u64::MAX);
    (topology.ranges[at].range.start < page_end).then_some((before.node, page_end))
}

/// Puts `piece` where the range at `at` begins with it, leaving the rest of that to be assigned; returns where to go
/// on.
fn place(topology: &mut Topology, at: usize, mut piece: MemoryRange, reporter: &mut Reporter) -> usize {
    let whole = topology.ranges[at].range;
    let rest = PhysicalRange::new(piece.range.end, whole.end);
    if let Some(before) = at.checked_sub(1) {
        let before = &mut topology.ranges[before];
        let joined = MemoryRange { range: PhysicalRange::new(before.range.start, piece.range.end), ..piece };
        if before.range.end == piece.range.start && *before == (MemoryRange { range: before.range, ..joined }) {
            *before = joined;
            topology.ranges[at].range = rest;
            if rest.is_empty() {
                topology.ranges.copy_within(at + 1..topology.range_count, at);
                topology.range_count -= 1;
            }
            return at;
        }
    }
    if !rest.is_empty() && topology.range_count == MAX_RANGES {
        reporter.whole(Source::Srat, Problem::TooManyRanges { range: rest });
        piece.range = whole;
    } else if !rest.is_empty() {
        topology.ranges.copy_within(at..topology.range_count, at + 1);
        topology.range_count += 1;
        topology.ranges[at + 1].range = rest;
    }
    topology.ranges[at] = piece;
    at + 1
}

/// Whether a byte of `range` is RAM.
fn touches_ram(topology: &Topology, range: PhysicalRange) -> bool {
    let first = topology.memory().partition_point(|ram| ram.range.end <= range.start);
    topology.memory().get(first).is_some_and(|ram| ram.range.overlaps(range))
}

/// Whether `taken` is a page inside which `range` begins or ends, so that the two only share that page.
fn meets_inside(range: PhysicalRange, taken: PhysicalRange) -> bool {
    let inside = |edge: u64| taken.start < edge && edge < taken.end;
    taken.len() == NODE_ALIGNMENT && (inside(range.start) || inside(range.end))
}

fn keep_absent(topology: &mut Topology, absent: AbsentRange) {
    if topology.absent_count == MAX_ABSENT_RANGES {
        return;
    }
    let at = topology.absent_memory().partition_point(|kept| kept.range.start <= absent.range.start);
    topology.absent.copy_within(at..topology.absent_count, at + 1);
    topology.absent[at] = absent;
    topology.absent_count += 1;
}
