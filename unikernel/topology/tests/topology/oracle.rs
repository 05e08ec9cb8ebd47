//! What holds of every discovery, whatever the bytes: [`check`]. Used by the property tests, by the bounded fuzz run
//! (`fuzz.rs`) and by the fuzz target (`fuzz/fuzz_targets/discover.rs`), which includes this file by its path.
//!
//! It knows nothing of how discovery works. What it expects of CPUs it reads from the MADT with a walk of its own that
//! gives up at the first oddity; what it expects of memory is the union of the memory map.

use quarry_topology::{
    FULL_REPORTS, MAX_CPUS, MAX_RANGES, NodeId, NodeSource, PhysicalRange, Problem, Source, Tables, Topology, Warning,
};
use std::collections::{HashMap, HashSet};

/// All that discovery is given, as owned bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// MADT, SRAT, SLIT, HMAT.
    pub(crate) tables: [Option<Vec<u8>>; 4],
    pub(crate) ram: Vec<PhysicalRange>,
    pub(crate) boot_apic_id: Option<u32>,
}

const SIGNATURES: [[u8; 4]; 4] = [*b"APIC", *b"SRAT", *b"SLIT", *b"HMAT"];

/// Bits of the first byte of [`Machine::to_bytes`] above those that say which tables there are.
const BOOT_CPU_KNOWN: u8 = 1 << 4;
const REPAIR: u8 = 1 << 5;

impl Machine {
    pub(crate) fn new(tables: &Tables<'_>, ram: &[(u64, u64)], boot_apic_id: Option<u32>) -> Self {
        let tables = [tables.madt, tables.srat, tables.slit, tables.hmat].map(|table| table.map(<[u8]>::to_vec));
        let ram = ram.iter().map(|(start, end)| PhysicalRange::new(*start, *end)).collect();
        Self { tables, ram, boot_apic_id }
    }

    /// Reads what [`Self::to_bytes`] writes, and any other bytes as far as they go. If they ask for it, tables come out
    /// with header and checksum put right, for a fuzzer does not guess checksums.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let mut left = bytes;
        let flags = take(&mut left, 1).first().copied().unwrap_or(0);
        let boot_apic_id = number(take(&mut left, 4)) as u32;
        let ranges = number(take(&mut left, 1));
        let lengths: [usize; 4] = std::array::from_fn(|_| number(take(&mut left, 2)) as usize);
        let mut range = || PhysicalRange::new(number(take(&mut left, 8)), number(take(&mut left, 8)));
        let ram = (0..ranges).map(|_| range()).filter(|range| !range.is_empty()).collect();
        let mut tables = lengths.map(|length| take(&mut left, length).to_vec()).map(Some);
        for (index, table) in tables.iter_mut().enumerate() {
            *table = table.take().filter(|_| flags & (1 << index) != 0);
        }
        let mut machine = Self { tables, ram, boot_apic_id: (flags & BOOT_CPU_KNOWN != 0).then_some(boot_apic_id) };
        if flags & REPAIR != 0 {
            machine.repair();
        }
        machine
    }

    /// A corpus entry, from which [`Self::from_bytes`] makes the same machine.
    pub(crate) fn to_bytes(&self, repair: bool) -> Vec<u8> {
        let present = |index: usize| u8::from(self.tables[index].is_some()) << index;
        let known = self.boot_apic_id.map_or(0, |_| BOOT_CPU_KNOWN);
        let mut bytes = vec![(0..4).map(present).sum::<u8>() | known | if repair { REPAIR } else { 0 }];
        bytes.extend(self.boot_apic_id.unwrap_or(0).to_le_bytes());
        bytes.push(self.ram.len() as u8);
        for table in &self.tables {
            bytes.extend((table.as_ref().map_or(0, Vec::len) as u16).to_le_bytes());
        }
        for range in &self.ram {
            bytes.extend(range.start.to_le_bytes());
            bytes.extend(range.end.to_le_bytes());
        }
        bytes.extend(self.tables.iter().flatten().flatten());
        bytes
    }

    /// Gives every table long enough for a header its signature, its length and a checksum that is right.
    pub(crate) fn repair(&mut self) {
        for (table, signature) in self.tables.iter_mut().zip(SIGNATURES) {
            let Some(table) = table.as_mut().filter(|table| table.len() >= 36) else { continue };
            let length = table.len() as u32;
            table[..4].copy_from_slice(&signature);
            table[4..8].copy_from_slice(&length.to_le_bytes());
            table[9] = 0;
            table[9] = table.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte));
        }
    }

    fn tables(&self) -> Tables<'_> {
        let [madt, srat, slit, hmat] = self.tables.each_ref().map(Option::as_deref);
        Tables { madt, srat, slit, hmat }
    }
}

/// The next bytes, as many as there are up to `count`.
fn take<'b>(left: &mut &'b [u8], count: usize) -> &'b [u8] {
    let (taken, rest) = left.split_at(count.min(left.len()));
    *left = rest;
    taken
}

fn number(little_endian: &[u8]) -> u64 {
    little_endian.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Discovers, and panics unless what comes of it keeps every promise.
#[track_caller]
pub(crate) fn check(machine: &Machine) -> (Box<Topology>, Vec<Warning>) {
    let mut topology = Box::new(Topology::empty());
    let mut warnings = Vec::new();
    topology.discover(&machine.tables(), &machine.ram, machine.boot_apic_id, &mut |warning| warnings.push(warning));
    if let Err(invalid) = topology.validate() {
        panic!("{invalid}\n{topology:#}\n{warnings:#?}");
    }
    assert!(!topology.to_string().is_empty() && !format!("{topology:#}").is_empty(), "it can be printed");
    check_memory(machine, &topology, &warnings);
    check_cpus(machine, &topology, &warnings);
    check_fallbacks(&topology);
    check_warnings(machine, &topology, &warnings);
    (topology, warnings)
}

/// Every byte of RAM is on exactly one node, and no other byte is on any.
fn check_memory(machine: &Machine, topology: &Topology, warnings: &[Warning]) {
    let on_nodes: Vec<PhysicalRange> = topology.memory().iter().map(|memory| memory.range).collect();
    assert!(on_nodes.is_sorted_by(|low, high| low.end <= high.start), "no byte is on two nodes: {on_nodes:?}");
    for memory in topology.memory() {
        for address in [memory.range.start, memory.range.end - 1] {
            assert_eq!(topology.node_of_address(address), Some(memory.node), "node of address {address:#x}");
        }
    }
    if machine.ram.len() <= MAX_RANGES {
        assert_eq!(union(&on_nodes), union(&machine.ram), "RAM is on nodes, all of it and nothing else");
    } else if union(&on_nodes) != union(&machine.ram) {
        let left_out = |warning: &Warning| warning.source == Source::MemoryMap;
        assert!(warnings.iter().any(left_out), "RAM left out is told about");
    }
}

/// Sorted, and joined where they overlap or touch.
fn union(ranges: &[PhysicalRange]) -> Vec<PhysicalRange> {
    let mut sorted: Vec<PhysicalRange> = ranges.iter().copied().filter(|range| !range.is_empty()).collect();
    sorted.sort_unstable();
    let mut union: Vec<PhysicalRange> = Vec::new();
    for range in sorted {
        match union.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => union.push(range),
        }
    }
    union
}

/// No CPU listed in an orderly way is lost, none is made up, and they come in the order promised.
fn check_cpus(machine: &Machine, topology: &Topology, warnings: &[Warning]) {
    let (listed, end) = listed_cpus(machine.tables[0].as_deref());
    let mut expected = Vec::new();
    let mut seen = HashSet::new();
    for id in machine.boot_apic_id.into_iter().chain(listed) {
        if seen.insert(id) && expected.len() < MAX_CPUS {
            expected.push(id);
        }
    }
    let found: Vec<u32> = topology.cpus().iter().map(|cpu| cpu.apic_id).collect();
    if end == End::Whole {
        assert_eq!(found, if expected.is_empty() { vec![0] } else { expected });
    } else {
        assert!(found.starts_with(&expected), "CPUs {expected:?} come first among {found:?}");
        let about_it = |warning: &Warning| warning.source == Source::Madt;
        assert!(end == End::Longer || warnings.iter().any(about_it), "an odd MADT is told about");
    }
}

/// What ended a walk over a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The table's.
    Whole,
    /// An entry longer than it is today: perhaps of a table from the future, perhaps a lie.
    Longer,
    /// An entry that cannot be right.
    Odd,
}

/// APIC ids of the enabled CPUs of a MADT, up to the first oddity.
fn listed_cpus(madt: Option<&[u8]>) -> (Vec<u32>, End) {
    let Some(madt) = madt.filter(|madt| madt.len() >= 44 && madt[..4] == SIGNATURES[0]) else {
        return (Vec::new(), End::Whole);
    };
    let stated = number(&madt[4..8]) as usize;
    if stated < 44 {
        return (Vec::new(), End::Whole);
    }
    let madt = &madt[..madt.len().min(stated)];
    let mut ids = Vec::new();
    let mut offset = 44;
    while offset < madt.len() {
        let &[kind, length, ..] = &madt[offset..] else { return (ids, End::Odd) };
        let specified = match kind {
            0 | 3 => 8,
            1 | 5 | 10 => 12,
            2 => 10,
            4 => 6,
            6 | 8 | 9 => 16,
            7 => 17,
            _ => length.max(2),
        };
        let Some(entry) = madt.get(offset..offset + usize::from(length)).filter(|_| length >= specified) else {
            return (ids, End::Odd);
        };
        if length > specified {
            return (ids, End::Longer);
        }
        match kind {
            0 if entry[4] & 1 != 0 && entry[3] != 0xff => ids.push(entry[3].into()),
            9 if entry[8] & 1 != 0 && entry[4..8] != [0xff; 4] => ids.push(number(&entry[4..8]) as u32),
            _ => {}
        }
        offset += usize::from(specified);
    }
    (ids, End::Whole)
}

/// Every node has every node to fall back to, itself first, then farther and farther ones.
fn check_fallbacks(topology: &Topology) {
    for from in topology.nodes() {
        let order: Vec<NodeId> = topology.nearest(from).collect();
        assert_eq!(order[0], from);
        assert!(order[1..].is_sorted_by_key(|to| topology.distance(from, *to)), "{from}: {order:?}");
        assert_eq!(order.iter().collect::<HashSet<_>>().len(), topology.node_count());
    }
}

/// What is assumed is told, in a sentence, and not over and over.
fn check_warnings(machine: &Machine, topology: &Topology, warnings: &[Warning]) {
    let is_summary = |warning: &&Warning| matches!(warning.problem, Problem::Repeated { .. });
    let mut told: HashMap<_, u32> = HashMap::new();
    for warning in warnings {
        let sentence = warning.to_string();
        let begins = format!("{}", warning.source);
        assert!(sentence.starts_with(&begins) && sentence.contains("; "), "says where, what and then what: {sentence}");
        if !is_summary(&warning) {
            *told.entry((begins, std::mem::discriminant(&warning.problem))).or_default() += 1;
        }
    }
    assert!(told.values().all(|times| *times <= FULL_REPORTS), "{warnings:#?}");
    let summaries: HashSet<String> = warnings.iter().filter(is_summary).map(ToString::to_string).collect();
    assert_eq!(summaries.len(), warnings.iter().filter(is_summary).count(), "each kind has one summary: {warnings:#?}");
    let about = |source: Source| warnings.iter().any(|warning| warning.source == source);
    assert!(
        topology.node_source() == NodeSource::Srat || about(Source::Srat),
        "one node for want of a believable SRAT"
    );
    assert!(machine.tables[0].is_some() || about(Source::Madt), "a missing MADT");
}
