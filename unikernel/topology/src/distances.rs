//! Distances between nodes (SLIT), latency and bandwidth (HMAT), and the one from the other where there is no SLIT.

use crate::hmat::{DataType, Hmat};
use crate::report::Reporter;
use crate::slit::{LOCALITIES_POSITION, Slit};
use crate::{DistanceSource, LOCAL_DISTANCE, MAX_NODES, Problem, REMOTE_DISTANCE, Source, Tables, Topology};
use core::num::NonZeroU32;

/// Fills in distances and performance of the nodes there are.
pub(crate) fn read(topology: &mut Topology, tables: &Tables<'_>, reporter: &mut Reporter) {
    for from in 0..topology.node_count {
        topology.distances[from][..topology.node_count].fill(REMOTE_DISTANCE);
        topology.distances[from][from] = LOCAL_DISTANCE;
    }
    if let Some(hmat) = tables.hmat.and_then(|bytes| Hmat::open(bytes, reporter)) {
        read_hmat(topology, hmat, reporter);
    }
    if let Some(bytes) = tables.slit {
        if let Some(slit) = Slit::open(bytes, reporter) {
            read_slit(topology, &slit, reporter);
            return;
        }
    } else if topology.node_count > 1 {
        reporter.whole(Source::Slit, Problem::Absent);
    }
    derive_from_latency(topology);
}

fn read_slit(topology: &mut Topology, slit: &Slit<'_>, reporter: &mut Reporter) {
    let localities = localities(topology, slit, reporter);
    topology.distance_source = DistanceSource::Slit;
    for from in 0..topology.node_count {
        for to in 0..topology.node_count {
            let (row, column) = (localities[from], localities[to]);
            let Some(there) = slit.distance(row, column) else { continue };
            let back = slit.distance(column, row).unwrap_or(there);
            let (from_domain, to_domain) = (topology.proximity_domains[from], topology.proximity_domains[to]);
            let mut distance = there;
            let problem = if from == to {
                distance = LOCAL_DISTANCE;
                (there != LOCAL_DISTANCE)
                    .then_some(Problem::LocalDistance { proximity_domain: from_domain, distance: there })
            } else if there < LOCAL_DISTANCE {
                distance = if back < LOCAL_DISTANCE { REMOTE_DISTANCE } else { back };
                Some(Problem::LowDistance { from: from_domain, to: to_domain, distance: there, assumed: distance })
            } else {
                // Both ways are seen; one case of asymmetry is told once.
                (from < to && back >= LOCAL_DISTANCE && there != back).then_some(Problem::AsymmetricDistance {
                    from: from_domain,
                    to: to_domain,
                    there,
                    back,
                })
            };
            if let Some(problem) = problem {
                reporter.at(Source::Slit, slit.position(row, column), problem);
            }
            topology.distances[from][to] = distance;
        }
    }
}

/// The row and column of each node: its proximity domain, unless the matrix can only be meant otherwise.
fn localities(topology: &Topology, slit: &Slit<'_>, reporter: &mut Reporter) -> [usize; MAX_NODES] {
    let mut localities = [0; MAX_NODES];
    let domains = &topology.proximity_domains[..topology.node_count];
    let beyond = |domain: &&u32| **domain as usize >= slit.localities();
    let rows_are_nodes = slit.localities() == topology.node_count;
    for (node, domain) in domains.iter().enumerate() {
        localities[node] = *domain as usize;
    }
    for domain in domains.iter().filter(beyond) {
        let problem = Problem::DomainBeyondMatrix {
            localities: slit.localities() as u64,
            proximity_domain: *domain,
            rows_are_nodes,
        };
        reporter.at(Source::Slit, LOCALITIES_POSITION, problem);
        if rows_are_nodes {
            for (node, locality) in localities[..topology.node_count].iter_mut().enumerate() {
                *locality = node;
            }
            break;
        }
    }
    localities
}

fn read_hmat(topology: &mut Topology, hmat: Hmat<'_>, reporter: &mut Reporter) {
    let mut matrices = hmat.matrices();
    while let Some(matrix) = matrices.next(reporter) {
        if matrix.data_type.is_access() {
            read_matrix(topology, &matrix, reporter);
        }
    }
    // The same once more for what is more precise; the structures were judged above.
    let mut quiet = |_| {};
    let mut judged = Reporter::new(&mut quiet);
    let mut matrices = hmat.matrices();
    while let Some(matrix) = matrices.next(&mut judged) {
        if !matrix.data_type.is_access() {
            read_matrix(topology, &matrix, reporter);
        }
    }
}

fn read_matrix(topology: &mut Topology, matrix: &crate::hmat::Matrix<'_>, reporter: &mut Reporter) {
    for (from, to, value) in matrix.values() {
        // Initiators that are no CPUs, and memory that is not there, have domains without a node.
        let (Some(from), Some(to)) = (topology.node_of_domain(from), topology.node_of_domain(to)) else { continue };
        let value = match value {
            Ok(value) => Some(value),
            Err(problem) => {
                reporter.at(Source::Hmat, matrix.position, problem);
                continue;
            }
        };
        let known = &mut topology.performance[from.index()][to.index()];
        match matrix.data_type {
            DataType::AccessLatency => (known.read_latency_ps, known.write_latency_ps) = (value, value),
            DataType::ReadLatency => known.read_latency_ps = value,
            DataType::WriteLatency => known.write_latency_ps = value,
            DataType::AccessBandwidth => (known.read_bandwidth_mbps, known.write_bandwidth_mbps) = (value, value),
            DataType::ReadBandwidth => known.read_bandwidth_mbps = value,
            DataType::WriteBandwidth => known.write_bandwidth_mbps = value,
        }
    }
}

/// Without a SLIT, a node is as much farther than a CPU's own as its latency is longer. Where only one of two nodes has
/// CPUs, the way there also serves as the way back.
fn derive_from_latency(topology: &mut Topology) {
    for from in 0..topology.node_count {
        for to in 0..topology.node_count {
            let (there, back) = (relative_latency(topology, from, to), relative_latency(topology, to, from));
            let Some(distance) = there.or(back).filter(|_| from != to) else { continue };
            topology.distances[from][to] = distance;
            topology.distance_source = DistanceSource::Hmat;
        }
    }
}

fn relative_latency(topology: &Topology, from: usize, to: usize) -> Option<u8> {
    let latency = |to: usize| topology.performance[from][to].read_latency_ps.map(NonZeroU32::get).map(u64::from);
    let (local, remote) = (latency(from)?, latency(to)?);
    let distance = (remote * u64::from(LOCAL_DISTANCE) + local / 2) / local;
    // 255 means unreachable in a SLIT.
    Some(distance.clamp(LOCAL_DISTANCE.into(), 254) as u8)
}
