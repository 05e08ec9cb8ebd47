//! [`Trace`]: events that make sense one after another, and how they are written.

use alloc::vec::Vec;
use core::fmt;

use crate::{MOST_ORDER, MOST_SIZE, VERSION};

/// A CPU, by the number the machine that was recorded had for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpu(pub u16);

/// A NUMA node, likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u16);

/// An object or a block of pages: the first that is allocated in a trace is 0, the next is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub u32);

impl ObjectId {
    /// For lists with a place for each object of a trace.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// How an object is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `z`: with all bytes 0. `__GFP_ZERO`.
    pub zeroed: bool,
    /// `a`: without waiting. `GFP_ATOMIC`, `GFP_NOWAIT`.
    pub atomic: bool,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bytes: 1 to [`MOST_SIZE`].
    pub size: u32,
    /// On which node; `None` leaves it to the allocator.
    pub node: Option<Node>,
    /// In which way.
    pub flags: Flags,
}

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It begins, as an object of some bytes.
    Allocate(Request),
    /// It begins, as a block of `1 << order` pages; the order is at most [`MOST_ORDER`].
    AllocatePages(u8),
    /// The object has so many bytes from now on: 1 to [`MOST_SIZE`].
    Resize(u32),
    /// The object ends.
    Free,
    /// The block of pages ends.
    FreePages,
}

/// One line of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds since the event before it, where the time is known.
    pub after: Option<u64>,
    /// Who does it.
    pub cpu: Cpu,
    /// To what.
    pub object: ObjectId,
    /// What.
    pub action: Action,
}

/// Why an event cannot follow those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// An allocation whose id is not [`Trace::next_id`].
    Misnumbered,
    /// The object was never allocated.
    Unknown,
    /// The object was freed before.
    Freed,
    /// An object was expected, and this is a block of pages.
    IsPages,
    /// A block of pages was expected, and this is an object.
    IsObject,
    /// No object has so many bytes.
    Size,
    /// No block has that order.
    Order,
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misnumbered => f.write_str("objects have to be numbered in the order they are allocated in"),
            Self::Unknown => f.write_str("nothing was allocated with that id; allocate it on a line before"),
            Self::Freed => f.write_str("it was freed before; a new object needs an id of its own"),
            Self::IsPages => f.write_str("it is a block of pages, which `q` frees and nothing resizes"),
            Self::IsObject => f.write_str("it is an object, which `f` frees"),
            Self::Size => write!(f, "a size is a whole number from 1 to {MOST_SIZE}"),
            Self::Order => write!(f, "an order is a whole number from 0 to {MOST_ORDER}"),
        }
    }
}

impl core::error::Error for Misuse {}

/// What an object is at the end of the events so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Object(u32),
    Pages(u8),
    Freed,
}

impl State {
    const fn bytes(self) -> u64 {
        match self {
            Self::Object(size) => size as u64,
            Self::Pages(order) => 4096 << order,
            Self::Freed => 0,
        }
    }
}

/// Events in an order in which they can be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    events: Vec<Event>,
    objects: Vec<State>,
    live_bytes: u64,
    peak_bytes: u64,
}

impl Trace {
    /// An empty one, with room for so many events: until there are more, nothing is allocated.
    pub fn with_capacity(events: usize) -> Self {
        Self { events: Vec::with_capacity(events), objects: Vec::with_capacity(events), ..Self::default() }
    }

    /// All of it.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// How many objects and blocks of pages there are: ids are below this.
    pub fn object_count(&self) -> usize {
        self.objects.len()
    }

    /// The id the next allocation must have.
    pub fn next_id(&self) -> ObjectId {
        ObjectId(self.objects.len() as u32)
    }

    /// Objects and blocks that nobody frees.
    pub fn live_count(&self) -> usize {
        self.objects.iter().filter(|state| **state != State::Freed).count()
    }

    /// Whether an object has begun and not ended.
    pub fn is_live(&self, object: ObjectId) -> bool {
        self.objects.get(object.index()).is_some_and(|state| *state != State::Freed)
    }

    /// Bytes asked for and not given back, when that is most.
    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }

    /// The CPUs that do something, in ascending order.
    pub fn cpus(&self) -> Vec<Cpu> {
        let mut cpus: Vec<Cpu> = Vec::new();
        for event in &self.events {
            if let Err(place) = cpus.binary_search(&event.cpu) {
                cpus.insert(place, event.cpu);
            }
        }
        cpus
    }

    /// Adds an event behind all others.
    ///
    /// # Errors
    ///
    /// [`Misuse`] when it cannot follow them; the trace is as it was.
    pub fn push(&mut self, event: Event) -> Result<(), Misuse> {
        let place = event.object.index();
        let after = self.state_after(event)?;
        if place == self.objects.len() {
            self.objects.push(after);
            self.live_bytes += after.bytes();
        } else {
            self.live_bytes = self.live_bytes - self.objects[place].bytes() + after.bytes();
            self.objects[place] = after;
        }
        self.peak_bytes = self.peak_bytes.max(self.live_bytes);
        self.events.push(event);
        Ok(())
    }

    /// What an event makes of its object.
    fn state_after(&self, event: Event) -> Result<State, Misuse> {
        let size =
            |size: u32| if (1..=MOST_SIZE).contains(&size) { Ok(State::Object(size)) } else { Err(Misuse::Size) };
        let before = self.objects.get(event.object.index()).copied();
        match (event.action, before) {
            (Action::Allocate(_) | Action::AllocatePages(_), _) if event.object != self.next_id() => {
                Err(Misuse::Misnumbered)
            }
            (Action::Allocate(request), _) => size(request.size),
            (Action::AllocatePages(order), _) if order <= MOST_ORDER => Ok(State::Pages(order)),
            (Action::AllocatePages(_), _) => Err(Misuse::Order),
            (_, None) => Err(Misuse::Unknown),
            (_, Some(State::Freed)) => Err(Misuse::Freed),
            (Action::Free | Action::Resize(_), Some(State::Pages(_))) => Err(Misuse::IsPages),
            (Action::FreePages, Some(State::Object(_))) => Err(Misuse::IsObject),
            (Action::Resize(new), Some(State::Object(_))) => size(new),
            (Action::Free, Some(State::Object(_))) | (Action::FreePages, Some(State::Pages(_))) => Ok(State::Freed),
        }
    }

    /// The first line of every trace.
    pub fn header() -> impl fmt::Display {
        struct Header;
        impl fmt::Display for Header {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "quarry-trace {VERSION}")
            }
        }
        Header
    }
}

/// As text: what [`Trace::parse`] reads.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Self::header())?;
        self.events.iter().try_for_each(|event| writeln!(f, "{event}"))
    }
}

/// As a line, without its end.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(after) = self.after {
            write!(f, "+{after} ")?;
        }
        let (letter, cpu, object) = (self.action.letter(), self.cpu.0, self.object.0);
        write!(f, "{letter} {cpu} {object}")?;
        match self.action {
            Action::Allocate(request) => write!(f, " {request}"),
            Action::AllocatePages(order) => write!(f, " {order}"),
            Action::Resize(size) => write!(f, " {size}"),
            Action::Free | Action::FreePages => Ok(()),
        }
    }
}

impl Action {
    /// What a line begins with.
    pub const fn letter(self) -> char {
        match self {
            Self::Allocate(_) => 'a',
            Self::AllocatePages(_) => 'p',
            Self::Resize(_) => 'r',
            Self::Free => 'f',
            Self::FreePages => 'q',
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.size)?;
        match self.node {
            Some(Node(node)) => write!(f, " {node}")?,
            None if self.flags != Flags::default() => f.write_str(" -")?,
            None => {}
        }
        let Flags { zeroed, atomic } = self.flags;
        let letters = [(zeroed, " z"), (atomic, if zeroed { "a" } else { " a" })];
        letters.iter().filter(|(set, _)| *set).try_for_each(|(_, letter)| f.write_str(letter))
    }
}
