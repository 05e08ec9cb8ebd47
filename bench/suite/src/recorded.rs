//! [`Recorded`]: an allocator whose every call is an event of a [`Trace`]; and [`record`], which runs workloads over it.
//! [`perform`] runs them where whoever wants to know what they do listens elsewhere.
//!
//! Theory: one lock guards the trace. An allocation is written down when it has come back, a free before it is made, so
//! of two calls on one object, or of two objects at one address, the one that happened first is written first, and the
//! trace has an order in which all could have happened. Nothing is allocated under the lock. Handlers take it too: the
//! suite raises them from threads that do not hold it.
//!
//! Nothing here is timed: the lock makes CPUs take turns.

use alloc::sync::Arc;

use quarry_topology::NodeId;
use quarry_trace::{Action, Cpu, Event, Flags, Node, ObjectId, Request, Trace};
use spin::Mutex;

use crate::ballast::Ballast;
use crate::measure::{Length, Run, Sampling};
use crate::platform::Platform;
use crate::settings::Settings;
use crate::subject::{Feature, Subject};
use crate::suite::plan;
use crate::workloads::{self, trace_of};

/// How much is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extract {
    /// Operations of each CPU in each sample of a case, where the workload does not decide.
    pub operations: u64,
    /// Events there is room for. What comes then is left out.
    pub events: usize,
}

impl Default for Extract {
    fn default() -> Self {
        Self { operations: 1000, events: 100_000 }
    }
}

/// What was recorded.
#[derive(Clone, Debug)]
pub struct Recording {
    /// What there was room for.
    pub trace: Trace,
    /// Events there was no room for.
    pub dropped: u64,
    /// Allocations that failed; they are no events.
    pub failures: u64,
}

/// Runs the cases of the plan over `subject`, one after another, and records what they ask of it.
pub fn record<P: Platform, S: Subject>(platform: P, subject: &S, settings: &Settings, extract: Extract) -> Recording {
    let recorded = Recorded::new(subject.clone(), platform, extract.events);
    let failures = perform(platform, &recorded, settings, extract);
    let Log { trace, dropped, .. } = core::mem::take(&mut *recorded.log.lock());
    Recording { trace, dropped, failures }
}

/// Runs the cases of the plan over `subject`, one after another, and neither measures nor checks; returns how many
/// allocations failed. Of `extract`, what it says of operations.
pub fn perform<P: Platform, S: Subject>(platform: P, subject: &S, settings: &Settings, extract: Extract) -> u64 {
    let mut failures = 0;
    let cases = plan(platform, subject.features(), settings);
    let trace = trace_of(settings, &cases);
    for case in cases {
        let sampling = Sampling {
            samples: settings.samples.max(1),
            length: Length::Operations(extract.operations),
            most_bytes: platform.memory() / case.cpus as u64,
            most_blocks: settings.most_blocks,
            seed: settings.seed,
            trims: false,
            patience: None,
        };
        let samples = workloads::sample(Run { platform, case, sampling }, subject, &trace);
        failures += samples.map_or(0, |samples| samples.failures);
    }
    failures
}

/// Every call of `subject`, written down.
#[derive(Clone)]
struct Recorded<S, P> {
    subject: S,
    platform: P,
    cpu: Cpu,
    log: Arc<Mutex<Log>>,
}

/// What was written down so far.
#[derive(Default)]
struct Log {
    trace: Trace,
    /// Events there is room for.
    most: usize,
    dropped: u64,
    /// The clock at the last event, in ticks.
    last: Option<u64>,
}

/// A block, and its name in the trace, if there was room for it.
struct RecordedBlock<B> {
    block: B,
    object: Option<ObjectId>,
}

impl Log {
    /// Writes an event down; `false` when there is no room.
    fn add(&mut self, ticks: u64, ticks_per_second: u64, cpu: Cpu, object: ObjectId, action: Action) -> bool {
        if self.trace.events().len() >= self.most {
            self.dropped += 1;
            return false;
        }
        let elapsed = self.last.map_or(0, |last| ticks.saturating_sub(last));
        // Clocks of two CPUs may differ by a little; time does not go back.
        self.last = Some(self.last.map_or(ticks, |last| last.max(ticks)));
        let after = (u128::from(elapsed) * 1_000_000_000 / u128::from(ticks_per_second.max(1))) as u64;
        let event = Event { after: Some(after), cpu, object, action };
        let added = self.trace.push(event);
        // An object too large for a trace is left out like one there is no room for.
        self.dropped += u64::from(added.is_err());
        added.is_ok()
    }
}

impl<S: Subject, P: Platform> Recorded<S, P> {
    fn new(subject: S, platform: P, most: usize) -> Self {
        let log = Log { trace: Trace::with_capacity(most), most, ..Log::default() };
        Self { subject, platform, cpu: Cpu(0), log: Arc::new(Mutex::new(log)) }
    }

    fn begin(&self, block: Option<S::Block>, action: Action) -> Option<RecordedBlock<S::Block>> {
        let block = block?;
        let (ticks, rate) = (self.platform.ticks(), self.platform.ticks_per_second());
        let mut log = self.log.lock();
        let object = log.trace.next_id();
        let object = log.add(ticks, rate, self.cpu, object, action).then_some(object);
        Some(RecordedBlock { block, object })
    }

    fn end(&self, block: RecordedBlock<S::Block>, action: Action) -> S::Block {
        let (ticks, rate) = (self.platform.ticks(), self.platform.ticks_per_second());
        if let Some(object) = block.object {
            self.log.lock().add(ticks, rate, self.cpu, object, action);
        } else {
            self.log.lock().dropped += 1;
        }
        block.block
    }
}

fn object(size: usize, node: Option<NodeId>, flags: Flags) -> Action {
    // What does not fit is more than a trace can have, and left out.
    let size = u32::try_from(size).unwrap_or(u32::MAX);
    Action::Allocate(Request { size, node: node.map(|node| Node(node.0.into())), flags })
}

fn plain(size: usize) -> Action {
    object(size, None, Flags::default())
}

impl<S: Subject, P: Platform> Subject for Recorded<S, P> {
    type Block = RecordedBlock<S::Block>;
    type Objects = Recorded<S::Objects, P>;

    const NAME: &'static str = S::NAME;

    const FEATURES: &'static [Feature] = S::FEATURES;

    fn features(&self) -> &'static [Feature] {
        self.subject.features()
    }

    fn allocate(&self, size: usize) -> Option<Self::Block> {
        self.begin(self.subject.allocate(size), plain(size))
    }

    fn free(&self, block: Self::Block) {
        self.subject.free(self.end(block, Action::Free));
    }

    fn allocate_inlined<const SIZE: usize>(&self) -> Option<Self::Block> {
        self.begin(self.subject.allocate_inlined::<SIZE>(), plain(SIZE))
    }

    fn free_inlined(&self, block: Self::Block) {
        self.subject.free_inlined(self.end(block, Action::Free));
    }

    fn allocate_constant<const SIZE: usize>(&self) -> Option<Self::Block> {
        self.begin(self.subject.allocate_constant::<SIZE>(), plain(SIZE))
    }

    fn allocate_on(&self, size: usize, node: NodeId) -> Option<Self::Block> {
        self.begin(self.subject.allocate_on(size, node), object(size, Some(node), Flags::default()))
    }

    fn allocate_pages(&self, order: u32) -> Option<Self::Block> {
        self.begin(self.subject.allocate_pages(order), Action::AllocatePages(order as u8))
    }

    fn free_pages(&self, block: Self::Block, order: u32) {
        self.subject.free_pages(self.end(block, Action::FreePages), order);
    }

    fn allocate_zeroed(&self, size: usize) -> Option<Self::Block> {
        let flags = Flags { zeroed: true, atomic: false };
        self.begin(self.subject.allocate_zeroed(size), object(size, None, flags))
    }

    fn allocate_atomic(&self, size: usize) -> Option<Self::Block> {
        let flags = Flags { zeroed: false, atomic: true };
        self.begin(self.subject.allocate_atomic(size), object(size, None, flags))
    }

    // Many in one call are many events: `allocate_bulk` and `free_bulk` are as the trait has them.

    fn objects(&self, size: usize) -> Option<Self::Objects> {
        let (platform, cpu, log) = (self.platform, self.cpu, self.log.clone());
        self.subject.objects(size).map(|subject| Recorded { subject, platform, cpu, log })
    }

    fn memory(&self) -> Option<u64> {
        self.subject.memory()
    }

    fn occupy(&self, leave: u64, cached: u64) -> Option<Arc<dyn Ballast>> {
        self.subject.occupy(leave, cached)
    }

    fn for_cpu(&self, cpu: usize) -> Self {
        Self { subject: self.subject.for_cpu(cpu), cpu: Cpu(cpu as u16), ..self.clone() }
    }

    fn address(&self, block: &Self::Block) -> usize {
        self.subject.address(&block.block)
    }

    fn fill(&self, block: &mut Self::Block, length: usize, seed: u64) {
        self.subject.fill(&mut block.block, length, seed);
    }

    fn touch(&self, block: &mut Self::Block, writes: u32) {
        self.subject.touch(&mut block.block, writes);
    }

    fn check(&self, block: &Self::Block, length: usize, seed: u64) -> bool {
        self.subject.check(&block.block, length, seed)
    }

    fn is_zero(&self, block: &Self::Block, length: usize) -> bool {
        self.subject.is_zero(&block.block, length)
    }

    fn alignment(&self, size: usize) -> usize {
        self.subject.alignment(size)
    }

    fn node_of(&self, block: &Self::Block) -> Option<NodeId> {
        self.subject.node_of(&block.block)
    }
}
