//! Random machines: up to eight nodes, some without memory, some without CPUs, in pieces below and above 4 GiB.

use proptest::collection::vec;
use proptest::prelude::*;
use quarry_memory::{NodeId, PhysicalRange, Topology};

const PAGE: u64 = 4096;
const FOUR_GIB: u64 = 4 << 30;

/// A piece of memory and the hole in front of it, in pages.
#[derive(Clone, Copy, Debug)]
struct Piece {
    node: usize,
    pages: u64,
    hole: u64,
    above_4_gib: bool,
}

fn piece() -> impl Strategy<Value = Piece> {
    // Some too small to be of use, most of a few MiB.
    let pages = prop_oneof![1 => 1u64..64, 6 => 512u64..3000];
    let hole = prop_oneof![2 => Just(0u64), 1 => 1u64..3000];
    (0usize..8, pages, hole, prop::bool::weighted(0.4)).prop_map(|(node, pages, hole, above_4_gib)| Piece {
        node,
        pages,
        hole,
        above_4_gib,
    })
}

/// What a [`Topology`] is built from: small, where that is large.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    cpus: Vec<usize>,
    pieces: Vec<Piece>,
    distances: Vec<u8>,
}

/// Any machine that has a CPU and memory worth the name.
pub(crate) fn machine() -> impl Strategy<Value = Machine> {
    let distances = vec(prop_oneof![Just(20u8), 11u8..60], 28);
    (vec(0usize..=3, 1..=8), vec(piece(), 1..=10), distances).prop_map(|(mut cpus, mut pieces, distances)| {
        let nodes = cpus.len();
        pieces[0].pages += 1024;
        for piece in &mut pieces {
            piece.node %= nodes;
        }
        // A node with neither CPUs nor memory is none, and some node must have a CPU.
        for (node, count) in cpus.iter_mut().enumerate() {
            if node == 0 || pieces.iter().all(|piece| piece.node != node) {
                *count = (*count).max(1);
            }
        }
        Machine { cpus, pieces, distances }
    })
}

impl Machine {
    pub(crate) fn build(&self) -> Topology {
        let mut builder = Topology::builder();
        for &cpus in &self.cpus {
            builder = builder.node(0, cpus);
        }
        let mut next = [0, FOUR_GIB];
        for piece in &self.pieces {
            let next = &mut next[usize::from(piece.above_4_gib)];
            let start = *next + piece.hole * PAGE;
            *next = start + piece.pages * PAGE;
            builder = builder.range(NodeId(piece.node as u8), PhysicalRange::new(start, *next));
        }
        let pairs = (0..self.cpus.len()).flat_map(|from| (0..from).map(move |to| (from, to)));
        for ((from, to), &distance) in pairs.zip(&self.distances) {
            builder = builder.distance(NodeId(from as u8), NodeId(to as u8), distance);
        }
        builder.build().expect("the description is sound")
    }
}
