//! Whatever the bytes, the result is valid; whatever the machine, its tables give it back.

use crate::machines::{ALL_SERIES, H8DGU, H8DGU_RAM, PROLIANT, PROLIANT_RAM, X10DAI, X10DAI_RAM};
use crate::oracle::{Machine as AnyMachine, check};
use crate::support::{discover, discover_from};
use crate::tables::{ENABLED, HOT_PLUGGABLE, NON_VOLATILE, TableWriter, madt, seal, slit, srat};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use quarry_topology::{Tables, Topology};

/// A memory map with the odd unsorted, empty or overlapping range.
fn any_ram() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let edge = prop_oneof![0..1_u64 << 40, (0..1_u64 << 28).prop_map(|page| page << 12), Just(u64::MAX)];
    vec((edge.clone(), edge), 0..20)
}

/// Random bytes, with or without the header of the table they pretend to be.
fn any_table(signature: [u8; 4]) -> impl Strategy<Value = Vec<u8>> {
    (vec(any::<u8>(), 0..400), 0..4_u8, any::<bool>()).prop_map(move |(mut bytes, revision, with_header)| {
        if with_header && bytes.len() >= 36 {
            bytes[..4].copy_from_slice(&signature);
            let length = bytes.len() as u32;
            bytes[4..8].copy_from_slice(&length.to_le_bytes());
            bytes[8] = revision;
            seal(&mut bytes);
        }
        bytes
    })
}

/// Bytes of a table changed here and there; mostly with a checksum that is right all the same.
fn mutated(table: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<Index>(), prop_oneof![any::<u8>(), select(vec![0, 1, 2, 8, 16, 40, 255])]);
    (vec(edit, 0..12), prop::option::weighted(0.1, any::<Index>()), 0..10).prop_map(move |(edits, cut, dice)| {
        let mut bytes = table.to_vec();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if dice > 0 {
            bytes[..4].copy_from_slice(&table[..4]);
            bytes[4..8].copy_from_slice(&table[4..8]);
            seal(&mut bytes);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    })
}

fn mutated_machine() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, Vec<u8>)> {
    let machines = [X10DAI, H8DGU, ALL_SERIES, Tables { slit: X10DAI.slit, ..PROLIANT }];
    let tables = machines.map(|tables| {
        let table = |table: Option<&'static [u8]>| mutated(table.expect("each has these three"));
        (table(tables.madt), table(tables.srat), table(tables.slit)).boxed()
    });
    proptest::strategy::Union::new(tables)
}

proptest! {
    #[test]
    fn random_bytes_give_a_valid_topology(
        madt in any_table(*b"APIC"),
        srat in any_table(*b"SRAT"),
        slit in any_table(*b"SLIT"),
        hmat in any_table(*b"HMAT"),
        ram in any_ram(),
        boot in prop::option::of(0..300_u32),
    ) {
        let tables = Tables { madt: Some(&madt), srat: Some(&srat), slit: Some(&slit), hmat: Some(&hmat) };
        check(&AnyMachine::new(&tables, &ram, boot));
    }

    #[test]
    fn mutated_real_tables_give_a_valid_topology(
        (madt, srat, slit) in mutated_machine(),
        ram in prop_oneof![Just(X10DAI_RAM.to_vec()), Just(PROLIANT_RAM.to_vec()), any_ram()],
        boot in prop::option::of(0..64_u32),
    ) {
        let tables = Tables { madt: Some(&madt), srat: Some(&srat), slit: Some(&slit), hmat: None };
        check(&AnyMachine::new(&tables, &ram, boot));
    }

    /// One damaged length byte, whatever its new value, changes nothing.
    #[test]
    fn a_damaged_length_loses_nothing(in_madt: bool, entry: Index, length: u8) {
        let mut tables = [H8DGU.madt.expect("it has one").to_vec(), H8DGU.srat.expect("it has one").to_vec()];
        let table = &mut tables[usize::from(!in_madt)];
        let mut offsets = vec![if in_madt { 44 } else { 48 }];
        while let Some(next) = offsets.last().map(|last| last + usize::from(table[last + 1])).filter(|next| *next < table.len()) {
            offsets.push(next);
        }
        table[entry.get(&offsets) + 1] = length;
        seal(table);
        let [madt, srat] = &tables;
        let found = discover_from(&Tables { madt: Some(madt), srat: Some(srat), ..H8DGU }, H8DGU_RAM, Some(16));
        let sound = discover_from(&H8DGU, H8DGU_RAM, Some(16));
        prop_assert_eq!(format!("{:#}", found.topology), format!("{:#}", sound.topology));
        prop_assert!(found.warnings.len() <= 1, "{:#?}", found.sentences());
    }
}

/// A machine as firmware would describe it truthfully.
#[derive(Clone, Debug)]
struct Machine {
    /// Ascending, with gaps.
    domains: Vec<u32>,
    /// APIC id and node, in the order of the MADT; the first boots.
    cpus: Vec<(u32, u8)>,
    /// Start, end, node and SRAT flags; neighbours that touch differ in node or flags.
    memory: Vec<(u64, u64, u8, u32)>,
    /// From each node to each.
    distances: Vec<Vec<u8>>,
    /// Shuffles the SRAT's entries.
    order: Vec<Index>,
    /// Before each entry of MADT and SRAT, perhaps one that means nothing.
    padding: Vec<u8>,
}

impl Machine {
    fn any() -> impl Strategy<Value = Self> {
        let domains = prop_oneof![btree_set(0..12_u32, 1..8), btree_set(0..200_u32, 1..40)];
        domains.prop_map(|domains| domains.into_iter().collect::<Vec<u32>>()).prop_flat_map(|domains| {
            let count = domains.len();
            let node = 0..count as u8;
            let cpus = btree_set(prop_oneof![0..255_u32, 255..100_000_u32], count..count + 20)
                .prop_flat_map(|ids| Just(ids.into_iter().collect::<Vec<u32>>()).prop_shuffle())
                .prop_flat_map(move |ids| {
                    let nodes = vec(node.clone(), ids.len());
                    (Just(ids), nodes)
                });
            let flags = select(vec![ENABLED, ENABLED, ENABLED | HOT_PLUGGABLE, ENABLED | NON_VOLATILE]);
            // Gap before it in pages (often none), pages, node, flags.
            let memory = vec((prop_oneof![Just(0_u64), 1..1000_u64], 1..100_000_u64, 0..count as u8, flags), 1..30);
            let distances = vec(vec(10..=255_u8, count), count);
            (Just(domains), cpus, memory, distances, vec(any::<Index>(), 64), vec(0..8_u8, 64)).prop_map(
                |(domains, (ids, nodes), memory, distances, order, padding)| {
                    Self::from_parts(domains, &ids, &nodes, &memory, distances, order, padding)
                },
            )
        })
    }

    fn from_parts(
        domains: Vec<u32>,
        ids: &[u32],
        nodes: &[u8],
        pieces: &[(u64, u64, u8, u32)],
        mut distances: Vec<Vec<u8>>,
        order: Vec<Index>,
        padding: Vec<u8>,
    ) -> Self {
        let mut memory: Vec<(u64, u64, u8, u32)> = Vec::new();
        for (gap, pages, node, flags) in pieces {
            let start = memory.last().map_or(0, |last| last.1) + (gap << 12);
            let end = start + (pages << 12);
            match memory.last_mut() {
                Some(last) if (last.1, last.2, last.3) == (start, *node, *flags) => last.1 = end,
                _ => memory.push((start, end, *node, *flags)),
            }
        }
        // Every node gets a CPU, so that each is one.
        let cpus = ids.iter().zip(nodes).enumerate();
        let cpus = cpus.map(|(index, (id, node))| (*id, if index < domains.len() { index as u8 } else { *node }));
        let cpus = cpus.collect();
        for (node, row) in distances.iter_mut().enumerate() {
            row[node] = 10;
        }
        Self { domains, cpus, memory, distances, order, padding }
    }

    fn madt(&self) -> Vec<u8> {
        let pad = |table: TableWriter, index: usize| match self.padding[index % 64] {
            0 => table.local_apic(255, 0),
            1 => table.x2apic(0xdead, 2),
            2 => table.raw(&[4, 6, 0, 0, 0, 1]),
            3 => table.raw(&[0x42, 3, 9]),
            _ => table,
        };
        let add = |table, (index, (id, _)): (usize, &(u32, u8))| {
            let table: TableWriter = pad(table, index);
            if *id < 255 { table.local_apic(*id as u8, ENABLED) } else { table.x2apic(*id, ENABLED) }
        };
        self.cpus.iter().enumerate().fold(madt(), add).done()
    }

    fn srat(&self) -> Vec<u8> {
        let mut entries: Vec<Box<dyn Fn(TableWriter) -> TableWriter + '_>> = Vec::new();
        for (id, node) in &self.cpus {
            entries.push(Box::new(move |table| table.cpu(self.domains[usize::from(*node)], *id)));
        }
        for (start, end, node, flags) in &self.memory {
            let domain = self.domains[usize::from(*node)];
            entries.push(Box::new(move |table| table.memory_flags(domain, *start, end - start, *flags)));
        }
        for index in (1..entries.len()).rev() {
            if let Some(order) = self.order.get(index % 64) {
                entries.swap(index, order.index(index + 1));
            }
        }
        let pad = |table: TableWriter, index: usize| match self.padding[index % 64] {
            0 => table.processor(200, 255, 0),
            1 => table.memory_flags(201, 0, 0, 0),
            2 => table.generic_initiator(202),
            3 => table.raw(&[0x42, 3, 9]),
            _ => table,
        };
        entries.iter().enumerate().fold(srat(), |table, (index, entry)| entry(pad(table, index))).done()
    }

    fn slit(&self) -> Vec<u8> {
        let localities = self.domains.last().map_or(0, |last| *last as usize + 1);
        let mut matrix = vec![0; localities * localities];
        for (from, row) in self.domains.iter().zip(&self.distances) {
            for (to, distance) in self.domains.iter().zip(row) {
                matrix[*from as usize * localities + *to as usize] = *distance;
            }
        }
        slit(localities as u64, &matrix)
    }

    fn ram(&self) -> Vec<(u64, u64)> {
        self.memory.iter().map(|(start, end, ..)| (*start, *end)).collect()
    }
}

proptest! {
    #[test]
    fn the_tables_of_a_machine_give_it_back(machine in Machine::any()) {
        let (madt, srat, slit) = (machine.madt(), machine.srat(), machine.slit());
        let tables = Tables { madt: Some(&madt), srat: Some(&srat), slit: Some(&slit), hmat: None };
        let found = discover(&tables, &machine.ram());
        prop_assert_eq!(found.domains(), machine.domains.clone());
        prop_assert_eq!(found.apic_ids(), machine.cpus.iter().map(|cpu| cpu.0).collect::<Vec<_>>());
        prop_assert_eq!(found.cpu_nodes(), machine.cpus.iter().map(|cpu| cpu.1).collect::<Vec<_>>());
        let flags = |memory: &quarry_topology::MemoryRange| {
            ENABLED + if memory.hot_pluggable { HOT_PLUGGABLE } else { 0 } + if memory.non_volatile { NON_VOLATILE } else { 0 }
        };
        let memory: Vec<_> = found.topology.memory().iter()
            .map(|memory| (memory.range.start, memory.range.end, memory.node.0, flags(memory))).collect();
        prop_assert_eq!(memory, machine.memory.clone());
        prop_assert_eq!(found.distances(), machine.distances.clone());
        // The only thing to say about the truth is that it is not symmetric.
        let about_symmetry = |warning: &quarry_topology::Warning| {
            let sentence = warning.to_string();
            sentence.contains("the other way") || sentence.contains("asymmetric distance")
        };
        prop_assert!(found.warnings.iter().all(about_symmetry), "{:#?}", found.sentences());
    }

    #[test]
    fn nodes_from_tables_and_from_a_builder_are_the_same(
        nodes in vec((1..1000_u64, 1..8_usize), 1..12),
        distance in 11..255_u8,
    ) {
        let mut builder = Topology::builder();
        for (pages, cpus) in &nodes {
            builder = builder.node(pages << 12, *cpus);
        }
        let distances = (0..nodes.len()).map(|from| {
            (0..nodes.len()).map(|to| if from == to { 10 } else { distance }).collect::<Vec<u8>>()
        });
        for (from, to) in (0..nodes.len() as u8).flat_map(|from| (0..from).map(move |to| (from, to))) {
            builder = builder.distance(quarry_topology::NodeId(from), quarry_topology::NodeId(to), distance);
        }
        let built = builder.build().expect("sound");
        let machine = Machine {
            domains: (0..nodes.len() as u32).collect(),
            cpus: built.cpus().iter().map(|cpu| (cpu.apic_id, cpu.node.0)).collect(),
            memory: built.memory().iter().map(|memory| (memory.range.start, memory.range.end, memory.node.0, ENABLED)).collect(),
            distances: distances.collect(),
            order: Vec::new(),
            padding: vec![9; 64],
        };
        let (madt, srat, slit) = (machine.madt(), machine.srat(), machine.slit());
        let tables = Tables { madt: Some(&madt), srat: Some(&srat), slit: Some(&slit), hmat: None };
        let found = discover(&tables, &machine.ram());
        prop_assert_eq!(built.to_string(), found.topology.to_string());
    }
}
