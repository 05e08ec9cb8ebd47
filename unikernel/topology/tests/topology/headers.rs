//! Tables that are absent or whose header cannot be believed.

use crate::support::{Found, GIB, discover, discover_from, tables};
use crate::tables::{hmat, madt, madt_of, seal, slit_of, srat};
use quarry_topology::{
    DEFAULT_LOCAL_APIC_ADDRESS, DistanceSource, LocalApicAddress, MemoryPerformance, NodeId, NodeSource, Source, Tables,
};

const RAM: &[(u64, u64)] = &[(0, 4 * GIB)];

fn two_node_srat() -> Vec<u8> {
    srat().cpu(0, 0).cpu(1, 1).memory(0, 0, 2 * GIB).memory(1, 2 * GIB, 4 * GIB).done()
}

fn sound_slit() -> Vec<u8> {
    slit_of([[10, 21], [21, 10]])
}

/// These CPUs, and all RAM, on the only node there is.
#[track_caller]
fn assert_one_node(found: &Found, apic_ids: &[u32]) {
    assert_eq!(found.topology.node_source(), NodeSource::Assumed);
    assert_eq!(found.domains(), [0]);
    assert_eq!(found.apic_ids(), apic_ids);
    assert!(found.cpu_nodes().iter().all(|node| *node == 0));
    assert_eq!(found.memory(), [(0, 4 * GIB, 0)]);
    assert_eq!(found.distances(), [[10]]);
}

#[test]
fn sound_tables_cost_no_warning() {
    let found = discover(&tables(&madt_of([0, 1]), &two_node_srat(), &sound_slit()), RAM);
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.cpu_nodes(), [0, 1]);
    assert_eq!(found.memory(), [(0, 2 * GIB, 0), (2 * GIB, 4 * GIB, 1)]);
    assert_eq!(found.distances(), [[10, 21], [21, 10]]);
    assert_eq!(found.topology.distance_source(), DistanceSource::Slit);
}

#[test]
fn without_any_table_there_is_one_node_and_the_boot_cpu() {
    let found = discover_from(&Tables::default(), RAM, Some(7));
    assert_eq!(
        found.sentences(),
        ["MADT: no such table; assumed the boot CPU alone", "SRAT: no such table; assumed one node"]
    );
    assert!(!found.warnings[0].is_legal());
    assert!(found.warnings[1].is_legal());
    assert_one_node(&found, &[7]);
}

#[test]
fn without_any_table_or_boot_cpu_or_ram_there_is_still_a_cpu_and_a_node() {
    let found = discover(&Tables::default(), &[]);
    assert_eq!(found.apic_ids(), [0]);
    assert_eq!(found.domains(), [0]);
    assert_eq!(found.memory(), []);
}

#[test]
fn without_srat_everything_is_one_node() {
    let madt = madt_of([0, 1, 2, 3]);
    let found = discover(&Tables { madt: Some(&madt), ..Tables::default() }, RAM);
    assert_eq!(found.only_sentence(), "SRAT: no such table; assumed one node");
    assert_one_node(&found, &[0, 1, 2, 3]);
}

#[test]
fn without_slit_nodes_are_at_the_usual_distance() {
    let (madt, srat) = (madt_of([0, 1]), two_node_srat());
    let found = discover(&Tables { madt: Some(&madt), srat: Some(&srat), ..Tables::default() }, RAM);
    assert_eq!(found.only_sentence(), "SLIT: no such table; assumed the HMAT's latencies or distance 20 between nodes");
    assert_eq!(found.distances(), [[10, 20], [20, 10]]);
    assert_eq!(found.topology.distance_source(), DistanceSource::Assumed);
}

#[test]
fn an_srat_with_a_bad_checksum_is_refused() {
    let mut srat = two_node_srat();
    srat[9] = srat[9].wrapping_add(1);
    let found = discover(&tables(&madt_of([0, 1]), &srat, &sound_slit()), RAM);
    assert_eq!(found.only_sentence(), "SRAT: bad checksum, the bytes add up to 0x01 instead of 0; assumed one node");
    assert_one_node(&found, &[0, 1]);
}

#[test]
fn a_slit_with_a_bad_checksum_is_refused() {
    let mut slit = sound_slit();
    slit[45] = 99;
    let found = discover(&tables(&madt_of([0, 1]), &two_node_srat(), &slit), RAM);
    assert_eq!(
        found.only_sentence(),
        "SLIT: bad checksum, the bytes add up to 0x4e instead of 0; assumed the HMAT's latencies or distance 20 \
         between nodes"
    );
    assert_eq!(found.distances(), [[10, 20], [20, 10]]);
}

#[test]
fn a_madt_with_a_bad_checksum_is_read_all_the_same_for_no_cpu_may_be_lost() {
    let mut madt = madt_of([0, 1]);
    madt[9] = madt[9].wrapping_sub(1);
    let found = discover(&tables(&madt, &two_node_srat(), &sound_slit()), RAM);
    assert_eq!(
        found.only_sentence(),
        "MADT: bad checksum, the bytes add up to 0xff instead of 0; read it all the same"
    );
    assert_eq!(found.apic_ids(), [0, 1]);
}

#[test]
fn a_madt_with_the_signature_of_another_leaves_the_boot_cpu() {
    let mut madt = madt_of([0, 1]);
    madt[..4].copy_from_slice(b"SRAT");
    seal(&mut madt);
    let found = discover_from(&tables(&madt, &two_node_srat(), &sound_slit()), RAM, Some(1));
    assert_eq!(
        found.only_sentence(),
        "MADT: the table begins with \"SRAT\", not its signature; assumed the boot CPU alone"
    );
    assert_eq!(found.apic_ids(), [1]);
    assert_eq!(found.cpu_nodes(), [1]);
}

#[test]
fn when_nothing_can_be_believed_there_is_one_node() {
    let (mut srat, mut slit) = (two_node_srat(), sound_slit());
    srat[60] ^= 0xff;
    slit[46] ^= 0xff;
    let mut madt = madt_of([0, 1]);
    madt[10] ^= 0xff;
    let tables = Tables { hmat: Some(&[0xff; 100]), ..tables(&madt, &srat, &slit) };
    let found = discover(&tables, RAM);
    assert_one_node(&found, &[0, 1]);
    let told: Vec<Source> = found.warnings.iter().map(|warning| warning.source).collect();
    assert_eq!(told, [Source::Madt, Source::Srat, Source::Hmat, Source::Slit], "{:#?}", found.sentences());
}

#[test]
fn a_table_with_the_signature_of_another_is_refused() {
    let mut srat = two_node_srat();
    srat[..4].copy_from_slice(b"SS\xffT");
    seal(&mut srat);
    let found = discover(&tables(&madt_of([0, 1]), &srat, &sound_slit()), RAM);
    assert_eq!(found.only_sentence(), "SRAT: the table begins with \"SS\\xffT\", not its signature; assumed one node");
    assert_one_node(&found, &[0, 1]);
}

#[test]
fn a_table_shorter_than_its_header_is_refused() {
    let srat = two_node_srat();
    for bytes in [0, 7, 8] {
        let found = discover(&tables(&madt_of([0]), &srat[..bytes], &sound_slit()), RAM);
        assert_eq!(
            found.only_sentence(),
            format!("SRAT: the table has {bytes} bytes, and 48 are the least it can have; assumed one node")
        );
        assert_one_node(&found, &[0]);
    }
}

#[test]
fn a_table_whose_length_is_below_its_fixed_part_is_refused() {
    let mut srat = two_node_srat();
    srat[4..8].copy_from_slice(&47_u32.to_le_bytes());
    let found = discover(&tables(&madt_of([0]), &srat, &sound_slit()), RAM);
    assert_eq!(
        found.only_sentence(),
        "SRAT: the table has 47 bytes, and 48 are the least it can have; assumed one node"
    );
    assert_one_node(&found, &[0]);
}

#[test]
fn a_truncated_srat_is_refused() {
    let srat = two_node_srat();
    let found = discover(&tables(&madt_of([0, 1]), &srat[..100], &sound_slit()), RAM);
    assert_eq!(
        found.only_sentence(),
        "SRAT: the table says it has 160 bytes, and only 100 are there; assumed one node"
    );
    assert_one_node(&found, &[0, 1]);
}

#[test]
fn a_truncated_madt_is_read_as_far_as_it_goes() {
    let madt = madt_of([0, 1, 2]);
    let found = discover(&tables(&madt[..60], &two_node_srat(), &sound_slit()), RAM);
    assert_eq!(
        found.only_sentence(),
        "MADT: the table says it has 68 bytes, and only 60 are there; read it all the same"
    );
    assert_eq!(found.apic_ids(), [0, 1]);
}

#[test]
fn bytes_after_the_length_in_the_header_are_no_part_of_a_table() {
    let mut madt = madt_of([0, 1]);
    madt.extend_from_slice(&[0, 8, 5, 5, 1, 0, 0, 0]);
    let found = discover(&tables(&madt, &two_node_srat(), &sound_slit()), RAM);
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.apic_ids(), [0, 1]);
}

#[test]
fn a_second_discovery_forgets_the_first() {
    let madt_before = madt().local_apic(0, 1).local_apic(1, 1).local_apic_address(0xfed0_0000).done();
    let srat_before = srat().cpu(0, 0).cpu(1, 1).memory(0, 0, 4 * GIB).memory_flags(1, 8 * GIB, GIB, 3).done();
    let slit_before = sound_slit();
    let hmat_before = hmat().matrix(0, 0, 1, &[0], &[0], &[5]).done();
    let before = Tables { hmat: Some(&hmat_before), ..tables(&madt_before, &srat_before, &slit_before) };
    let mut found = discover(&before, RAM);
    assert_eq!(found.topology.local_apic_address(), LocalApicAddress(0xfed0_0000));
    assert!(found.topology.has_legacy_pics());
    assert_eq!(found.topology.absent_memory().len(), 1);
    assert_ne!(found.topology.performance(NodeId(0), NodeId(0)), MemoryPerformance::UNKNOWN);
    found.topology.discover(&Tables::default(), &[], Some(3), &mut |_| {});
    assert_eq!(found.topology.local_apic_address(), DEFAULT_LOCAL_APIC_ADDRESS);
    assert!(!found.topology.has_legacy_pics());
    assert_eq!(found.topology.absent_memory(), []);
    assert_eq!(found.topology.performance(NodeId(0), NodeId(0)), MemoryPerformance::UNKNOWN);
    assert_eq!(found.apic_ids(), [3]);
    assert_eq!(found.memory(), []);
    assert_eq!(found.distances(), [[10]]);
    assert_eq!(found.topology.node_source(), NodeSource::Assumed);
    assert_eq!(found.topology.distance_source(), DistanceSource::Assumed);
}
