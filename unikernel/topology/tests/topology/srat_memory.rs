//! Which node memory belongs to.

use crate::support::{Found, GIB, KIB, MIB, discover};
use crate::tables::{ENABLED, HOT_PLUGGABLE, NON_VOLATILE, TableWriter, madt_of, slit_of, srat};
use quarry_topology::{AbsentRange, MAX_ABSENT_RANGES, MAX_RANGES, NodeId, PhysicalRange, Source, Tables};

/// Discovers on a machine with CPU 0 in domain 0 and CPU 1 in domain 1; keeps what is said about SRAT and memory map.
fn found(memory: impl Fn(TableWriter) -> TableWriter, ram: &[(u64, u64)]) -> Found {
    let srat = memory(srat().cpu(0, 0).cpu(1, 1)).done();
    let (madt, slit) = (madt_of([0, 1]), slit_of([[10, 21], [21, 10]]));
    let tables = Tables { madt: Some(&madt), srat: Some(&srat), slit: Some(&slit), hmat: None };
    let mut found = discover(&tables, ram);
    found.warnings.retain(|warning| [Source::Srat, Source::MemoryMap].contains(&warning.source));
    found
}

#[test]
fn a_node_across_the_pci_hole_has_two_ranges() {
    let found = found(
        |srat| srat.memory(0, 0, 3 * GIB).memory(0, 4 * GIB, 6 * GIB).memory(1, 6 * GIB, 8 * GIB),
        &[(0, 3 * GIB), (4 * GIB, 8 * GIB)],
    );
    assert_eq!(found.memory(), [(0, 3 * GIB, 0), (4 * GIB, 6 * GIB, 0), (6 * GIB, 8 * GIB, 1)]);
    assert_eq!(found.topology.memory_bytes(NodeId(0)), 5 * GIB);
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.topology.node_of_address(3 * GIB), None);
    assert_eq!(found.topology.node_of_address(6 * GIB - 1), Some(NodeId(0)));
    assert_eq!(found.topology.node_of_address(6 * GIB), Some(NodeId(1)));
    assert_eq!(found.topology.node_of_address(u64::MAX), None);
}

#[test]
fn an_entry_across_the_pci_hole_covers_the_ram_on_both_sides() {
    let found = found(|srat| srat.memory(1, 0, 6 * GIB), &[(0, 3 * GIB), (4 * GIB, 6 * GIB)]);
    assert_eq!(found.memory(), [(0, 3 * GIB, 1), (4 * GIB, 6 * GIB, 1)]);
    assert_eq!(found.sentences(), [""; 0]);
}

#[test]
fn flags_of_memory_that_is_there_are_kept() {
    let found = found(
        |srat| {
            srat.memory(0, 0, GIB).memory_flags(0, GIB, GIB, ENABLED | HOT_PLUGGABLE).memory_flags(
                1,
                2 * GIB,
                GIB,
                ENABLED | NON_VOLATILE,
            )
        },
        &[(0, 3 * GIB)],
    );
    let flags: Vec<_> =
        found.topology.memory().iter().map(|memory| (memory.hot_pluggable, memory.non_volatile)).collect();
    assert_eq!(flags, [(false, false), (true, false), (false, true)]);
    assert_eq!(found.sentences(), [""; 0]);
    insta::assert_snapshot!(format!("{:#}", found.topology), @r"
    available: 2 nodes (0-1)
    nodes from: SRAT
    distances from: SLIT
    local APICs at: 0xfee00000
    node 0 cpus: 0
    node 0 size: 2048 MB
    node 0 proximity domain: 0
    node 0 APIC ids: 0
    node 0 memory: [0x0-0x3fffffff]
    node 0 memory: [0x40000000-0x7fffffff] hot-pluggable
    node 1 cpus: 1
    node 1 size: 1024 MB
    node 1 proximity domain: 1
    node 1 APIC ids: 1
    node 1 memory: [0x80000000-0xbfffffff] non-volatile
    node distances:
    node   0   1
      0:  10  21
      1:  21  10
    ");
}

#[test]
fn room_for_memory_to_be_plugged_in_is_kept_apart() {
    let found =
        found(|srat| srat.memory_flags(5, 8 * GIB, GIB, ENABLED | HOT_PLUGGABLE).memory(0, 0, GIB), &[(0, GIB)]);
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.domains(), [0, 1], "a domain with neither CPUs nor RAM is no node");
    let absent = AbsentRange {
        range: PhysicalRange::new(8 * GIB, 9 * GIB),
        proximity_domain: 5,
        hot_pluggable: true,
        non_volatile: false,
    };
    assert_eq!(found.topology.absent_memory(), [absent]);
    insta::assert_snapshot!(format!("{:#}", found.topology), @r"
    available: 2 nodes (0-1)
    nodes from: SRAT
    distances from: SLIT
    local APICs at: 0xfee00000
    node 0 cpus: 0
    node 0 size: 1024 MB
    node 0 proximity domain: 0
    node 0 APIC ids: 0
    node 0 memory: [0x0-0x3fffffff]
    node 1 cpus: 1
    node 1 size: 0 MB
    node 1 proximity domain: 1
    node 1 APIC ids: 1
    proximity domain 5 absent: [0x200000000-0x23fffffff] hot-pluggable
    node distances:
    node   0   1
      0:  10  21
      1:  21  10
    ");
}

#[test]
fn non_volatile_memory_that_is_not_ram_is_kept_apart() {
    let found =
        found(|srat| srat.memory(0, 0, GIB).memory_flags(1, 4 * GIB, 8 * GIB, ENABLED | NON_VOLATILE), &[(0, GIB)]);
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.memory(), [(0, GIB, 0)]);
    let absent = AbsentRange {
        range: PhysicalRange::new(4 * GIB, 12 * GIB),
        proximity_domain: 1,
        hot_pluggable: false,
        non_volatile: true,
    };
    assert_eq!(found.topology.absent_memory(), [absent]);
}

#[test]
fn absent_memory_is_sorted_and_as_much_is_kept_as_fits() {
    let room = |srat: TableWriter, place: u64| srat.memory_flags(7, place * GIB, GIB, ENABLED | HOT_PLUGGABLE);
    let last = MAX_ABSENT_RANGES as u64 + 5;
    let found = found(|srat| (2..last).rev().fold(srat.memory(0, 0, GIB), room), &[(0, GIB)]);
    let starts: Vec<u64> = found.topology.absent_memory().iter().map(|absent| absent.range.start / GIB).collect();
    assert_eq!(starts, (5..last).collect::<Vec<u64>>());
    assert_eq!(found.sentences(), [""; 0]);
}

#[test]
fn a_node_may_have_no_cpus() {
    let found = found(|srat| srat.memory(0, 0, GIB).memory(4, GIB, 2 * GIB), &[(0, 2 * GIB)]);
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.domains(), [0, 1, 4]);
    assert_eq!(found.memory(), [(0, GIB, 0), (GIB, 2 * GIB, 2)]);
    assert!(!found.topology.has_cpus(NodeId(2)) && found.topology.has_memory(NodeId(2)));
}

#[test]
fn a_node_may_have_no_memory() {
    let found = found(|srat| srat.memory(1, 0, GIB), &[(0, GIB)]);
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.domains(), [0, 1]);
    assert_eq!(found.cpu_nodes(), [0, 1]);
    assert!(found.topology.has_cpus(NodeId(0)) && !found.topology.has_memory(NodeId(0)));
}

#[test]
fn disabled_memory_does_not_count_however_odd() {
    let found = found(
        |srat| srat.memory(0, 0, GIB).memory_flags(1, 0, 0, 0).memory_flags(1, u64::MAX, u64::MAX, 0),
        &[(0, GIB)],
    );
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.memory(), [(0, GIB, 0)]);
}

#[test]
fn enabled_memory_without_bytes_is_ignored() {
    let found = found(|srat| srat.memory_flags(1, GIB, 0, ENABLED).memory(0, 0, GIB), &[(0, GIB)]);
    assert_eq!(
        found.only_sentence(),
        "SRAT entry 2 at offset 0x50: enabled memory at 0x40000000 has no bytes; ignored this entry"
    );
    assert_eq!(found.memory(), [(0, GIB, 0)]);
}

#[test]
fn memory_past_the_end_of_the_address_space_is_ignored() {
    let found = found(|srat| srat.memory(0, 0, GIB).memory_flags(1, GIB, u64::MAX, ENABLED), &[(0, GIB)]);
    assert_eq!(
        found.only_sentence(),
        "SRAT entry 3 at offset 0x78: memory at 0x40000000 of 0xffffffffffffffff bytes reaches past the end of the \
         address space; ignored this entry"
    );
    assert_eq!(found.memory(), [(0, GIB, 0)]);
}

#[test]
fn memory_outside_the_memory_map_is_ignored() {
    let found = found(|srat| srat.memory(0, 0, GIB).memory(1, 2 * GIB, 3 * GIB), &[(0, GIB)]);
    assert_eq!(
        found.only_sentence(),
        "SRAT entry 3 at offset 0x78: memory [0x80000000-0xbfffffff] is not RAM anywhere in the memory map; ignored \
         this entry"
    );
    assert_eq!(found.memory(), [(0, GIB, 0)]);
    assert_eq!(found.domains(), [0, 1], "its CPU keeps the domain a node");
}

#[test]
fn memory_beyond_the_end_of_ram_ends_with_ram() {
    let found = found(|srat| srat.memory(0, 0, GIB).memory(1, GIB, 64 * GIB), &[(0, 2 * GIB)]);
    assert_eq!(
        found.only_sentence(),
        "SRAT entry 3 at offset 0x78: memory [0x40000000-0xfffffffff] ends above all RAM of the memory map; assumed \
         that it ends with RAM at 0x80000000"
    );
    assert_eq!(found.memory(), [(0, GIB, 0), (GIB, 2 * GIB, 1)]);
}

#[test]
fn the_top_of_ram_that_firmware_keeps_for_itself_is_no_lie() {
    let up_to = |end| found(|srat| srat.memory(0, 0, GIB).memory(1, GIB, end), &[(0, 2 * GIB)]);
    let kept = up_to(2 * GIB + 64 * MIB);
    assert_eq!(kept.sentences(), [""; 0]);
    assert_eq!(kept.memory(), [(0, GIB, 0), (GIB, 2 * GIB, 1)]);
    let beyond = up_to(2 * GIB + 64 * MIB + 1);
    assert!(beyond.only_sentence().contains("ends above all RAM"));
    assert_eq!(beyond.memory(), kept.memory());
}

#[test]
fn overlapping_memory_belongs_to_the_earlier_entry() {
    let found = found(|srat| srat.memory(1, GIB, 2 * GIB).memory(0, 0, 3 * GIB), &[(0, 3 * GIB)]);
    assert_eq!(
        found.only_sentence(),
        "SRAT entry 3 at offset 0x78: memory [0x0-0xbfffffff] overlaps an earlier entry's at [0x40000000-0x7fffffff]; \
         assumed proximity domain 1, the earlier's, where they do"
    );
    assert_eq!(found.memory(), [(0, GIB, 0), (GIB, 2 * GIB, 1), (2 * GIB, 3 * GIB, 0)]);
}

#[test]
fn memory_swallowed_by_an_earlier_entry_makes_no_node() {
    let found = found(|srat| srat.memory(0, 0, 3 * GIB).memory(9, GIB, 2 * GIB), &[(0, 3 * GIB)]);
    assert_eq!(
        found.only_sentence(),
        "SRAT entry 3 at offset 0x78: memory [0x40000000-0x7fffffff] overlaps an earlier entry's at \
         [0x40000000-0x7fffffff]; assumed proximity domain 0, the earlier's, where they do"
    );
    assert_eq!(found.domains(), [0, 1]);
    assert_eq!(found.memory(), [(0, 3 * GIB, 0)]);
}

#[test]
fn nodes_that_meet_inside_a_page_do_not_share_it() {
    let meet = GIB + KIB;
    let found = found(|srat| srat.memory(0, 0, meet).memory(1, meet, 2 * GIB), &[(0, 2 * GIB)]);
    assert_eq!(
        found.only_sentence(),
        "SRAT entry 3 at offset 0x78: memory [0x40000400-0x7fffffff] begins or ends inside a page (4096 bytes) of an \
         earlier entry's; assumed proximity domain 0, the earlier's, for the whole page"
    );
    assert_eq!(found.memory(), [(0, GIB + 4 * KIB, 0), (GIB + 4 * KIB, 2 * GIB, 1)]);
}

#[test]
fn an_overlap_that_begins_inside_a_page_is_an_overlap() {
    let begin = GIB - 8 * KIB + 512;
    let found = found(|srat| srat.memory(0, 0, GIB).memory(1, begin, 2 * GIB), &[(0, 2 * GIB)]);
    assert_eq!(
        found.only_sentence(),
        "SRAT entry 3 at offset 0x78: memory [0x3fffe200-0x7fffffff] overlaps an earlier entry's at \
         [0x3fffe000-0x3fffffff]; assumed proximity domain 0, the earlier's, where they do"
    );
    assert_eq!(found.memory(), [(0, GIB, 0), (GIB, 2 * GIB, 1)]);
}

#[test]
fn memory_that_ends_inside_a_page_of_its_own_is_no_case() {
    let found = found(
        |srat| srat.memory(0, 0, 0x9_fc00).memory(0, MIB, GIB).memory(1, GIB, 2 * GIB),
        &[(0, 0x9_fc00), (MIB, 2 * GIB)],
    );
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.memory(), [(0, 0x9_fc00, 0), (MIB, GIB, 0), (GIB, 2 * GIB, 1)]);
}

#[test]
fn ram_no_entry_covers_joins_the_nearest_memory() {
    let found = found(|srat| srat.memory(0, GIB, 2 * GIB).memory(1, 4 * GIB, 5 * GIB), &[(0, 8 * GIB)]);
    assert_eq!(found.memory(), [(0, 3 * GIB, 0), (3 * GIB, 8 * GIB, 1)]);
    assert_eq!(
        found.sentences(),
        [
            "SRAT: no entry covers RAM [0x0-0x3fffffff]; assumed proximity domain 0, that of the nearest memory \
             described",
            "SRAT: no entry covers RAM [0x80000000-0xbfffffff]; assumed proximity domain 0, that of the nearest memory \
             described",
            "SRAT: no entry covers RAM [0xc0000000-0xffffffff]; assumed proximity domain 1, that of the nearest memory \
             described",
            "SRAT: no entry covers RAM [0x140000000-0x1ffffffff]; assumed proximity domain 1, that of the nearest \
             memory described",
        ]
    );
}

#[test]
fn ram_of_a_table_about_cpus_alone_is_node_0s() {
    let found = found(|srat| srat, &[(0, GIB), (2 * GIB, 3 * GIB)]);
    assert_eq!(found.memory(), [(0, GIB, 0), (2 * GIB, 3 * GIB, 0)]);
    assert_eq!(
        found.sentences(),
        [
            "SRAT: no entry covers RAM [0x0-0x3fffffff]; assumed proximity domain 0, that of the nearest memory \
             described",
            "SRAT: no entry covers RAM [0x80000000-0xbfffffff]; assumed proximity domain 0, that of the nearest memory \
             described",
        ]
    );
}

#[test]
fn ram_joining_a_flagged_node_has_no_flags_of_its_own() {
    let found = found(|srat| srat.memory_flags(1, 0, GIB, ENABLED | HOT_PLUGGABLE), &[(0, 2 * GIB)]);
    let flags: Vec<_> = found.topology.memory().iter().map(|memory| (memory.node.0, memory.hot_pluggable)).collect();
    assert_eq!(flags, [(1, true), (1, false)]);
}

#[test]
fn the_boundary_in_ram_no_entry_covers_is_between_pages() {
    let page = 4 * KIB;
    let found = found(|srat| srat.memory(0, 0, 4 * page).memory(1, 7 * page, 11 * page), &[(0, 11 * page)]);
    assert_eq!(found.memory(), [(0, 5 * page, 0), (5 * page, 11 * page, 1)]);
}

#[test]
fn a_memory_map_in_any_order_and_overlapping_is_taken_as_its_union() {
    let found = found(
        |srat| srat.memory(0, 0, 6 * GIB),
        &[(4 * GIB, 5 * GIB), (GIB, GIB), (0, GIB), (GIB, 2 * GIB), (4 * GIB + MIB, 6 * GIB), (7, 3), (0, MIB)],
    );
    assert_eq!(found.memory(), [(0, 2 * GIB, 0), (4 * GIB, 6 * GIB, 0)]);
    assert_eq!(found.sentences(), [""; 0]);
}

#[test]
fn ranges_that_cannot_be_told_apart_any_more_lose_no_ram() {
    // Pages alternate between two nodes: one claim more than can be kept, then ten.
    for extra in [1, 10] {
        let pages = MAX_RANGES as u64 + extra;
        let found = found(
            |srat| {
                (0..pages).fold(srat, |srat, page| srat.memory((page % 2) as u32, page * 4 * KIB, (page + 1) * 4 * KIB))
            },
            &[(0, pages * 4 * KIB)],
        );
        assert!(found.warnings.len() >= 2, "ranges too many and their RAM uncovered: {:#?}", found.sentences());
        assert_eq!(found.topology.memory().len(), MAX_RANGES);
        assert_eq!(
            found.sentences()[0],
            "SRAT entry 258 at offset 0x2850: memory [0x100000-0x100fff] is one more than the 256 separate ranges that \
             can be kept; assumed the node of the memory next to it"
        );
    }
}

#[test]
fn ram_split_into_more_ranges_than_can_be_kept_loses_none() {
    // 200 pieces of RAM, with a node boundary in the middle of each.
    let ram: Vec<(u64, u64)> = (0..200).map(|piece| (piece * 4 * MIB, piece * 4 * MIB + 2 * MIB)).collect();
    let found = found(
        |srat| {
            ram.iter().fold(srat, |srat, (start, end)| srat.memory(0, *start, start + MIB).memory(1, start + MIB, *end))
        },
        &ram,
    );
    assert!(found.topology.memory().len() == MAX_RANGES);
    assert!(found.sentences().iter().any(|sentence| sentence.contains("separate ranges that can be kept")));
}

#[test]
fn a_page_has_one_node_even_where_ranges_cannot_be_told_apart_any_more() {
    // As many pieces of RAM as can be kept. A node boundary in the middle of the first cannot be drawn, and the second
    // begins in the page the first ends in.
    let boundary = 4 * KIB;
    let mut ram = vec![(0, 8 * KIB + 100), (8 * KIB + 200, 16 * KIB)];
    ram.extend((1..MAX_RANGES as u64 - 1).map(|piece| (piece * MIB, piece * MIB + 4 * KIB)));
    let found = found(|srat| srat.memory(0, 0, boundary).memory(1, boundary, 254 * MIB + 4 * KIB), &ram);
    assert_eq!(found.memory()[..3], [(0, 8 * KIB + 100, 0), (8 * KIB + 200, 16 * KIB, 0), (MIB, MIB + 4 * KIB, 1)]);
    assert_eq!(
        found.sentences(),
        [
            "SRAT: memory [0x1000-0x2063] is one more than the 256 separate ranges that can be kept; assumed the node of \
             the memory next to it",
            "SRAT: memory [0x3000-0x3fff] is one more than the 256 separate ranges that can be kept; assumed the node of \
             the memory next to it",
        ]
    );
}

#[test]
fn a_domain_that_loses_all_its_memory_for_want_of_room_is_no_node() {
    // As many pieces of RAM as can be kept; half of the last one is all that domain 5 has.
    let last = (MAX_RANGES as u64 - 1) * MIB;
    let ram: Vec<(u64, u64)> = (0..MAX_RANGES as u64).map(|piece| (piece * MIB, piece * MIB + 8 * KIB)).collect();
    let srat = srat().cpu(0, 0).cpu(9, 1).memory(0, 0, 200 * MIB).memory(9, 200 * MIB, 201 * MIB);
    let srat = srat.memory(0, 201 * MIB, last + 4 * KIB).memory(5, last + 4 * KIB, last + 8 * KIB).done();
    let tables = Tables { madt: Some(&madt_of([0, 1])), srat: Some(&srat), slit: None, hmat: None };
    let found = discover(&tables, &ram);
    assert_eq!(
        found.sentences()[0],
        "SRAT: memory [0xff01000-0xff01fff] is one more than the 256 separate ranges that can be kept; assumed the node \
         of the memory next to it"
    );
    assert_eq!(found.domains(), [0, 9]);
    assert_eq!(found.cpu_nodes(), [0, 1]);
    assert_eq!(found.memory()[200], (200 * MIB, 200 * MIB + 8 * KIB, 1));
    assert_eq!(found.memory()[255], (last, last + 8 * KIB, 0));
}

#[test]
fn a_memory_map_of_too_many_ranges_keeps_as_many_as_it_can() {
    let ram: Vec<PhysicalRange> =
        (0..300).map(|piece| PhysicalRange::new(piece * MIB, piece * MIB + 4 * KIB)).collect();
    let mut topology = Box::new(quarry_topology::Topology::empty());
    let mut sentences = Vec::new();
    topology.discover(&Tables::default(), &ram, None, &mut |warning| sentences.push(warning.to_string()));
    topology.validate().expect("valid");
    assert_eq!(topology.memory().len(), MAX_RANGES);
    assert_eq!(
        sentences[0],
        "memory map: RAM [0x10000000-0x10000fff] is one more than the 256 separate ranges that can be kept; it is not \
         used"
    );
}

#[test]
fn pieces_of_ram_in_one_page_of_one_node_cost_no_warning_however_full_the_memory_map() {
    let mut ram = vec![(0, 4 * KIB + 100), (4 * KIB + 200, 16 * KIB)];
    ram.extend((1..MAX_RANGES as u64 - 1).map(|piece| (piece * MIB, piece * MIB + 4 * KIB)));
    let found = found(|srat| srat.memory(1, 0, GIB / 4), &ram);
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.memory()[..2], [(0, 4 * KIB + 100, 1), (4 * KIB + 200, 16 * KIB, 1)]);
}

#[test]
fn a_full_memory_map_still_takes_ram_that_touches_what_it_has() {
    let mut ram: Vec<(u64, u64)> = (0..MAX_RANGES as u64).map(|piece| (piece * MIB, piece * MIB + 4 * KIB)).collect();
    ram.push((4 * KIB, 8 * KIB));
    let found = found(|srat| srat.memory(0, 0, GIB / 4), &ram);
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.memory()[0], (0, 8 * KIB, 0));
    assert_eq!(found.memory().len(), MAX_RANGES);
}
