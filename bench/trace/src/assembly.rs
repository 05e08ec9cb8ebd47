//! [`Assembly`]: a trace from calls that name addresses, as whoever records them sees them.
//!
//! Used by the host, which converts what Linux records, and by guests that were recorded whole. A recording may begin
//! and end in the middle of things and may lack events, so an address may be freed that was never seen, and one may
//! come back that was never freed. What is assembled is a trace all the same, and each such call is told to the caller.

use alloc::collections::BTreeMap;

use crate::trace::{Action, Cpu, Event, ObjectId, Request, Trace};
use crate::{MOST_ORDER, MOST_SIZE};

/// What an address is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// An object, by its address.
    Object(u64),
    /// A block of pages, by its first frame's number.
    Pages(u64),
}

/// When and where a call was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Time since some moment before all calls.
    pub nanoseconds: u64,
    /// Whose call it was.
    pub cpu: Cpu,
}

/// What came of an allocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// Something lived there, whose free the recording lacks; that free was put in before.
    pub free_was_missing: bool,
    /// A trace has nothing so large; it was left out.
    pub too_large: bool,
}

/// What lives.
#[derive(Clone, Copy, Debug)]
struct Live {
    object: ObjectId,
    order: u8,
}

/// A trace in the making.
#[derive(Clone, Debug, Default)]
pub struct Assembly {
    trace: Trace,
    live: BTreeMap<Place, Live>,
    /// The time of the last event.
    last: Option<u64>,
}

impl Assembly {
    /// What was assembled.
    pub fn into_trace(self) -> Trace {
        self.trace
    }

    /// An object of some bytes begins at that address.
    pub fn allocate(&mut self, at: Moment, address: u64, request: Request) -> Begun {
        let fits = (1..=MOST_SIZE).contains(&request.size);
        self.begin(at, Place::Object(address), fits, Action::Allocate(request), 0)
    }

    /// A block of `1 << order` pages begins at that frame.
    pub fn allocate_pages(&mut self, at: Moment, frame: u64, order: u8) -> Begun {
        self.begin(at, Place::Pages(frame), order <= MOST_ORDER, Action::AllocatePages(order), order)
    }

    fn begin(&mut self, at: Moment, place: Place, fits: bool, action: Action, order: u8) -> Begun {
        let free_was_missing = self.free(at, place).is_some();
        if fits {
            let object = self.trace.next_id();
            self.push(at, object, action);
            self.live.insert(place, Live { object, order });
        }
        Begun { free_was_missing, too_large: !fits }
    }

    /// An object gets another size, and maybe another address. `None` when nothing is known to live at the old one, or
    /// the size is none: then it ends, as far as the trace is concerned.
    pub fn resize(&mut self, at: Moment, from: u64, to: u64, size: u32) -> Option<Begun> {
        let (from, to) = (Place::Object(from), Place::Object(to));
        if !(1..=MOST_SIZE).contains(&size) {
            self.free(at, from);
            return None;
        }
        let moved = self.live.remove(&from)?;
        let free_was_missing = self.free(at, to).is_some();
        self.push(at, moved.object, Action::Resize(size));
        self.live.insert(to, moved);
        Some(Begun { free_was_missing, too_large: false })
    }

    /// What lives there ends: returns the order of its pages, 0 for an object, or `None` when nothing is known to live
    /// there.
    pub fn free(&mut self, at: Moment, place: Place) -> Option<u8> {
        let ended = self.live.remove(&place)?;
        let action = match place {
            Place::Object(_) => Action::Free,
            Place::Pages(_) => Action::FreePages,
        };
        self.push(at, ended.object, action);
        Some(ended.order)
    }

    /// Clocks of two CPUs may differ by a little; time does not go back.
    fn push(&mut self, at: Moment, object: ObjectId, action: Action) {
        let after = at.nanoseconds.saturating_sub(self.last.unwrap_or(at.nanoseconds));
        self.last = Some(self.last.map_or(at.nanoseconds, |last| last.max(at.nanoseconds)));
        let event = Event { after: Some(after), cpu: at.cpu, object, action };
        self.trace.push(event).expect("what is allocated fits, and only what lives is freed");
    }
}
