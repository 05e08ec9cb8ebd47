//! [`DepotStack`]: the free objects that a depot has at hand, as pointers in pages.
//!
//! Used by [`depot`](crate::depot), whose lock guards all of it.
//!
//! # Theory
//!
//! The stack is a chain of pages, each of which holds [`PAGE_OBJECTS`] pointers and leads to the page below. Pages below
//! the top are full. Those that ran empty are kept on a chain of spare ones, for what was put there once will come again,
//! until the depot gives everything up. So it takes memory for as many objects as there ever were at a time, an eighth of
//! the smallest objects' own at the worst; no pointer is ever moved within it, and nothing takes longer with its size.
//!
//! It never allocates: its owner, who cannot under the lock either, asks [what it wants](DepotStack::wants_page) and
//! brings a page when it next comes by.

use core::ptr;

use crate::frame::FRAME_BYTES;

/// Pointers in a page.
pub(crate) const PAGE_OBJECTS: u32 = (FRAME_BYTES / size_of::<*mut u8>()) as u32 - 1;

#[repr(C)]
struct Page {
    below: *mut Page,
    objects: [*mut u8; PAGE_OBJECTS as usize],
}

const _: () = assert!(size_of::<Page>() == FRAME_BYTES);

/// A stack of free objects; see the module head.
pub(crate) struct DepotStack {
    /// Null where there is none yet.
    top: *mut Page,
    in_top: u32,
    spare: *mut Page,
    /// Pages of both chains.
    pages: u32,
    count: u32,
    /// Objects it may hold.
    capacity: u32,
}

impl DepotStack {
    pub(crate) const fn new() -> Self {
        Self { top: ptr::null_mut(), in_top: 0, spare: ptr::null_mut(), pages: 0, count: 0, capacity: 0 }
    }

    /// How many objects are on it.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// How many pages it has.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// How many more objects there is room for.
    #[inline]
    pub(crate) fn room(&self) -> u32 {
        self.capacity.min(self.pages * PAGE_OBJECTS) - self.count
    }

    /// Whether it could hold more if it had another page.
    pub(crate) fn wants_page(&self) -> bool {
        self.pages == 0 || self.pages * PAGE_OBJECTS < self.capacity
    }

    /// Gives it a page, and says how many objects it may hold in all.
    ///
    /// # Safety
    ///
    /// The page is 4 KiB, aligned to that, and the stack's alone until [`Self::give_up`] hands it back.
    pub(crate) unsafe fn add_page(&mut self, page: *mut u8, capacity: u32) {
        let page = page.cast::<Page>();
        // SAFETY: the caller's promise.
        unsafe { (&raw mut (*page).below).write(self.spare) };
        self.spare = page;
        self.pages += 1;
        self.capacity = capacity.max(self.count);
    }

    /// Puts on as many of the objects as there is room for, the first ones, and returns how many these are.
    #[inline]
    pub(crate) fn put(&mut self, objects: &[*mut u8]) -> usize {
        let fitting = objects.len().min(self.room() as usize);
        let mut rest = &objects[..fitting];
        while !rest.is_empty() {
            if self.top.is_null() || self.in_top == PAGE_OBJECTS {
                self.raise();
            }
            let here = rest.len().min((PAGE_OBJECTS - self.in_top) as usize);
            // SAFETY: the top page is the stack's, has that much room, and is no part of what the caller has.
            unsafe {
                let place = (&raw mut (*self.top).objects).cast::<*mut u8>().add(self.in_top as usize);
                ptr::copy_nonoverlapping(rest.as_ptr(), place, here);
            }
            self.in_top += here as u32;
            rest = &rest[here..];
        }
        self.count += fitting as u32;
        fitting
    }

    /// Takes off up to `wanted` objects, those put on last, and hands them to `take`: of each page the one put on last at
    /// the end. Returns how many.
    #[inline]
    pub(crate) fn take(&mut self, wanted: u32, mut take: impl FnMut(*mut u8)) -> u32 {
        let taken = wanted.min(self.count);
        self.count -= taken;
        let mut left = taken;
        while left > 0 {
            if self.in_top == 0 {
                self.lower();
            }
            let here = left.min(self.in_top);
            self.in_top -= here;
            for index in self.in_top..self.in_top + here {
                // SAFETY: the top page is the stack's, and this entry was valid until now.
                take(unsafe { (*self.top).objects.as_ptr().add(index as usize).read() });
            }
            left -= here;
        }
        taken
    }

    /// Gives up everything: the objects to `objects`, page by page, and each page to `page` after that.
    pub(crate) fn give_up(&mut self, mut objects: impl FnMut(&[*mut u8]), mut page: impl FnMut(*mut u8)) {
        let Self { top, in_top, spare, .. } = core::mem::replace(self, Self::new());
        let mut used = in_top as usize;
        for chain in [top, spare] {
            let mut next = chain;
            while !next.is_null() {
                let this = next;
                // SAFETY: a page of the stack's, which stays so until it is handed over below.
                let held = unsafe { &*this };
                if chain == top {
                    objects(&held.objects[..used]);
                    used = PAGE_OBJECTS as usize;
                }
                next = held.below;
                page(this.cast());
            }
        }
    }

    /// Whether an object is on it.
    pub(crate) fn holds(&self, object: *mut u8) -> bool {
        let mut used = self.in_top as usize;
        let mut next = self.top;
        // SAFETY: pages of the stack's.
        while let Some(page) = unsafe { next.as_ref() } {
            if page.objects[..used].contains(&object) {
                return true;
            }
            used = PAGE_OBJECTS as usize;
            next = page.below;
        }
        false
    }

    /// Makes a spare page the top. There is one, for there is room and the top is full.
    fn raise(&mut self) {
        let page = self.spare;
        debug_assert!(!page.is_null(), "there is room");
        // SAFETY: a page of the stack's.
        unsafe {
            self.spare = (*page).below;
            (&raw mut (*page).below).write(self.top);
        }
        self.top = page;
        self.in_top = 0;
    }

    /// Makes the page below an empty top the top. There is one, for there are objects and none is in the top.
    fn lower(&mut self) {
        let page = self.top;
        // SAFETY: a page of the stack's.
        unsafe {
            self.top = (*page).below;
            (&raw mut (*page).below).write(self.spare);
        }
        debug_assert!(!self.top.is_null(), "there are objects");
        self.spare = page;
        self.in_top = PAGE_OBJECTS;
    }
}

#[cfg(all(test, feature = "hosted"))]
mod tests {
    use std::alloc::{Layout, alloc, dealloc};
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const PAGE: Layout = Layout::new::<[u64; FRAME_BYTES / 8]>();

    fn object(number: usize) -> *mut u8 {
        ptr::without_provenance_mut(8 * (number + 1))
    }

    #[derive(Clone, Debug)]
    enum Step {
        AddPage,
        Put(usize),
        Take(u32),
        GiveUp,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => Just(Step::AddPage),
            8 => (0usize..900).prop_map(Step::Put),
            8 => (0u32..900).prop_map(Step::Take),
            1 => Just(Step::GiveUp),
        ]
    }

    proptest! {
        #[test]
        fn it_holds_what_was_put_on_and_not_taken_off(steps in prop::collection::vec(step(), 1..60), capacity in 1u32..3000) {
            let page = Layout::from_size_align(PAGE.size(), FRAME_BYTES).expect("a page");
            let mut stack = DepotStack::new();
            let mut model: Vec<*mut u8> = Vec::new();
            let (mut next, mut pages) = (0, 0);
            for step in steps.into_iter().chain([Step::GiveUp]) {
                match step {
                    Step::AddPage if stack.wants_page() => {
                        // SAFETY: a new page, which is freed when the stack gives it up.
                        unsafe { stack.add_page(alloc(page), capacity) };
                        pages += 1;
                    }
                    Step::AddPage => prop_assert!(pages * PAGE_OBJECTS >= capacity),
                    Step::Put(count) => {
                        let objects: Vec<_> = (next..next + count).map(object).collect();
                        next += count;
                        let most = capacity.min(pages * PAGE_OBJECTS) as usize - model.len();
                        prop_assert_eq!(stack.put(&objects), count.min(most));
                        model.extend(&objects[..count.min(most)]);
                    }
                    Step::Take(wanted) => {
                        let mut taken = Vec::new();
                        let count = stack.take(wanted, |object| taken.push(object)) as usize;
                        prop_assert_eq!(count, (wanted as usize).min(model.len()));
                        let mut expected = model.split_off(model.len() - count);
                        expected.sort_unstable();
                        taken.sort_unstable();
                        prop_assert_eq!(taken, expected);
                    }
                    Step::GiveUp => {
                        let mut given = Vec::new();
                        stack.give_up(|objects| given.extend_from_slice(objects), |it| {
                            // SAFETY: allocated above, and handed back.
                            unsafe { dealloc(it, page) };
                            pages -= 1;
                        });
                        given.sort_unstable();
                        prop_assert_eq!(given, core::mem::take(&mut model));
                        prop_assert_eq!(pages, 0);
                    }
                }
                prop_assert_eq!((stack.count() as usize, stack.pages()), (model.len(), pages));
                prop_assert!(model.iter().all(|object| stack.holds(*object)));
                prop_assert!(!stack.holds(object(next)));
            }
        }
    }
}
