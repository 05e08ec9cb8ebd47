//! Every range, alignment, boundary and size against a model that looks at every frame.

#[path = "../support/cases.rs"]
mod cases;

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use quarry_memory::hosted::Hosted;
use quarry_memory::{ContigRequest, Gfp, MallocFlags, NodeId, NodeMask, Order, Pfn, Topology};

use crate::support::{MIB, TYPE, TestService, assert_books_balance};

/// The seed of the cases: the same in every run.
const SEED: [u8; 32] = *b"contiguous runs against a model!";

/// Frames of the machine: two nodes, the first with DMA memory and some above, the second with neither.
const FRAMES: u32 = (40 * MIB / 4096) as u32;
const NODE_0: u32 = (18 * MIB / 4096) as u32;
const DMA: u32 = (16 * MIB / 4096) as u32;

/// What the service must know of each frame: who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    /// Never handed out: the service's own.
    Own,
    Free,
    Page,
    Run,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Frees all pages of a range.
    FreePages {
        start: u32,
        frames: u32,
    },
    /// Frees every `step`th page of a range.
    Thin {
        start: u32,
        frames: u32,
        step: usize,
    },
    /// Takes single pages of the free ones.
    Fill {
        pages: usize,
    },
    Allocate {
        request: ContigRequest,
        reserves: bool,
    },
    /// Frees one of the runs.
    FreeRun {
        which: usize,
    },
}

struct Model {
    service: &'static TestService,
    frames: Vec<Frame>,
    runs: BTreeMap<u32, usize>,
}

impl Model {
    /// A machine all of whose frames are handed out, one by one.
    fn new() -> Self {
        let topology = Topology::builder().node(18 * MIB, 1).node(22 * MIB, 1).build().expect("a machine");
        let service = Hosted::leak(topology).expect("there is address space").service();
        let mut model = Self { service, frames: vec![Frame::Own; FRAMES as usize], runs: BTreeMap::new() };
        model.fill(usize::MAX);
        model
    }

    fn fill(&mut self, pages: usize) {
        let _all = self.service.memalloc_noreclaim();
        for _ in 0..pages {
            let Some(page) = self.service.alloc_pages(Gfp::NOWAIT | Gfp::NOWARN, Order::ZERO) else { break };
            self.frames[page.index()] = Frame::Page;
        }
    }

    fn free_page(&mut self, frame: u32) {
        if self.frames.get(frame as usize) == Some(&Frame::Page) {
            self.service.__free_pages(Pfn(frame), Order::ZERO);
            self.frames[frame as usize] = Frame::Free;
        }
    }

    /// The zones, as ranges of frames, each with its node, and how high a request's range must reach to go there.
    fn zones() -> [(u32, u32, NodeId); 3] {
        [(0, DMA, NodeId(0)), (DMA, NODE_0, NodeId(0)), (NODE_0, FRAMES, NodeId(1))]
    }

    /// Whether a run may begin at a frame, as the manual says it.
    fn is_allowed(request: &ContigRequest, start: u32) -> bool {
        let first = u64::from(start) * 4096;
        let end = first + request.size.next_multiple_of(4096) as u64;
        let boundary = request.boundary as u64;
        first >= request.low
            && end - 1 <= request.high
            && first.is_multiple_of(request.alignment as u64)
            && (boundary == 0 || first / boundary == (end - 1) / boundary)
    }

    /// Whether there is a run of free frames in one zone that meets a request.
    fn is_possible(&self, request: &ContigRequest, reserves: bool) -> bool {
        let length = request.size.div_ceil(4096) as u32;
        let highest = request.high.min(u64::from(FRAMES) * 4096 - 1) / 4096;
        Self::zones().into_iter().zip(self.service.zones()).any(|((start, end, node), info)| {
            let highest = if request.high >= 4 << 30 { 2 } else { usize::from(highest >= u64::from(DMA)) };
            let floor = if reserves { 0 } else { info.watermarks.min + info.lowmem_reserve[highest] };
            assert_eq!(info.node, node);
            let mut free = 0;
            let is_run =
                |start: u32| self.frames[start as usize..][..length as usize].iter().all(|&frame| frame == Frame::Free);
            (start..end).for_each(|frame| free += u32::from(self.frames[frame as usize] == Frame::Free));
            request.nodes.contains(node)
                && free >= floor + length
                && (start..=end.saturating_sub(length).max(start))
                    .any(|first| first + length <= end && Self::is_allowed(request, first) && is_run(first))
        })
    }

    fn allocate(&mut self, request: &ContigRequest, reserves: bool) {
        let _scope = reserves.then(|| self.service.memalloc_noreclaim());
        let possible = self.is_possible(request, reserves);
        match self.service.contig_block(&TYPE, request) {
            Ok(block) => {
                let start = (block.physical() / 4096) as u32;
                assert!(possible && Self::is_allowed(request, start), "{request:?} got {start:#x}");
                let length = request.size.div_ceil(4096);
                for frame in &mut self.frames[start as usize..][..length] {
                    assert_eq!(*frame, Frame::Free, "{request:?} got {start:#x}");
                    *frame = Frame::Run;
                }
                let node = Self::zones().into_iter().find(|zone| start < zone.1).expect("it is in a zone").2;
                assert!(request.nodes.contains(node));
                self.runs.insert(start, request.size);
                let _ = block.into_raw();
            }
            Err(error) => assert!(!possible, "{request:?}: {error}, but there is such a run"),
        }
    }

    fn free_run(&mut self, start: u32) {
        let size = self.runs.remove(&start).expect("it is one of them");
        // SAFETY: nobody uses it any more.
        unsafe { self.service.contigfree(self.service.page_address(Pfn(start)), size, &TYPE) };
        self.frames[start as usize..][..size.div_ceil(4096)].fill(Frame::Free);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::FreePages { start, frames } => (start..start + frames).for_each(|frame| self.free_page(frame)),
            Step::Thin { start, frames, step } => {
                (start..start + frames).step_by(step).for_each(|frame| self.free_page(frame));
            }
            Step::Fill { pages } => self.fill(pages),
            Step::Allocate { request, reserves } => self.allocate(&request, reserves),
            Step::FreeRun { which } => {
                let start = self.runs.keys().nth(which % self.runs.len().max(1)).copied();
                if let Some(start) = start {
                    self.free_run(start);
                }
            }
        }
        // What CPUs cache, the model cannot know.
        self.service.drain_local();
        self.service.validate().unwrap_or_else(|broken| panic!("{broken}"));
    }

    fn end(mut self) {
        (0..FRAMES).for_each(|frame| self.free_page(frame));
        let runs: Vec<_> = self.runs.keys().copied().collect();
        for start in runs {
            self.free_run(start);
        }
        self.service.drain_local();
        assert_books_balance(self.service, 0);
    }
}

fn request() -> impl Strategy<Value = ContigRequest> {
    let size = prop_oneof![1usize..5 * 4096, 1usize..600 * 4096, 1usize..3000 * 4096, Just(2 << 20)];
    let address = 0..u64::from(FRAMES + 10) * 4096;
    let range = prop_oneof![
        3 => Just((0, u64::MAX)),
        3 => (address.clone(), address.clone()).prop_map(|(one, other)| (one.min(other), one.max(other))),
        1 => (address.clone(), 1u64..64 * 4096).prop_map(|(low, bytes)| (low, low + bytes)),
        1 => address.prop_map(|high| (0, high)),
    ];
    let alignment = prop_oneof![2 => Just(0u32), 2 => 12u32..16, 2 => 16u32..24];
    let boundary = prop_oneof![2 => Just(0usize), 1 => (12u32..25).prop_map(|bits| 1 << bits)];
    let nodes = prop_oneof![4 => Just(NodeMask::ALL), 1 => (0u64..4).prop_map(NodeMask)];
    let flags = prop_oneof![Just(MallocFlags::NOWAIT), Just(MallocFlags::NOWAIT | MallocFlags::ZERO)];
    (size, range, alignment, boundary, nodes, flags).prop_map(
        |(size, (low, high), alignment, boundary, nodes, flags)| ContigRequest {
            size,
            flags,
            low,
            high,
            alignment: 1 << alignment,
            boundary,
            nodes,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let start = 0..FRAMES;
    prop_oneof![
        2 => (start.clone(), 1u32..4000).prop_map(|(start, frames)| Step::FreePages { start, frames }),
        2 => (start, 1u32..4000, 2usize..9).prop_map(|(start, frames, step)| Step::Thin { start, frames, step }),
        1 => (1usize..2000).prop_map(|pages| Step::Fill { pages }),
        8 => (request(), any::<bool>()).prop_map(|(request, reserves)| Step::Allocate { request, reserves }),
        2 => any::<usize>().prop_map(|which| Step::FreeRun { which }),
    ]
}

#[test]
fn a_run_is_found_exactly_when_a_look_at_every_frame_finds_one() {
    println!("seed: {}", String::from_utf8_lossy(&SEED));
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &SEED);
    let mut runner = TestRunner::new_with_rng(cases::cases(24), rng);
    let steps = prop::collection::vec(step(), 1..60);
    let result = runner.run(&steps, |steps| {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
        }
        model.end();
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}
