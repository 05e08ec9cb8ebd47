//! CPUs that take turns, as they do where instructions are counted: what the suite makes of short turns and of long ones.

mod support;

use std::sync::{Arc, Condvar, Mutex};

use quarry_suite::{Case, Effort, Extent, Phase, Platform, Refusal, Row, Settings, Variant, Workload, run_cases};
use quarry_topology::NodeId;
use support::{Arena, Fault};

/// CPUs that are threads of which one runs at a time: until it waits, or until its next interrupt where turns can be made
/// short and are. Then the next one in order runs.
#[derive(Clone, Copy)]
struct InTurn {
    state: &'static State,
    /// Whether anything comes of making turns short.
    obeys: bool,
}

#[derive(Default)]
struct State {
    turns: Mutex<Turns>,
    changed: Condvar,
}

#[derive(Default)]
struct Turns {
    /// Whose turn it is.
    now: usize,
    /// Who still runs.
    alive: Vec<bool>,
    short: bool,
    /// How often they were made short.
    shortened: usize,
}

impl Turns {
    fn pass(&mut self) {
        let count = self.alive.len();
        let next = (1..=count).map(|step| (self.now + step) % count).find(|&cpu| self.alive[cpu]);
        self.now = next.unwrap_or(0);
    }
}

thread_local! {
    static CPU: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl InTurn {
    fn new(obeys: bool) -> Self {
        Self { state: Box::leak(Box::default()), obeys }
    }

    /// Ends the turn of the calling CPU, and returns at its next.
    fn end_turn(self) {
        let mut turns = self.state.turns.lock().expect("nobody panics with it");
        if turns.alive.is_empty() {
            return;
        }
        turns.pass();
        self.state.changed.notify_all();
        let cpu = CPU.get();
        drop(self.state.changed.wait_while(turns, |turns| turns.now != cpu).expect("nobody panics with it"));
    }
}

impl Platform for InTurn {
    fn cpu_count(&self) -> usize {
        4
    }

    fn local_node(&self, _cpu: usize) -> NodeId {
        NodeId(0)
    }

    fn remote_node(&self, _cpu: usize) -> Option<NodeId> {
        None
    }

    fn ticks(&self) -> u64 {
        support::Threads(1).ticks()
    }

    fn ticks_per_second(&self) -> u64 {
        1_000_000_000
    }

    fn relax(&self) {
        self.end_turn();
    }

    fn memory(&self) -> u64 {
        1 << 20
    }

    fn has_interrupts(&self) -> bool {
        true
    }

    /// Ends the turn first, where turns are short.
    fn interrupt(&self, work: &mut dyn FnMut()) {
        let short = self.state.turns.lock().expect("nobody panics with it").short;
        if short && self.obeys {
            self.end_turn();
        }
        work();
    }

    fn takes_turns(&self) -> bool {
        true
    }

    fn shorten_turns(&self) {
        let mut turns = self.state.turns.lock().expect("nobody panics with it");
        turns.short = true;
        turns.shortened += 1;
    }

    fn lengthen_turns(&self) {
        self.state.turns.lock().expect("nobody panics with it").short = false;
    }

    fn on_cpus<T, F>(&self, cpus: usize, body: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn(usize) -> T + Send + Sync + 'static,
    {
        let (machine, body) = (*self, Arc::new(body));
        {
            let mut turns = machine.state.turns.lock().expect("nobody panics with it");
            (turns.now, turns.alive) = (0, vec![true; cpus]);
        }
        let start = |cpu: usize| {
            let body = body.clone();
            std::thread::spawn(move || {
                CPU.set(cpu);
                let turns = machine.state.turns.lock().expect("nobody panics with it");
                drop(machine.state.changed.wait_while(turns, |turns| turns.now != cpu).expect("nobody panics with it"));
                let result = body(cpu);
                let mut turns = machine.state.turns.lock().expect("nobody panics with it");
                turns.alive[cpu] = false;
                turns.pass();
                machine.state.changed.notify_all();
                result
            })
        };
        let threads: Vec<_> = (0..cpus).map(start).collect();
        let results = threads.into_iter().map(|thread| thread.join().expect("a worker has no reason to panic"));
        let results = results.collect();
        machine.state.turns.lock().expect("nobody panics with it").alive.clear();
        results
    }
}

/// Pairs in interrupt handlers on so many CPUs, over an allocator that does nothing wrong.
fn rows(machine: InTurn, cpus: usize, effort: Effort) -> Vec<Row> {
    let settings = Settings { samples: 2, effort, latencies: false, ..Settings::default() };
    let variant = Some(Variant::Interleaved);
    let case = Case { workload: Workload::Interrupt, extent: Extent::Size(64), variant, cpus };
    let mut rows = Vec::new();
    run_cases(machine, &Arena::new(Fault::None), &settings, &[case], &mut |row| rows.push(row.clone()));
    rows
}

fn only(mut rows: Vec<Row>) -> Row {
    assert_eq!((rows.len(), rows[0].phase), (1, Phase::Whole));
    rows.remove(0)
}

#[test]
fn where_turns_are_short_cpus_meet_and_the_figures_stand() {
    let machine = InTurn::new(true);
    let row = only(rows(machine, 3, Effort::Fixed));
    let turns = row.turns.expect("several CPUs take turns");
    assert_eq!(turns.operations, row.operations, "as many operations as were measured");
    // Every second operation ends a turn.
    assert!(turns.hand_overs * 3 > turns.operations, "{turns:?}");
    assert_eq!((row.refusal, row.errors), (None, 0));
}

#[test]
fn where_turns_stay_long_the_figures_are_refused() {
    let machine = InTurn::new(false);
    let row = only(rows(machine, 3, Effort::Fixed));
    let refusal = row.refusal.expect("nobody met anybody");
    assert!(matches!(refusal, Refusal::FewHandOvers(turns) if turns.hand_overs < 10), "{refusal}");
    assert_eq!(row.errors, 1);
}

#[test]
fn turns_are_short_while_several_cpus_are_counted_and_at_no_other_time() {
    let machine = InTurn::new(true);
    let shortened = || machine.state.turns.lock().expect("nobody panics with it").shortened;
    assert_eq!(only(rows(machine, 1, Effort::Fixed)).turns, None);
    assert_eq!(only(rows(machine, 2, Effort::Microseconds(10))).turns, None);
    assert_eq!(shortened(), 0);
    rows(machine, 2, Effort::Fixed);
    // Each sample of what is measured, and of what is counted.
    assert_eq!(shortened(), 2 * (3 + 2));
    assert!(!machine.state.turns.lock().expect("nobody panics with it").short, "and long again in the end");
}
