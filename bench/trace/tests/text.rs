//! Traces as text and back: nothing is lost, no text upsets the reader, and what is wrong is told with its line.

use proptest::prelude::*;
use quarry_trace::{Action, Cpu, Event, Flags, MOST_ORDER, MOST_SIZE, Misuse, Node, ObjectId, Request, Trace};

/// The sentence a text costs.
fn complaint(lines: &str) -> String {
    Trace::parse(lines).expect_err("something is wrong with it").to_string()
}

fn event(cpu: u16, object: u32, action: Action) -> Event {
    Event { after: None, cpu: Cpu(cpu), object: ObjectId(object), action }
}

fn plain(size: u32) -> Action {
    Action::Allocate(Request { size, node: None, flags: Flags::default() })
}

#[test]
fn every_kind_of_line_is_read_and_written() {
    let text = "\
quarry-trace 1
# CPU 0 has what CPU 1 frees.
a 0 100 64
+250 a 1 7 4096 1 za   # on node 1

p 0 3 2
r 0 100 128
+0 f 1 100
a 0 0 8 - a
q 1 3
";
    let trace = Trace::parse(text).expect("every line is right");
    assert_eq!(trace.object_count(), 4);
    assert_eq!(trace.live_count(), 2);
    assert_eq!(trace.cpus(), [Cpu(0), Cpu(1)]);
    assert_eq!(trace.peak_bytes(), 128 + 4096 + 4 * 4096);
    insta::assert_snapshot!(trace, @r"
    quarry-trace 1
    a 0 0 64
    +250 a 1 1 4096 1 za
    p 0 2 2
    r 0 0 128
    +0 f 1 0
    a 0 3 8 - a
    q 1 2
    ");
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_what_to_do() {
    let lines = [
        "",
        "a 0 1 64",
        "quarry-trace 2",
        "quarry-trace 1\nx 0 1",
        "quarry-trace 1\na 0 1",
        "quarry-trace 1\na 0 1 0",
        "quarry-trace 1\na 0 1 4194305",
        "quarry-trace 1\na 0 1 64 -1",
        "quarry-trace 1\na 0 1 64 - zq",
        "quarry-trace 1\na 0 1 64 - z a",
        "quarry-trace 1\na 65536 1 64",
        "quarry-trace 1\n+x a 0 1 64",
        "quarry-trace 1\n+5",
        "quarry-trace 1\np 0 1 11",
        "quarry-trace 1\nf 0 1",
        "quarry-trace 1\na 0 1 64\nf 0 1\nf 0 1",
        "quarry-trace 1\na 0 1 64\n\na 0 1 64",
        "quarry-trace 1\na 0 1 64\nq 0 1",
        "quarry-trace 1\np 0 1 0\nr 0 1 64",
    ];
    let told: Vec<String> = lines.iter().map(|lines| complaint(lines)).collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_refused_event_leaves_the_trace_as_it_was() {
    let mut trace = Trace::default();
    trace.push(event(0, 0, plain(64))).expect("it is the first");
    let before = trace.clone();
    let refused = [
        (event(0, 0, plain(64)), Misuse::Misnumbered),
        (event(0, 2, plain(64)), Misuse::Misnumbered),
        (event(0, 1, Action::Free), Misuse::Unknown),
        (event(0, 0, Action::FreePages), Misuse::IsObject),
        (event(0, 0, Action::Resize(0)), Misuse::Size),
        (event(0, 1, Action::AllocatePages(11)), Misuse::Order),
    ];
    for (event, misuse) in refused {
        assert_eq!(trace.push(event), Err(misuse));
        assert_eq!(trace, before);
    }
}

/// A step of a trace; which object it is about is a number of those that live then.
#[derive(Clone, Copy, Debug)]
struct Step {
    after: Option<u64>,
    cpu: u16,
    choice: usize,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Begin(Request),
    BeginPages(u8),
    Resize(u32),
    End,
}

fn requests() -> impl Strategy<Value = Request> {
    let flags = any::<(bool, bool)>().prop_map(|(zeroed, atomic)| Flags { zeroed, atomic });
    (1..=MOST_SIZE, any::<Option<u16>>(), flags).prop_map(|(size, node, flags)| Request {
        size,
        node: node.map(Node),
        flags,
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let what = prop_oneof![
        4 => requests().prop_map(What::Begin),
        1 => (0..=MOST_ORDER).prop_map(What::BeginPages),
        1 => (1..=MOST_SIZE).prop_map(What::Resize),
        4 => Just(What::End),
    ];
    let step = (any::<Option<u64>>(), any::<u16>(), any::<usize>(), what);
    let step = step.prop_map(|(after, cpu, choice, what)| Step { after, cpu, choice, what });
    proptest::collection::vec(step, 0..100)
}

/// The trace of the steps that can be done; and what lives at its end, counted beside it.
fn made_of(steps: &[Step]) -> (Trace, Vec<ObjectId>) {
    let (mut trace, mut live) = (Trace::default(), Vec::new());
    for step in steps {
        let chosen = (!live.is_empty()).then(|| step.choice % live.len());
        let (object, action) = match (step.what, chosen) {
            (What::Begin(request), _) => (trace.next_id(), Action::Allocate(request)),
            (What::BeginPages(order), _) => (trace.next_id(), Action::AllocatePages(order)),
            (_, None) => continue,
            (What::Resize(size), Some(chosen)) => (live[chosen], Action::Resize(size)),
            (What::End, Some(chosen)) => (live[chosen], Action::Free),
        };
        let event = Event { after: step.after, cpu: Cpu(step.cpu), object, action };
        let done = match trace.push(event) {
            Err(Misuse::IsPages) if action == Action::Free => {
                trace.push(Event { action: Action::FreePages, ..event }).expect("it is a block of pages");
                true
            }
            Err(Misuse::IsPages) => false,
            result => {
                result.expect("it can be done");
                true
            }
        };
        match step.what {
            What::Begin(_) | What::BeginPages(_) => live.push(object),
            What::End if done => live.retain(|other| *other != object),
            What::Resize(_) | What::End => {}
        }
    }
    (trace, live)
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(steps in steps()) {
        let (trace, live) = made_of(&steps);
        prop_assert_eq!(trace.live_count(), live.len());
        prop_assert!(live.iter().all(|object| trace.is_live(*object)));
        prop_assert_eq!(Trace::parse(&trace.to_string()), Ok(trace));
    }

    #[test]
    fn no_text_upsets_the_reader(text in r"(quarry-trace 1\n)?(.|\n){0,200}") {
        if let Ok(trace) = Trace::parse(&text) {
            prop_assert_eq!(Trace::parse(&trace.to_string()), Ok(trace));
        }
    }

    /// As above, with text that looks like a trace nearly everywhere.
    #[test]
    fn no_trace_that_is_off_upsets_the_reader(
        lines in proptest::collection::vec(r"(\+[0-9]{1,20} )?[afrpqx]( [0-9]{1,2}){0,4}( -)?( [za]{0,3})?#?", 0..30)
    ) {
        let text = format!("quarry-trace 1\n{}", lines.join("\n"));
        match Trace::parse(&text) {
            Ok(trace) => prop_assert_eq!(Trace::parse(&trace.to_string()), Ok(trace)),
            Err(error) => prop_assert!(error.line >= 2 && error.line <= lines.len() + 1),
        }
    }
}
