//! Which node CPUs belong to.

use crate::support::{Found, GIB, discover_from};
use crate::tables::{ENABLED, madt_of, srat, srat_of_revision};
use quarry_topology::{MAX_NODES, NodeSource, Source, Tables};

const RAM: &[(u64, u64)] = &[(0, GIB)];

/// Discovers from MADT and SRAT; keeps what is said about the SRAT.
fn found(madt: &[u8], srat: &[u8]) -> Found {
    let tables = Tables { madt: Some(madt), srat: Some(srat), ..Tables::default() };
    let mut found = discover_from(&tables, RAM, None);
    found.warnings.retain(|warning| warning.source == Source::Srat);
    found
}

#[test]
fn nodes_are_domains_in_ascending_order_wherever_they_start_and_whatever_they_skip() {
    let srat = srat().cpu(70_000, 1).cpu(3, 0).cpu(9, 2).memory(9, 0, GIB).done();
    let found = found(&madt_of([0, 1, 2]), &srat);
    assert_eq!(found.domains(), [3, 9, 70_000]);
    assert_eq!(found.cpu_nodes(), [0, 2, 1]);
    assert_eq!(found.memory(), [(0, GIB, 1)]);
    assert_eq!(found.topology.node_of_domain(9).map(|node| node.0), Some(1));
    assert_eq!(found.topology.node_of_domain(4), None);
    assert_eq!(found.sentences(), [""; 0]);
}

#[test]
fn revision_1_has_domains_of_eight_bits_and_garbage_above_them() {
    let write =
        |revision| srat_of_revision(revision).processor(0xaabb_cc01, 0, ENABLED).memory(0xdddd_dd01, 0, GIB).done();
    assert_eq!(found(&madt_of([0]), &write(1)).domains(), [1]);
    assert_eq!(found(&madt_of([0]), &write(2)).domains(), [0xaabb_cc01, 0xdddd_dd01]);
}

#[test]
fn the_byte_between_the_parts_of_a_domain_is_no_part_of_it() {
    let table = srat();
    let begin = table.offset();
    let srat = table.processor(0x0100, 0, ENABLED).memory(0x0100, 0, GIB).patch(begin + 8, &[0xff]).done();
    assert_eq!(found(&madt_of([0]), &srat).domains(), [0x0100]);
}

#[test]
fn x2apic_entries_name_cpus_of_any_id() {
    let srat = srat().processor_x2apic(0, 2, ENABLED).processor_x2apic(1, 0x1_0002, ENABLED).memory(0, 0, GIB).done();
    let found = found(&madt_of([2, 0x1_0002]), &srat);
    assert_eq!(found.cpu_nodes(), [0, 1]);
    assert_eq!(found.sentences(), [""; 0]);
}

#[test]
fn disabled_entries_and_entries_of_cpus_that_are_not_there_make_no_node() {
    let srat = srat().processor(5, 0, 0).cpu(0, 0).cpu(6, 77).processor_x2apic(7, 1, 0).memory(0, 0, GIB).done();
    let found = found(&madt_of([0]), &srat);
    assert_eq!(found.domains(), [0]);
    assert_eq!(found.sentences(), [""; 0]);
}

#[test]
fn a_generic_initiator_makes_no_node() {
    let srat = srat().generic_initiator(4).cpu(0, 0).memory(0, 0, GIB).done();
    let found = found(&madt_of([0]), &srat);
    assert_eq!(found.domains(), [0]);
    assert_eq!(found.sentences(), [""; 0]);
}

#[test]
fn a_generic_initiator_without_a_length_is_passed_over() {
    let table = srat().cpu(0, 0);
    let broken = table.offset();
    let srat = table.generic_initiator(4).cpu(1, 1).memory(0, 0, GIB).patch(broken + 1, &[0]).done();
    let found = found(&madt_of([0, 1]), &srat);
    assert_eq!(
        found.only_sentence(),
        "SRAT entry 1 at offset 0x40: an entry of type 5 cannot have 0 bytes here; assumed the 32 bytes of its type"
    );
    assert_eq!(found.domains(), [0, 1]);
    assert_eq!(found.cpu_nodes(), [0, 1]);
}

#[test]
fn a_cpu_no_entry_covers_joins_the_one_of_the_nearest_lower_apic_id() {
    let srat = srat().cpu(1, 2).cpu(0, 8).memory(0, 0, GIB).done();
    let found = found(&madt_of([9, 8, 3, 2, 1]), &srat);
    assert_eq!(found.cpu_nodes(), [0, 0, 1, 1, 1]);
    assert_eq!(
        found.sentences(),
        [
            "SRAT: no entry gives the CPU with APIC id 1 a node; assumed proximity domain 1, that of the CPU with the \
             nearest APIC id",
            "SRAT: no entry gives the CPU with APIC id 3 a node; assumed proximity domain 1, that of the CPU with the \
             nearest APIC id",
            "SRAT: no entry gives the CPU with APIC id 9 a node; assumed proximity domain 0, that of the CPU with the \
             nearest APIC id",
        ]
    );
}

#[test]
fn cpus_of_a_table_about_memory_alone_are_all_kept() {
    let srat = srat().memory(4, 0, GIB / 2).memory(6, GIB / 2, GIB).done();
    let found = found(&madt_of(0..12), &srat);
    assert_eq!(found.cpu_nodes(), [0; 12]);
    let sentences = found.sentences();
    assert_eq!(sentences.len(), 5);
    assert_eq!(sentences[4], "SRAT: 8 more cases of this: CPU that no entry covers; assumed the same as above");
}

#[test]
fn a_cpu_given_to_two_domains_stays_in_the_first() {
    let srat = srat().cpu(1, 0).cpu(0, 0).cpu(1, 0).memory(0, 0, GIB).done();
    let found = found(&madt_of([0]), &srat);
    assert_eq!(
        found.only_sentence(),
        "SRAT entry 1 at offset 0x40: the CPU with APIC id 0 was given to proximity domain 1 and now to 0; assumed 1"
    );
    assert_eq!(found.domains(), [0, 1]);
    assert_eq!(found.cpu_nodes(), [1]);
}

#[test]
fn a_table_that_describes_nothing_there_is_leaves_one_node() {
    let found = found(&madt_of([0, 1]), &srat().cpu(3, 40).processor(2, 0, 0).memory_flags(1, 0, GIB, 0).done());
    assert_eq!(found.only_sentence(), "SRAT: no enabled entry is about a CPU or RAM that exists; assumed one node");
    assert_eq!(found.topology.node_source(), NodeSource::Assumed);
    assert_eq!(found.cpu_nodes(), [0, 0]);
    assert_eq!(found.memory(), [(0, GIB, 0)]);
}

#[test]
fn more_domains_than_nodes_lose_neither_cpus_nor_memory() {
    let mut srat = (0..70).fold(srat(), |srat, cpu| srat.cpu(100 + cpu, cpu));
    srat = srat.memory(169, 0, GIB);
    let found = found(&madt_of(0..70), &srat.done());
    assert_eq!(found.topology.node_count(), MAX_NODES);
    let nodes = found.cpu_nodes();
    assert_eq!(nodes.len(), 70);
    assert_eq!(nodes[63], 63);
    assert_eq!(nodes[64..], [0; 6]);
    assert_eq!(found.memory(), [(0, GIB, 0)]);
    let sentences = found.sentences();
    assert_eq!(sentences.len(), 5);
    assert_eq!(
        sentences[0],
        "SRAT entry 64 at offset 0x430: proximity domain 164 is one more than the 64 that can be kept; assumed the \
         lowest domain instead"
    );
    assert_eq!(sentences[4], "SRAT: 3 more cases of this: too many proximity domains; assumed the same as above");
}
