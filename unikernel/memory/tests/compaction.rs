//! Compaction makes large blocks of an aged zone, moves what may move with its contents, and loses nothing to those who
//! pin and free meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use quarry_memory::events::Event;
use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::{
    Gfp, Mobility, MovablePage, MovablePages, Order, OwnerError, OwnerId, PageError, PageOwner, Pfn, Topology,
};

const MIB: u64 = 1 << 20;
const QUIET: Gfp = Gfp::KERNEL.union(Gfp::NOWARN);
const ORDER_9: Order = Order::new(9).expect("order 9 exists");

type Page = MovablePage<HostedMachine>;

fn machine() -> &'static Hosted {
    let topology = Topology::builder().node(128 * MIB, 4).build().expect("a machine");
    Hosted::leak(topology).expect("there is address space")
}

fn pages(hosted: &'static Hosted) -> &'static MovablePages<HostedMachine> {
    hosted.service().movable_pages(1 << 16).expect("memory is free")
}

#[track_caller]
fn assert_books_balance(hosted: &'static Hosted, pages_in_use: u64) {
    let service = hosted.service();
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
    let rows = service.statistics();
    assert!(rows.adds_up(), "{rows:#?}");
    assert_eq!(rows.pages_in_use, pages_in_use * 4096, "{rows:#?}");
}

fn label(page: &mut Page, number: u64) {
    let mut guard = page.pin_mut();
    for (at, word) in guard.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(number << 16 | at as u64).to_le_bytes());
    }
}

fn has_label(page: &Page, number: u64) -> bool {
    let guard = page.pin();
    let mut words = guard.chunks_exact(8).enumerate();
    words.all(|(at, word)| word == (number << 16 | at as u64).to_le_bytes())
}

/// Fills all memory with labelled movable pages and keeps those whose numbers `keep` wants.
fn aged(pages: &'static MovablePages<HostedMachine>, keep: impl Fn(u64) -> bool) -> Vec<(u64, Page)> {
    let mut held: Vec<_> = (0..).zip(std::iter::from_fn(|| pages.alloc(QUIET | Gfp::NORETRY))).collect();
    held.retain(|(number, _)| keep(*number));
    for (number, page) in &mut held {
        label(page, *number);
    }
    held
}

/// How many blocks of order 9 can be had.
fn order_9_blocks(hosted: &'static Hosted) -> usize {
    let service = hosted.service();
    let gfp = Gfp::NOWAIT | Gfp::NOWARN;
    let blocks: Vec<_> = std::iter::from_fn(|| service.alloc_pages(gfp, ORDER_9)).collect();
    for &block in &blocks {
        service.__free_pages(block, ORDER_9);
    }
    blocks.len()
}

#[test]
fn an_aged_zone_gives_order_9_after_it_was_compacted() {
    let hosted = machine();
    let service = hosted.service();
    let set = pages(hosted);
    let held = aged(set, |number| number % 2 == 0);
    let free: u32 = service.zones().map(|zone| zone.free).sum();
    let before = order_9_blocks(hosted);
    let moved = service.compact_memory();
    let after = order_9_blocks(hosted);
    let possible = free as usize / 512;
    println!("order 9 in an aged zone: {before} of {possible} before, {after} after {moved} pages moved");
    assert_eq!(before, 0);
    // Watermarks keep a little back, and zones do not exchange memory.
    assert!(after * 10 >= possible * 9, "{after} of {possible}");
    assert!(held.iter().all(|(number, page)| has_label(page, *number)));
    assert_eq!(service.event_count(Event::MigrateSuccess), moved);
    assert_eq!(service.event_count(Event::MigrateFail), 0);
    assert!(service.event_count(Event::CompactIsolated) >= moved);
    assert_books_balance(hosted, held.len() as u64);
    let (count, frames) = (held.len() as u64, service.count_page_frames());
    drop(held);
    assert_eq!(frames - service.count_page_frames(), count);
    assert_books_balance(hosted, 0);
}

#[test]
fn a_request_that_may_wait_has_an_aged_zone_compacted() {
    let hosted = machine();
    let service = hosted.service();
    let held = aged(pages(hosted), |number| number % 2 == 0);
    assert_eq!(service.alloc_pages(Gfp::NOWAIT | Gfp::NOWARN, ORDER_9), None, "there is no such block yet");
    let block = service.alloc_pages(QUIET, ORDER_9).expect("pages can be moved out of the way");
    assert!(service.event_count(Event::CompactSuccess) > 0);
    assert!(held.iter().all(|(number, page)| has_label(page, *number)));
    service.__free_pages(block, ORDER_9);
    assert_books_balance(hosted, held.len() as u64);
}

#[test]
fn compacted_memory_is_left_alone() {
    let hosted = machine();
    let service = hosted.service();
    let held = aged(pages(hosted), |number| number % 3 == 0);
    assert!(service.compact_memory() > 0);
    let places: Vec<_> = held.iter().map(|(_, page)| page.pin().frame()).collect();
    assert_eq!(service.compact_memory(), 0, "there is nothing left to do");
    assert!(held.iter().zip(places).all(|((_, page), place)| page.pin().frame() == place));
}

#[test]
fn a_pinned_page_stays_where_it_is_and_others_move_around_it() {
    let hosted = machine();
    let held = aged(pages(hosted), |number| number % 2 == 0);
    let pinned: Vec<_> = held.iter().step_by(1000).map(|(_, page)| (page.pin(), page.pin())).collect();
    let places: Vec<_> = pinned.iter().map(|(guard, _)| (guard.frame(), guard.as_ptr())).collect();
    assert!(hosted.service().compact_memory() > 0);
    for ((guard, other), place) in pinned.iter().zip(places) {
        assert_eq!((guard.frame(), guard.as_ptr()), place);
        assert_eq!(other.frame(), guard.frame());
    }
    assert!(hosted.service().event_count(Event::MigrateFail) > 0);
    drop(pinned);
    assert!(hosted.service().compact_memory() > 0, "they move once they are not pinned");
    assert!(held.iter().all(|(number, page)| has_label(page, *number)));
    assert_books_balance(hosted, held.len() as u64);
}

#[test]
fn what_cannot_move_stays_and_so_does_what_shares_its_pageblock() {
    let hosted = machine();
    let service = hosted.service();
    let set = pages(hosted);
    // In every pageblock one page that came without an owner.
    let mut held = Vec::new();
    let mut fixed = Vec::new();
    for number in 0..10_000 {
        held.push(set.alloc(QUIET).expect("memory is free"));
        if number % 400 == 0 {
            fixed.push(service.alloc_pages(QUIET | Gfp::MOVABLE, Order::ZERO).expect("memory is free"));
        }
    }
    let mut number = 0;
    held.retain(|_| {
        number += 1;
        number % 2 == 0
    });
    let places: Vec<_> = held.iter().map(|page| page.pin().frame()).collect();
    let shares = |place: &Pfn| fixed.iter().any(|frame| frame.0 / 512 == place.0 / 512);
    service.compact_memory();
    for (page, place) in held.iter().zip(places) {
        assert!(!shares(&place) || page.pin().frame() == place, "{place} shares its pageblock and moved");
    }
    for &frame in &fixed {
        assert_eq!(service.page_count(frame), 1);
        service.__free_pages(frame, Order::ZERO);
    }
    assert_books_balance(hosted, held.len() as u64);
}

#[test]
fn a_movable_page_is_no_ordinary_page() {
    let hosted = machine();
    let service = hosted.service();
    let set = pages(hosted);
    let page = set.alloc(QUIET).expect("memory is free");
    assert!(page.pin().iter().all(|&byte| byte == 0));
    let frame = page.pin().frame();
    assert_eq!(service.mobility_of(frame), Some(Mobility::Movable));
    assert_eq!(service.page_count(frame), 0);
    assert!(matches!(service.try_free_pages(frame, Order::ZERO), Err(PageError::NotAllocated { .. })));
    drop(page);
    assert!(matches!(service.free_movable_page(frame), Err(PageError::NotAllocated { .. })), "it is free already");
    let ordinary = service.alloc_pages(QUIET | Gfp::MOVABLE, Order::ZERO).expect("memory is free");
    assert!(matches!(service.free_movable_page(ordinary), Err(PageError::NotAllocated { .. })));
    assert!(service.free_movable_page(Pfn(u32::MAX)).is_err());
    service.__free_pages(ordinary, Order::ZERO);
    assert_books_balance(hosted, 0);
}

#[test]
fn a_set_has_room_for_its_capacity_and_there_are_so_many_sets() {
    let hosted = machine();
    let service = hosted.service();
    let set = service.movable_pages(3).expect("memory is free");
    let held: Vec<_> = std::iter::from_fn(|| set.alloc(QUIET)).collect();
    assert_eq!((held.len(), set.capacity()), (3, 3));
    drop(held);
    assert!(set.alloc(QUIET).is_some());
    assert!(service.movable_pages(0).expect("memory is free").alloc(QUIET).is_none());
    let before = service.statistics();
    let errors: Vec<_> = (0..40).filter_map(|_| service.movable_pages(1).err()).collect();
    assert_eq!(errors, vec![OwnerError::TooManyOwners; 40 + 2 - quarry_memory::MAX_OWNERS]);
    assert!(service.statistics().slab_in_use - before.slab_in_use <= 30 * 200, "what failed keeps no memory");
}

/// What an owner does when it is asked to move its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Refuses,
    /// It freed the page before it was asked.
    HasFreed,
    Moves,
    /// And frees the page before anybody knows that it moved.
    MovesAndFrees,
}

/// An owner of many pages that answers as told, whose table is behind a lock.
struct Owner {
    hosted: &'static Hosted,
    answer: Mutex<Answer>,
    places: Mutex<Vec<Option<Pfn>>>,
    id: OnceLock<OwnerId>,
}

impl Owner {
    fn leak(hosted: &'static Hosted) -> &'static Self {
        let owner: &'static Self = Box::leak(Box::new(Self {
            hosted,
            answer: Mutex::new(Answer::Refuses),
            places: Mutex::new(Vec::new()),
            id: OnceLock::new(),
        }));
        let id = hosted.service().register_page_owner(owner).expect("there is room");
        owner.id.set(id).expect("set once");
        owner
    }

    fn add_page(&self) -> bool {
        let id = *self.id.get().expect("it is registered");
        let mut places = self.places.lock().expect("no thread panics");
        let page = self.hosted.service().alloc_movable_page(id, 7 << 40 | places.len() as u64, QUIET);
        places.extend(page.map(Some));
        page.is_some()
    }
}

impl PageOwner for Owner {
    fn move_page(&self, cookie: u64, from: Pfn, to: Pfn) -> bool {
        let service = self.hosted.service();
        let mut places = self.places.lock().expect("no thread panics");
        let place = &mut places[(cookie & 0xffff_ffff) as usize];
        assert_eq!((cookie >> 40, *place), (7, Some(from)), "the cookie is the page's");
        assert_ne!(from, to);
        match *self.answer.lock().expect("no thread panics") {
            Answer::Refuses => return false,
            Answer::HasFreed => {
                *place = None;
                service.free_movable_page(from).expect("it is a movable page still");
                assert!(service.free_movable_page(from).is_err(), "a second free is caught also now");
                return false;
            }
            Answer::Moves => *place = Some(to),
            Answer::MovesAndFrees => {
                *place = None;
                service.free_movable_page(to).expect("it is the owner's already");
            }
        }
        // SAFETY: these are the frames compaction gave, and nobody uses the page.
        unsafe { service.copy_frame(from, to) };
        true
    }
}

#[test]
fn whatever_an_owner_answers_every_frame_ends_where_it_belongs() {
    for answer in [Answer::Refuses, Answer::HasFreed, Answer::Moves, Answer::MovesAndFrees] {
        let hosted = machine();
        let service = hosted.service();
        let owner = Owner::leak(hosted);
        *owner.answer.lock().expect("no thread panics") = answer;
        while owner.add_page() {}
        {
            let mut places = owner.places.lock().expect("no thread panics");
            for place in places.iter_mut().step_by(2) {
                service.free_movable_page(place.take().expect("it is there")).expect("it is movable");
            }
        }
        let before = owner.places.lock().expect("no thread panics").clone();
        let moved = service.compact_memory();
        let places = owner.places.lock().expect("no thread panics").clone();
        assert_eq!(moved > 0, matches!(answer, Answer::Moves | Answer::MovesAndFrees), "{answer:?}");
        assert_eq!(before == places, answer == Answer::Refuses, "{answer:?}");
        assert_books_balance(hosted, places.iter().flatten().count() as u64);
        places.iter().flatten().for_each(|&page| service.free_movable_page(page).expect("it is there"));
        assert_books_balance(hosted, 0);
    }
}

#[test]
fn nothing_is_lost_while_threads_allocate_pin_free_and_compact() {
    let hosted = machine();
    let service = hosted.service();
    let set = pages(hosted);
    let held: Vec<_> = aged(set, |number| number % 2 == 0).into_iter().map(|page| Mutex::new(Some(page))).collect();
    let stop = AtomicBool::new(false);
    let wrong = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                let (held, wrong) = (&held, &wrong);
                scope.spawn(move || {
                    let mut place = worker * 31;
                    for step in 0..5_000_u64 {
                        place = (place + 7919) % held.len();
                        let mut slot = held[place].lock().expect("no thread panics");
                        let right = slot.as_ref().is_none_or(|(number, page)| has_label(page, *number));
                        wrong.fetch_add(u32::from(!right), Ordering::Relaxed);
                        if step % 3 == 0 {
                            *slot = set.alloc(QUIET).map(|mut page| {
                                label(&mut page, step);
                                (step, page)
                            });
                        }
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    service.compact_memory();
                }
            });
        }
        for worker in workers {
            worker.join().expect("no thread panics");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(wrong.load(Ordering::Relaxed), 0, "pages lost what was written");
    let held: Vec<_> = held.into_iter().filter_map(|slot| slot.into_inner().expect("no thread panics")).collect();
    assert!(held.iter().all(|(number, page)| has_label(page, *number)));
    assert!(service.event_count(Event::MigrateSuccess) > 0);
    assert_books_balance(hosted, held.len() as u64);
    drop(held);
    assert_books_balance(hosted, 0);
}
