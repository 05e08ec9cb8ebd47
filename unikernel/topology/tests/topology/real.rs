//! Tables of real machines, and of QEMU's (see `tests/tables/README.md`).

use crate::machines::{
    ALL_SERIES, ALL_SERIES_RAM, H8DGU, H8DGU_RAM, PROLIANT, PROLIANT_RAM, QEMU, QEMU_RAM, X10DAI, X10DAI_RAM,
};
use crate::support::{Found, GIB, MIB, discover, discover_from};
use quarry_topology::{NodeId, NodeSource, Problem, Source, Tables};

fn cpus_per_node(found: &Found) -> Vec<usize> {
    found.topology.nodes().map(|node| found.topology.cpus_of(node).count()).collect()
}

fn gib_per_node(found: &Found) -> Vec<u64> {
    // What lies below 4 GiB is a little short of whole GiB.
    found.topology.nodes().map(|node| (found.topology.memory_bytes(node) + 600 * MIB) / GIB).collect()
}

#[test]
fn x10dai_has_two_nodes_of_twenty_cpus() {
    let found = discover_from(&X10DAI, X10DAI_RAM, Some(0));
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.topology.node_source(), NodeSource::Srat);
    assert_eq!(cpus_per_node(&found), [20, 20]);
    assert_eq!(gib_per_node(&found), [80, 80]);
    assert_eq!(found.distances(), [[10, 21], [21, 10]]);
    insta::assert_snapshot!(found.topology, @r"
    available: 2 nodes (0-1)
    node 0 cpus: 0 1 2 3 4 5 6 7 8 9 20 21 22 23 24 25 26 27 28 29
    node 0 size: 81823 MB
    node 1 cpus: 10 11 12 13 14 15 16 17 18 19 30 31 32 33 34 35 36 37 38 39
    node 1 size: 81920 MB
    node distances:
    node   0   1
      0:  10  21
      1:  21  10
    ");
}

#[test]
fn proliant_has_two_nodes_and_no_slit() {
    let found = discover_from(&PROLIANT, PROLIANT_RAM, Some(0));
    assert_eq!(found.warnings.len(), 1);
    assert_eq!((found.warnings[0].source, found.warnings[0].problem), (Source::Slit, Problem::Absent));
    assert!(found.warnings[0].is_legal());
    assert_eq!(cpus_per_node(&found), [8, 8]);
    // 3.5 GiB below the PCI hole.
    assert_eq!(gib_per_node(&found), [96, 96]);
    assert_eq!(found.distances(), [[10, 20], [20, 10]]);
    insta::assert_snapshot!(found.topology, @r"
    available: 2 nodes (0-1)
    node 0 cpus: 0 2 4 6 8 10 12 14
    node 0 size: 98293 MB
    node 1 cpus: 1 3 5 7 9 11 13 15
    node 1 size: 98304 MB
    node distances:
    node   0   1
      0:  10  20
      1:  20  10
    ");
}

#[test]
fn h8dgu_has_two_nodes_without_memory() {
    let found = discover_from(&H8DGU, H8DGU_RAM, Some(16));
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(cpus_per_node(&found), [6, 6, 6, 6]);
    let with_memory: Vec<bool> = found.topology.nodes().map(|node| found.topology.has_memory(node)).collect();
    assert_eq!(with_memory, [true, false, false, true]);
    assert_eq!(gib_per_node(&found)[3], 36);
    assert_eq!(found.distances()[1], [16, 10, 16, 16]);
    let second_choices: Vec<u8> =
        found.topology.nodes().map(|node| found.topology.nearest(node).nth(1).expect("four nodes").0).collect();
    assert_eq!(second_choices, [1, 2, 3, 0], "equally near nodes are not everyone's second choice alike");
    insta::assert_snapshot!(found.topology, @r"
    available: 4 nodes (0-3)
    node 0 cpus: 0 1 2 3 4 5
    node 0 size: 36860 MB
    node 1 cpus: 6 7 8 9 10 11
    node 1 size: 0 MB
    node 2 cpus: 18 19 20 21 22 23
    node 2 size: 0 MB
    node 3 cpus: 12 13 14 15 16 17
    node 3 size: 36864 MB
    node distances:
    node   0   1   2   3
      0:  10  16  16  16
      1:  16  10  16  16
      2:  16  16  10  16
      3:  16  16  16  10
    ");
    insta::assert_snapshot!(format!("{:#}", found.topology), @r"
    available: 4 nodes (0-3)
    nodes from: SRAT
    distances from: SLIT
    local APICs at: 0xfee00000
    node 0 cpus: 0 1 2 3 4 5
    node 0 size: 36860 MB
    node 0 proximity domain: 0
    node 0 APIC ids: 16 17 18 19 20 21
    node 0 memory: [0x0-0x9ffff]
    node 0 memory: [0x100000-0xdfcfffff]
    node 0 memory: [0x100000000-0x91fffffff]
    node 1 cpus: 6 7 8 9 10 11
    node 1 size: 0 MB
    node 1 proximity domain: 1
    node 1 APIC ids: 22 23 24 25 26 27
    node 2 cpus: 18 19 20 21 22 23
    node 2 size: 0 MB
    node 2 proximity domain: 2
    node 2 APIC ids: 38 39 40 41 42 43
    node 3 cpus: 12 13 14 15 16 17
    node 3 size: 36864 MB
    node 3 proximity domain: 3
    node 3 APIC ids: 32 33 34 35 36 37
    node 3 memory: [0x920000000-0x121fffffff]
    node distances:
    node   0   1   2   3
      0:  10  16  16  16
      1:  16  10  16  16
      2:  16  16  10  16
      3:  16  16  16  10
    ");
}

#[test]
fn all_series_is_one_node_padded_with_empty_entries() {
    let found = discover_from(&ALL_SERIES, ALL_SERIES_RAM, Some(0));
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(cpus_per_node(&found), [12]);
    assert_eq!(found.distances(), [[10]]);
    insta::assert_snapshot!(found.topology, @r"
    available: 1 nodes (0)
    node 0 cpus: 0 1 2 3 4 5 6 7 8 9 10 11
    node 0 size: 65279 MB
    node distances:
    node   0
      0:  10
    ");
}

#[test]
fn qemu_tells_of_latency_and_bandwidth_and_room_for_more_memory() {
    let found = discover_from(&QEMU, QEMU_RAM, Some(0));
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(cpus_per_node(&found), [3, 3, 0]);
    insta::assert_snapshot!(format!("{:#}", found.topology), @r"
    available: 3 nodes (0-2)
    nodes from: SRAT
    distances from: SLIT
    local APICs at: 0xfee00000
    node 0 cpus: 0 1 2
    node 0 size: 255 MB
    node 0 proximity domain: 0
    node 0 APIC ids: 0 1 2
    node 0 memory: [0x0-0x9fbff]
    node 0 memory: [0x100000-0xfffffff]
    node 1 cpus: 3 4 5
    node 1 size: 256 MB
    node 1 proximity domain: 1
    node 1 APIC ids: 3 4 5
    node 1 memory: [0x10000000-0x1fffffff]
    node 2 cpus:
    node 2 size: 255 MB
    node 2 proximity domain: 2
    node 2 APIC ids:
    node 2 memory: [0x20000000-0x2ffdffff]
    proximity domain 2 absent: [0x100000000-0x1cfffffff] hot-pluggable
    node distances:
    node   0   1   2
      0:  10  21  31
      1:  21  10  41
      2:  31  41  10
    node 0 to node 0: read latency 80000 ps, write latency 80000 ps, read bandwidth 102400 MB/s, write bandwidth 102400 MB/s
    node 0 to node 1: read latency 160000 ps, write latency 160000 ps, read bandwidth 51200 MB/s, write bandwidth 51200 MB/s
    node 0 to node 2: read latency 300000 ps, write latency 300000 ps, read bandwidth 20480 MB/s, write bandwidth 20480 MB/s
    node 1 to node 0: read latency 160000 ps, write latency 160000 ps, read bandwidth 51200 MB/s, write bandwidth 51200 MB/s
    node 1 to node 1: read latency 80000 ps, write latency 80000 ps, read bandwidth 102400 MB/s, write bandwidth 102400 MB/s
    node 1 to node 2: read latency 340000 ps, write latency 340000 ps, read bandwidth 20480 MB/s, write bandwidth 20480 MB/s
    ");
}

#[test]
fn qemu_without_its_slit_has_distances_by_latency() {
    let found = discover_from(&Tables { slit: None, ..QEMU }, QEMU_RAM, Some(0));
    assert_eq!(found.only_sentence(), "SLIT: no such table; assumed the HMAT's latencies or distance 20 between nodes");
    assert_eq!(found.distances(), [[10, 20, 38], [20, 10, 43], [38, 43, 10]]);
}

#[test]
fn real_machines_boot_without_knowing_the_boot_cpu() {
    let first = |tables, ram| discover(&tables, ram).apic_ids()[0];
    assert_eq!(first(X10DAI, X10DAI_RAM), 0);
    assert_eq!(first(H8DGU, H8DGU_RAM), 16);
}

#[test]
fn a_real_machine_with_less_ram_than_its_tables_say_keeps_every_cpu() {
    let found = discover_from(&H8DGU, &[(0, 0xa_0000), (MIB, GIB)], Some(16));
    assert_eq!(found.topology.cpus().len(), 24);
    assert!(!found.topology.has_memory(NodeId(3)));
    assert_eq!(
        found.sentences(),
        [
            "SRAT entry 1 at offset 0x58: memory [0x100000-0xdfffffff] ends above all RAM of the memory map; assumed \
             that it ends with RAM at 0x40000000",
            "SRAT entry 2 at offset 0x80: memory [0x100000000-0x91fffffff] is not RAM anywhere in the memory map; \
             ignored this entry",
            "SRAT entry 21 at offset 0x1c8: memory [0x920000000-0x121fffffff] is not RAM anywhere in the memory map; \
             ignored this entry",
        ]
    );
}
