//! [`Script`]: a trace as lists of steps, one for each CPU that replays it.

use alloc::vec;
use alloc::vec::Vec;

use quarry_topology::NodeId;
use quarry_trace::{Action, Event, ObjectId, Request, Trace};

use crate::subject::Feature;

/// What all CPUs do.
pub(super) struct Script {
    /// Of each CPU.
    pub(super) programs: Vec<Program>,
    /// Objects that more than one CPU touches.
    pub(super) shared: usize,
}

/// What one CPU does.
#[derive(Default)]
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    /// Places for objects that this CPU alone touches; used again and again.
    pub(super) own: usize,
    /// Frees of what the trace leaves, by the CPU that allocated it.
    pub(super) leftovers: Vec<Step>,
}

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) what: What,
    pub(super) place: Place,
}

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Allocate(Ask),
    /// Allocates another and frees the first.
    Resize(Ask),
    Free,
    FreePages(u8),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Plain(u32),
    Zeroed(u32),
    Atomic(u32),
    OnNode(u32, NodeId),
    Pages(u8),
}

/// Where the object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the list of the CPU whose step it is.
    Own(u32),
    /// In a slot, when `turn` steps on it are done.
    Shared { place: u32, turn: u32 },
}

/// What is known of an object while the script is written.
#[derive(Clone, Copy)]
struct Known {
    /// The CPU that allocates it.
    home: usize,
    /// Whether others touch it.
    shared: bool,
    /// Where it is, once it is allocated.
    place: u32,
    /// Steps so far.
    turn: u32,
    /// How it is freed.
    free: What,
}

/// Fits a trace to the machine that replays it.
struct Fit<'a, F> {
    nodes: &'a [NodeId],
    has: F,
}

impl<F: Fn(Feature) -> bool> Fit<'_, F> {
    /// Atomic comes before zeroed, and both before a node: no allocator here takes two wishes at once.
    fn ask(&self, request: Request) -> Ask {
        let Request { size, node, flags } = request;
        let node = node.filter(|_| (self.has)(Feature::Nodes));
        match node.map(|node| self.nodes[usize::from(node.0) % self.nodes.len()]) {
            _ if flags.atomic && (self.has)(Feature::Atomic) => Ask::Atomic(size),
            _ if flags.zeroed && (self.has)(Feature::Zeroed) => Ask::Zeroed(size),
            Some(node) => Ask::OnNode(size, node),
            None => Ask::Plain(size),
        }
    }

    /// A block of pages, and its free; objects of that size where there are no pages.
    fn pages(&self, order: u8) -> (Ask, What) {
        if (self.has)(Feature::Pages) {
            (Ask::Pages(order), What::FreePages(order))
        } else {
            (Ask::Plain(4096 << order), What::Free)
        }
    }
}

impl Script {
    /// The trace by `cpus` CPUs: the trace's CPUs in ascending order are dealt out to them in turn, and its nodes to
    /// `nodes`, of which there is one at least. What the allocator `has` no way for is asked for plainly.
    pub(super) fn new(trace: &Trace, cpus: usize, nodes: &[NodeId], has: impl Fn(Feature) -> bool) -> Self {
        let fit = Fit { nodes, has };
        let recorded = trace.cpus();
        let cpu_of =
            |event: &Event| recorded.binary_search(&event.cpu).expect("the list is of the CPUs of all events") % cpus;
        let mut known = survey(trace, cpu_of);
        let mut script = Self { programs: (0..cpus).map(|_| Program::default()).collect(), shared: 0 };
        // Places of own lists that are free again.
        let mut free: Vec<Vec<u32>> = vec![Vec::new(); cpus];
        for event in trace.events() {
            let cpu = cpu_of(event);
            let object = &mut known[event.object.index()];
            let what = match event.action {
                Action::Allocate(request) => What::Allocate(fit.ask(request)),
                Action::AllocatePages(order) => {
                    let (ask, end) = fit.pages(order);
                    object.free = end;
                    What::Allocate(ask)
                }
                Action::Resize(size) => What::Resize(Ask::Plain(size)),
                Action::Free | Action::FreePages => object.free,
            };
            let program = &mut script.programs[cpu];
            if matches!(what, What::Allocate(_)) {
                let count = if object.shared { &mut script.shared } else { &mut program.own };
                object.place = free[cpu].pop().filter(|_| !object.shared).unwrap_or_else(|| {
                    *count += 1;
                    *count as u32 - 1
                });
            }
            program.steps.push(Step { what, place: object.next_place() });
            if !object.shared && matches!(what, What::Free | What::FreePages(_)) {
                free[cpu].push(object.place);
            }
        }
        for (index, object) in known.iter_mut().enumerate() {
            if trace.is_live(ObjectId(index as u32)) {
                let step = Step { what: object.free, place: object.next_place() };
                script.programs[object.home].leftovers.push(step);
            }
        }
        script
    }
}

impl Known {
    /// Where the next step on it finds it.
    fn next_place(&mut self) -> Place {
        let (place, turn) = (self.place, self.turn);
        self.turn += 1;
        if self.shared { Place::Shared { place, turn } } else { Place::Own(place) }
    }
}

/// Who touches which object.
fn survey(trace: &Trace, cpu_of: impl Fn(&Event) -> usize) -> Vec<Known> {
    let mut known: Vec<Known> = Vec::with_capacity(trace.object_count());
    for event in trace.events() {
        let cpu = cpu_of(event);
        match known.get_mut(event.object.index()) {
            Some(object) => object.shared |= object.home != cpu,
            None => known.push(Known { home: cpu, shared: false, place: 0, turn: 0, free: What::Free }),
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    const NODES: [NodeId; 2] = [NodeId(0), NodeId(3)];

    fn script(lines: &str, cpus: usize, features: &[Feature]) -> Script {
        let trace = Trace::parse(&format!("quarry-trace 1\n{lines}")).expect("the trace is right");
        Script::new(&trace, cpus, &NODES, |feature| features.contains(&feature))
    }

    fn asked(lines: &str, features: &[Feature]) -> Vec<What> {
        script(lines, 1, features).programs[0].steps.iter().map(|step| step.what).collect()
    }

    #[test]
    fn what_an_allocator_cannot_do_is_asked_for_plainly() {
        let lines = "a 0 0 8 - z\na 0 1 8 - a\na 0 2 8 1\np 0 3 1\nq 0 3\na 0 4 8 0 za\n";
        let plain = What::Allocate(Ask::Plain(8));
        let pages = [What::Allocate(Ask::Plain(8192)), What::Free];
        assert_eq!(asked(lines, &[Feature::Sizes]), [plain, plain, plain, pages[0], pages[1], plain]);
        let asks = [Ask::Zeroed(8), Ask::Atomic(8), Ask::OnNode(8, NodeId(3)), Ask::Pages(1)].map(What::Allocate);
        let expected = [asks[0], asks[1], asks[2], asks[3], What::FreePages(1), asks[1]];
        assert_eq!(asked(lines, Feature::ALL), expected);
    }

    #[test]
    fn nodes_there_are_not_are_folded_onto_those_there_are() {
        let on = |node| What::Allocate(Ask::OnNode(8, node));
        assert_eq!(asked("a 0 0 8 4\na 0 1 8 5\n", Feature::ALL), [on(NodeId(0)), on(NodeId(3))]);
    }

    #[test]
    fn cpus_are_dealt_out_in_turn_and_keep_their_order() {
        let lines = "a 7 0 8\na 9 1 16\na 64 2 24\nf 7 0\nf 64 2\n";
        let script = script(lines, 2, &[]);
        let sizes = |cpu: usize| -> Vec<What> { script.programs[cpu].steps.iter().map(|step| step.what).collect() };
        let plain = |size| What::Allocate(Ask::Plain(size));
        assert_eq!(sizes(0), [plain(8), plain(24), What::Free, What::Free]);
        assert_eq!(sizes(1), [plain(16)]);
        assert_eq!(script.shared, 0);
    }

    #[test]
    fn an_object_of_one_cpu_has_a_place_that_is_used_again() {
        let program = &script("a 0 0 8\nf 0 0\na 0 1 8\na 0 2 8\nf 0 1\n", 1, &[]).programs[0];
        let places: Vec<Place> = program.steps.iter().map(|step| step.place).collect();
        assert_eq!(places, [0, 0, 0, 1, 0].map(Place::Own));
        assert_eq!(program.own, 2);
        assert_eq!(program.leftovers, [Step { what: What::Free, place: Place::Own(1) }]);
    }

    #[test]
    fn an_object_that_changes_hands_is_touched_in_the_order_of_the_trace() {
        let script = script("a 0 0 8\nr 1 0 16\na 1 1 8\np 1 2 0\nr 0 0 32\nf 1 0\n", 2, Feature::ALL);
        let at = |turn| Place::Shared { place: 0, turn };
        let places = |cpu: usize| -> Vec<Place> { script.programs[cpu].steps.iter().map(|step| step.place).collect() };
        assert_eq!(places(0), [at(0), at(2)]);
        assert_eq!(places(1), [at(1), Place::Own(0), Place::Own(1), at(3)]);
        let left: Vec<What> = script.programs[1].leftovers.iter().map(|step| step.what).collect();
        assert_eq!(left, [What::Free, What::FreePages(0)]);
    }
}
