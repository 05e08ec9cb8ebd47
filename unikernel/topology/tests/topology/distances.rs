//! Distances between nodes.

use crate::support::{Found, GIB, discover};
use crate::tables::{madt_of, seal, slit, slit_of, srat};
use quarry_topology::{DistanceSource, NodeId, Source, Tables};

/// Discovers on a machine with a CPU and 1 GiB in each domain; keeps what is said about the SLIT.
fn found(domains: &[u32], slit: &[u8]) -> Found {
    let mut writer = srat();
    for (index, domain) in domains.iter().enumerate() {
        let start = index as u64 * GIB;
        writer = writer.cpu(*domain, index as u32).memory(*domain, start, start + GIB);
    }
    let (madt, srat) = (madt_of(0..domains.len() as u32), writer.done());
    let tables = Tables { madt: Some(&madt), srat: Some(&srat), slit: Some(slit), hmat: None };
    let mut found = discover(&tables, &[(0, domains.len() as u64 * GIB)]);
    assert!(found.warnings.iter().all(|warning| warning.source == Source::Slit), "{:#?}", found.sentences());
    found.warnings.retain(|warning| warning.source == Source::Slit);
    found
}

#[test]
fn rows_and_columns_are_proximity_domains() {
    // Domain 1 is not a node; its row and column mean nothing.
    let found = found(&[0, 2, 3], &slit_of([[10, 99, 12, 13], [1, 2, 3, 4], [12, 5, 10, 32], [13, 7, 32, 10]]));
    assert_eq!(found.distances(), [[10, 12, 13], [12, 10, 32], [13, 32, 10]]);
    assert_eq!(found.sentences(), [""; 0]);
    assert_eq!(found.topology.distance_source(), DistanceSource::Slit);
}

#[test]
fn unreachable_and_as_near_as_local_are_kept_as_told() {
    let found = found(&[0, 1], &slit_of([[10, 255], [255, 10]]));
    assert_eq!(found.distances(), [[10, 255], [255, 10]]);
    assert_eq!(found.sentences(), [""; 0]);
}

#[test]
fn asymmetric_distances_are_kept_as_told_and_cost_one_warning_a_pair() {
    let found = found(&[0, 1, 2], &slit_of([[10, 21, 31], [21, 10, 40], [32, 40, 10]]));
    assert_eq!(found.distances(), [[10, 21, 31], [21, 10, 40], [32, 40, 10]]);
    assert_eq!(
        found.only_sentence(),
        "SLIT entry 2 at offset 0x2e: proximity domain 0 is at distance 31 from 2 but 32 the other way; assumed each \
         as told"
    );
}

#[test]
fn a_distance_below_ten_is_that_of_the_way_back() {
    let found = found(&[0, 1], &slit_of([[10, 33], [9, 10]]));
    assert_eq!(found.distances(), [[10, 33], [33, 10]]);
    assert_eq!(
        found.only_sentence(),
        "SLIT entry 2 at offset 0x2e: distance 9 from proximity domain 1 to 0 is below 10; assumed 33"
    );
}

#[test]
fn distances_below_ten_both_ways_are_the_usual_one() {
    let found = found(&[0, 1], &slit_of([[10, 0], [1, 10]]));
    assert_eq!(found.distances(), [[10, 20], [20, 10]]);
    assert_eq!(
        found.sentences(),
        [
            "SLIT entry 1 at offset 0x2d: distance 0 from proximity domain 0 to 1 is below 10; assumed 20",
            "SLIT entry 2 at offset 0x2e: distance 1 from proximity domain 1 to 0 is below 10; assumed 20",
        ]
    );
}

#[test]
fn a_node_is_at_distance_ten_from_itself_whatever_it_says() {
    let found = found(&[0, 1], &slit_of([[10, 20], [20, 20]]));
    assert_eq!(found.distances(), [[10, 20], [20, 10]]);
    assert_eq!(
        found.only_sentence(),
        "SLIT entry 3 at offset 0x2f: proximity domain 1 is at distance 20 from itself; assumed 10"
    );
}

#[test]
fn a_matrix_larger_than_its_table_is_refused() {
    for localities in [3, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        let found = found(&[0, 1], &slit(localities, &[10, 50, 50, 10]));
        assert_eq!(
            found.only_sentence(),
            format!(
                "SLIT entry 0 at offset 0x24: a matrix of {localities} localities does not fit in the 4 bytes there \
                 are for it; assumed the HMAT's latencies or distance 20 between nodes"
            )
        );
        assert_eq!(found.distances(), [[10, 20], [20, 10]]);
        assert_eq!(found.topology.distance_source(), DistanceSource::Assumed);
    }
}

#[test]
fn a_matrix_of_nothing_is_refused() {
    let found = found(&[0, 1], &slit(0, &[]));
    assert_eq!(
        found.only_sentence(),
        "SLIT entry 0 at offset 0x24: a matrix of no localities tells nothing; assumed the HMAT's latencies or \
         distance 20 between nodes"
    );
    assert_eq!(found.distances(), [[10, 20], [20, 10]]);
}

#[test]
fn a_slit_without_its_number_of_localities_is_refused() {
    let mut slit = slit_of([[10, 50], [50, 10]]);
    slit.truncate(43);
    slit[4] = 43;
    seal(&mut slit);
    let found = found(&[0, 1], &slit);
    assert_eq!(
        found.only_sentence(),
        "SLIT: the table has 43 bytes, and 44 are the least it can have; assumed the HMAT's latencies or distance 20 \
         between nodes"
    );
    assert_eq!(found.distances(), [[10, 20], [20, 10]]);
}

#[test]
fn bytes_after_the_matrix_are_ignored() {
    let found = found(&[0, 1], &slit(2, &[10, 50, 50, 10, 7, 7]));
    assert_eq!(
        found.only_sentence(),
        "SLIT entry 0 at offset 0x24: the table is 2 bytes longer than its matrix of 2 localities; ignored the bytes \
         after it"
    );
    assert_eq!(found.distances(), [[10, 50], [50, 10]]);
}

#[test]
fn a_domain_beyond_the_matrix_is_at_the_usual_distance() {
    let found = found(&[0, 1, 7], &slit_of([[10, 50], [50, 10]]));
    assert_eq!(
        found.only_sentence(),
        "SLIT entry 0 at offset 0x24: a matrix of 2 localities has none for proximity domain 7; assumed distance 20 \
         from and to it"
    );
    assert_eq!(found.distances(), [[10, 50, 20], [50, 10, 20], [20, 20, 10]]);
}

#[test]
fn a_column_beyond_the_matrix_is_not_the_next_row() {
    let found = found(&[0, 4], &slit_of([[10, 50, 51], [52, 10, 53], [54, 55, 10]]));
    assert_eq!(
        found.only_sentence(),
        "SLIT entry 0 at offset 0x24: a matrix of 3 localities has none for proximity domain 4; assumed distance 20 \
         from and to it"
    );
    assert_eq!(found.distances(), [[10, 20], [20, 10]]);
}

#[test]
fn a_matrix_with_as_many_rows_as_nodes_is_about_those_nodes() {
    let found = found(&[4, 6], &slit_of([[10, 50], [50, 10]]));
    assert_eq!(
        found.only_sentence(),
        "SLIT entry 0 at offset 0x24: a matrix of 2 localities has none for proximity domain 4, but as many as there \
         are nodes; assumed that its rows are the nodes in ascending order"
    );
    assert_eq!(found.distances(), [[10, 50], [50, 10]]);
}

#[test]
fn nearest_is_by_distance_then_round_from_oneself() {
    let found =
        found(&[0, 1, 2, 3], &slit_of([[10, 30, 20, 20], [20, 10, 20, 20], [40, 30, 10, 20], [10, 10, 10, 10]]));
    let order = |node| found.topology.nearest(NodeId(node)).map(|node| node.0).collect::<Vec<u8>>();
    assert_eq!(order(0), [0, 2, 3, 1]);
    assert_eq!(order(1), [1, 2, 3, 0]);
    assert_eq!(order(2), [2, 3, 1, 0]);
    assert_eq!(order(3), [3, 0, 1, 2], "oneself comes first even if others are told to be as near");
    assert_eq!(found.topology.nearest(NodeId(0)).len(), 4);
}
