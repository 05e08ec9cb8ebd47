//! What is recorded of a workload is a trace, and replaying it does the same again.

mod support;

use std::sync::Arc;

use proptest::prelude::*;
use quarry_suite::{Effort, Extract, Recording, Row, Settings, Workload, record, run};
use quarry_trace::{Action, Cpu, Event, Flags, ObjectId, Request, Trace};
use support::{Arena, Fault, Threads};

fn settings(workloads: &[Workload], cpus: usize) -> Settings {
    Settings {
        workloads: workloads.into(),
        sizes: vec![64, 512],
        orders: vec![0, 2],
        cpus: vec![cpus],
        samples: 1,
        effort: Effort::Microseconds(1),
        most_blocks: 100,
        latencies: false,
        ..Settings::default()
    }
}

fn recorded(workloads: &[Workload], extract: Extract) -> Recording {
    record(Threads(2), &Arena::new(Fault::None), &settings(workloads, 2), extract)
}

fn replayed(trace: &Trace, cpus: usize) -> Recording {
    let settings = Settings { trace: Some(Arc::new(trace.clone())), ..settings(&[Workload::Replay], cpus) };
    record(Threads(cpus), &Arena::new(Fault::None), &settings, Extract::default())
}

fn rows(trace: &Trace, cpus: usize, samples: usize) -> Vec<Row> {
    let trace = Some(Arc::new(trace.clone()));
    let settings = Settings { trace, samples, ..settings(&[Workload::Replay], cpus) };
    let mut rows = Vec::new();
    run(Threads(cpus), &Arena::new(Fault::None), &settings, &mut |row| rows.push(row.clone()));
    rows
}

/// What a CPU does in a trace.
fn actions(trace: &Trace, cpu: u16) -> Vec<Action> {
    trace.events().iter().filter(|event| event.cpu == Cpu(cpu)).map(|event| event.action).collect()
}

/// Whether the second is what a replay of the first has to be: the same CPU by CPU, and what was left is freed at the
/// end.
fn assert_same(first: &Trace, second: &Recording) {
    assert_eq!((second.dropped, second.failures), (0, 0));
    assert_eq!(second.trace.live_count(), 0);
    assert_eq!(second.trace.object_count(), first.object_count());
    assert_eq!(second.trace.events().len(), first.events().len() + first.live_count());
    for cpu in 0..2 {
        let (first, second) = (actions(first, cpu), actions(&second.trace, cpu));
        assert_eq!(second[..first.len()], first);
    }
}

#[test]
fn a_recorded_workload_replays_as_it_was() {
    for &workload in Workload::ALL {
        let recording = recorded(&[workload], Extract { operations: 50, events: 50_000 });
        assert_eq!((recording.dropped, recording.failures), (0, 0), "{workload}");
        assert_ne!(recording.trace.events().len(), 0, "{workload}");
        assert_same(&recording.trace, &replayed(&recording.trace, 2));
        let read = Trace::parse(&recording.trace.to_string());
        assert_eq!(read, Ok(recording.trace), "{workload}");
    }
}

#[test]
fn what_there_is_no_room_for_is_counted_and_leaves_a_whole_trace() {
    let all = recorded(&[Workload::Mix], Extract { operations: 200, events: 50_000 });
    let some = recorded(&[Workload::Mix], Extract { operations: 200, events: 100 });
    assert_eq!(some.trace.events().len(), 100);
    assert_eq!(some.dropped + 100, all.trace.events().len() as u64);
    assert_same(&some.trace, &replayed(&some.trace, 2));
}

#[test]
fn a_sample_is_the_whole_trace_whatever_cpus_there_are() {
    let trace = recorded(&[Workload::Mix, Workload::Remote], Extract { operations: 50, events: 50_000 }).trace;
    for cpus in 1..=3 {
        for row in rows(&trace, cpus, 3) {
            assert_eq!(row.errors, 0, "{}", row.case);
            assert_eq!((row.samples.len(), row.operations), (3, 3 * trace.events().len() as u64), "{}", row.case);
            assert_eq!(row.fairness, None, "CPUs that do different things cannot be compared");
        }
    }
}

#[test]
fn frees_on_another_cpu_stay_frees_on_another_cpu() {
    let text = "quarry-trace 1\na 0 0 64\na 0 1 64\na 5 2 64\nf 5 0\nf 0 1\nr 0 2 128\nf 5 2\n";
    let trace = Trace::parse(text).expect("it is right");
    let share = |cpus| rows(&trace, cpus, 1)[0].remote_frees.expect("all frees are counted");
    // Of four frees, for a resize is one: that of the first object, which CPU 5 does, and that of the resize.
    assert!((share(2) - 0.75).abs() < 1e-9, "{}", share(2));
    assert!(share(1).abs() < 1e-9);
}

#[test]
fn every_call_of_a_replay_has_its_latency() {
    let trace = Trace::parse("quarry-trace 1\na 0 0 64\nr 0 0 128\na 0 1 64\nf 0 0\n").expect("it is right");
    let settings =
        Settings { trace: Some(Arc::new(trace)), samples: 2, latencies: true, ..settings(&[Workload::Replay], 1) };
    let mut rows = Vec::new();
    run(Threads(1), &Arena::new(Fault::None), &settings, &mut |row| rows.push(row.clone()));
    let row = &rows[0];
    // Three allocations; the frees of the resize, of the trace, and of what it leaves. Three samples are warm-ups.
    assert_eq!(row.latency.as_ref().expect("latencies are asked for").calls.count(), 6 * (2 + 3));
}

/// A step: CPU, which of the live objects, and what.
fn traces() -> impl Strategy<Value = Trace> {
    let step = (0_u16..4, any::<usize>(), 0..10, 1_u32..2000);
    proptest::collection::vec(step, 1..200).prop_map(|steps| {
        let (mut trace, mut live) = (Trace::default(), Vec::<(ObjectId, bool)>::new());
        for (cpu, choice, what, size) in steps {
            let chosen = (!live.is_empty()).then(|| choice % live.len());
            let request = Request { size, node: None, flags: Flags { zeroed: what == 0, atomic: false } };
            let (object, action) = match (what, chosen) {
                (5.., Some(chosen)) if what < 7 && !live[chosen].1 => (live[chosen].0, Action::Resize(size)),
                (7.., Some(chosen)) => {
                    let (object, pages) = live.swap_remove(chosen);
                    (object, if pages { Action::FreePages } else { Action::Free })
                }
                (4, _) => (trace.next_id(), Action::AllocatePages((size % 2) as u8)),
                _ => (trace.next_id(), Action::Allocate(request)),
            };
            if matches!(action, Action::Allocate(_) | Action::AllocatePages(_)) {
                live.push((object, action.letter() == 'p'));
            }
            let event = Event { after: None, cpu: Cpu(cpu), object, action };
            trace.push(event).expect("the object lives");
        }
        trace
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// On any number of CPUs every trace comes to its end, without an error and with everything freed.
    #[test]
    fn every_trace_is_replayed_to_its_end(trace in traces(), cpus in 1_usize..5) {
        let events = trace.events().len() as u64;
        for row in rows(&trace, cpus, 1) {
            prop_assert_eq!(row.errors, 0);
            prop_assert_eq!(row.operations, events);
        }
    }
}
