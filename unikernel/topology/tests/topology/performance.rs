//! Latency and bandwidth, and distances from them.

use crate::support::{Found, GIB, discover};
use crate::tables::{TableWriter, hmat, hmat_of_revision, madt_of, slit_of, srat};
use core::num::NonZeroU32;
use quarry_topology::{DistanceSource, MemoryPerformance, NodeId, Source, Tables};

const READ_LATENCY: u8 = 1;
const WRITE_LATENCY: u8 = 2;
const READ_BANDWIDTH: u8 = 4;
const WRITE_BANDWIDTH: u8 = 5;

/// Discovers on a machine with CPUs in domains 0 and 1 and memory there and in domain 2.
fn found_with(hmat: &[u8], slit: Option<&[u8]>) -> Found {
    let srat = srat().cpu(0, 0).cpu(1, 1).memory(0, 0, GIB).memory(1, GIB, 2 * GIB).memory(2, 2 * GIB, 3 * GIB).done();
    let madt = madt_of([0, 1]);
    let tables = Tables { madt: Some(&madt), srat: Some(&srat), slit, hmat: Some(hmat) };
    let mut found = discover(&tables, &[(0, 3 * GIB)]);
    found.warnings.retain(|warning| warning.source == Source::Hmat);
    found
}

fn found(hmat: TableWriter) -> Found {
    found_with(&hmat.done(), Some(&slit_of([[10, 20, 30], [20, 10, 30], [30, 30, 10]])))
}

fn told(read_latency: u32, write_latency: u32, read_bandwidth: u32, write_bandwidth: u32) -> MemoryPerformance {
    MemoryPerformance {
        read_latency_ps: NonZeroU32::new(read_latency),
        write_latency_ps: NonZeroU32::new(write_latency),
        read_bandwidth_mbps: NonZeroU32::new(read_bandwidth),
        write_bandwidth_mbps: NonZeroU32::new(write_bandwidth),
    }
}

#[test]
fn latency_and_bandwidth_are_told_for_each_initiator_and_target() {
    let found = found(hmat().matrix(0, 0, 1000, &[0, 1], &[0, 1, 2], &[80, 140, 300, 140, 81, 301]).matrix(
        0,
        3,
        100,
        &[0],
        &[0, 2],
        &[2000, 50],
    ));
    let performance = |from, to| found.topology.performance(NodeId(from), NodeId(to));
    assert_eq!(performance(0, 0), told(80_000, 80_000, 200_000, 200_000));
    assert_eq!(performance(0, 1), told(140_000, 140_000, 0, 0));
    assert_eq!(performance(0, 2), told(300_000, 300_000, 5000, 5000));
    assert_eq!(performance(1, 2), told(301_000, 301_000, 0, 0));
    assert_eq!(performance(2, 0), MemoryPerformance::UNKNOWN);
    assert_eq!(found.sentences(), [""; 0]);
    insta::assert_snapshot!(format!("{:#}", found.topology), @r"
    available: 3 nodes (0-2)
    nodes from: SRAT
    distances from: SLIT
    local APICs at: 0xfee00000
    node 0 cpus: 0
    node 0 size: 1024 MB
    node 0 proximity domain: 0
    node 0 APIC ids: 0
    node 0 memory: [0x0-0x3fffffff]
    node 1 cpus: 1
    node 1 size: 1024 MB
    node 1 proximity domain: 1
    node 1 APIC ids: 1
    node 1 memory: [0x40000000-0x7fffffff]
    node 2 cpus:
    node 2 size: 1024 MB
    node 2 proximity domain: 2
    node 2 APIC ids:
    node 2 memory: [0x80000000-0xbfffffff]
    node distances:
    node   0   1   2
      0:  10  20  30
      1:  20  10  30
      2:  30  30  10
    node 0 to node 0: read latency 80000 ps, write latency 80000 ps, read bandwidth 200000 MB/s, write bandwidth 200000 MB/s
    node 0 to node 1: read latency 140000 ps, write latency 140000 ps
    node 0 to node 2: read latency 300000 ps, write latency 300000 ps, read bandwidth 5000 MB/s, write bandwidth 5000 MB/s
    node 1 to node 0: read latency 140000 ps, write latency 140000 ps
    node 1 to node 1: read latency 81000 ps, write latency 81000 ps
    node 1 to node 2: read latency 301000 ps, write latency 301000 ps
    ");
}

#[test]
fn read_and_write_alone_have_the_last_word_over_access_in_any_order() {
    let found = found(
        hmat()
            .matrix(0, READ_LATENCY, 1, &[0], &[0], &[70])
            .matrix(0, READ_BANDWIDTH, 1, &[0], &[0], &[900])
            .matrix(0, 0, 1, &[0], &[0], &[90])
            .matrix(0, 3, 1, &[0], &[0], &[500])
            .matrix(0, WRITE_LATENCY, 1, &[0], &[1], &[95])
            .matrix(0, WRITE_BANDWIDTH, 1, &[0], &[1], &[400]),
    );
    assert_eq!(found.topology.performance(NodeId(0), NodeId(0)), told(70, 90, 900, 500));
    assert_eq!(found.topology.performance(NodeId(0), NodeId(1)), told(0, 95, 0, 400));
}

#[test]
fn not_provided_and_unreachable_are_unknown() {
    let found = found(hmat().matrix(0, 0, 1, &[0], &[0, 1, 2], &[0, 0xffff, 5]));
    assert_eq!(found.topology.performance(NodeId(0), NodeId(0)), MemoryPerformance::UNKNOWN);
    assert_eq!(found.topology.performance(NodeId(0), NodeId(1)), MemoryPerformance::UNKNOWN);
    assert_eq!(found.topology.performance(NodeId(0), NodeId(2)), told(5, 5, 0, 0));
    assert_eq!(found.sentences(), [""; 0]);
}

#[test]
fn caches_other_structures_and_domains_without_a_node_are_passed_over() {
    let found = found(
        hmat()
            .raw(&[0, 0, 0, 0, 40, 0, 0, 0])
            .raw(&[7; 32])
            .matrix(1, 0, 1, &[0], &[0], &[5])
            .raw(&[2, 0, 0, 0, 12, 0, 0, 0, 1, 2, 3, 4])
            .matrix(0, 0, 1, &[0, 9], &[9, 0], &[1, 2, 3, 4]),
    );
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.topology.performance(NodeId(0), NodeId(0)), told(2, 2, 0, 0));
}

#[test]
fn revisions_before_2_count_in_tenths() {
    for revision in [0, 1] {
        let table = hmat_of_revision(revision);
        let found = found(table.matrix(0, 0, 100, &[0], &[0, 1], &[8, 14]).matrix(0, 3, 100, &[0], &[0], &[2000]));
        assert_eq!(found.topology.performance(NodeId(0), NodeId(0)), told(80_000, 80_000, 20_000, 20_000));
        assert_eq!(found.topology.performance(NodeId(0), NodeId(1)), told(140_000, 140_000, 0, 0));
    }
}

#[test]
fn a_structure_too_short_for_its_matrix_is_ignored() {
    let table = hmat();
    let begin = table.offset();
    let found = found(
        table
            .matrix(0, 0, 1, &[0], &[0], &[5])
            .patch(begin + 12, &u32::MAX.to_le_bytes())
            .patch(begin + 16, &u32::MAX.to_le_bytes())
            .raw(&[1, 0, 0, 0, 8, 0, 0, 0])
            .matrix(0, 0, 1, &[0], &[1], &[6]),
    );
    assert_eq!(
        found.sentences(),
        [
            "HMAT entry 0 at offset 0x28: a structure of 42 bytes cannot hold 4294967295 initiators and 4294967295 \
             targets; ignored it",
            "HMAT entry 1 at offset 0x52: a structure of 8 bytes cannot hold 0 initiators and 0 targets; ignored it",
        ]
    );
    assert_eq!(found.topology.performance(NodeId(0), NodeId(0)), MemoryPerformance::UNKNOWN);
    assert_eq!(found.topology.performance(NodeId(0), NodeId(1)), told(6, 6, 0, 0));
}

#[test]
fn a_matrix_of_no_initiators_or_no_targets_says_nothing() {
    let found = found(hmat().matrix(0, 0, 1, &[], &[0, 1], &[]).matrix(0, 0, 1, &[0, 1], &[], &[]));
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.topology.performance(NodeId(0), NodeId(0)), MemoryPerformance::UNKNOWN);
}

#[test]
fn a_structure_without_a_length_ends_the_table() {
    for (length, rest) in [(0_u32, 8_u32), (7, 8), (9, 8), (u32::MAX, 8)] {
        let found = found(hmat().matrix(0, 0, 1, &[0], &[0], &[5]).raw(&[1, 0, 0, 0]).raw(&length.to_le_bytes()));
        assert_eq!(
            found.only_sentence(),
            format!(
                "HMAT entry 1 at offset 0x52: an entry of type 1 cannot have {length} bytes here; ignored the rest of \
                 the table, {rest} bytes"
            )
        );
        assert_eq!(found.topology.performance(NodeId(0), NodeId(0)), told(5, 5, 0, 0));
    }
}

#[test]
fn an_undefined_data_type_is_ignored() {
    let found = found(hmat().matrix(0, 6, 1, &[0], &[0], &[5]));
    assert_eq!(
        found.only_sentence(),
        "HMAT entry 0 at offset 0x28: data type 6 is not defined; ignored this structure"
    );
    assert_eq!(found.topology.performance(NodeId(0), NodeId(0)), MemoryPerformance::UNKNOWN);
}

#[test]
fn values_without_a_sensible_size_are_unknown() {
    let found =
        found(hmat().matrix(0, 0, u64::MAX, &[0], &[0], &[2]).matrix(0, READ_BANDWIDTH, 0, &[1], &[2], &[7]).matrix(
            0,
            WRITE_LATENCY,
            1 << 20,
            &[0],
            &[0],
            &[0xfffe],
        ));
    assert_eq!(
        found.sentences(),
        [
            "HMAT entry 0 at offset 0x28: 2 units of 18446744073709551615 from proximity domain 0 to 0 is no sensible \
             latency or bandwidth; assumed it unknown",
            "HMAT entry 1 at offset 0x52: 7 units of 0 from proximity domain 1 to 2 is no sensible latency or \
             bandwidth; assumed it unknown",
            "HMAT entry 2 at offset 0x7c: 65534 units of 1048576 from proximity domain 0 to 0 is no sensible latency \
             or bandwidth; assumed it unknown",
        ]
    );
    assert_eq!(found.topology.performance(NodeId(0), NodeId(0)), MemoryPerformance::UNKNOWN);
}

#[test]
fn a_bad_checksum_refuses_the_table() {
    let mut bytes = hmat().matrix(0, 0, 1, &[0], &[0], &[5]).done();
    bytes[9] = bytes[9].wrapping_add(2);
    let found = found_with(&bytes, None);
    assert_eq!(
        found.only_sentence(),
        "HMAT: bad checksum, the bytes add up to 0x02 instead of 0; assumed nothing about latency and bandwidth"
    );
    assert_eq!(found.topology.performance(NodeId(0), NodeId(0)), MemoryPerformance::UNKNOWN);
    assert_eq!(found.topology.distance_source(), DistanceSource::Assumed);
}

#[test]
fn without_a_slit_distances_come_from_latencies() {
    let hmat = hmat().matrix(0, 0, 1000, &[0, 1], &[0, 1, 2], &[80, 168, 300, 160, 80, 4000]).done();
    let found = found_with(&hmat, None);
    assert_eq!(found.topology.distance_source(), DistanceSource::Hmat);
    // Node 2 has no CPUs, so no latency from there is told: the way there serves as the way back.
    assert_eq!(found.distances(), [[10, 21, 38], [20, 10, 254], [38, 254, 10]]);
}

#[test]
fn the_latency_of_local_memory_alone_tells_no_distance() {
    let found = found_with(&hmat().matrix(0, 0, 1000, &[0], &[0], &[80]).done(), None);
    assert_eq!(found.topology.distance_source(), DistanceSource::Assumed);
    assert_eq!(found.distances(), [[10, 20, 20], [20, 10, 20], [20, 20, 10]]);
}

#[test]
fn a_slit_has_the_last_word_over_latencies() {
    let found = found(hmat().matrix(0, 0, 1000, &[0, 1], &[0, 1], &[80, 168, 160, 80]));
    assert_eq!(found.topology.distance_source(), DistanceSource::Slit);
    assert_eq!(found.distances()[0], [10, 20, 30]);
}
