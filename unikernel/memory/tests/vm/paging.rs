//! A pager whose n-th request fails, for every n: each failure is told, pages that could not be written stay dirty and are
//! written later, none is lost, and nothing hangs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;

use quarry_memory::events::Event;
use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::vm::{FaultError, PageIn, PageOut, Pager, PagerError, Queue, VmObject};
use quarry_memory::{Gfp, NodeId};

use crate::support::{MemoryPager, assert_all_returned, free, has_label, hoard, label, machine};

type TestObject = VmObject<HostedMachine>;

const NODE: NodeId = NodeId(0);
const PAGES: u64 = 24;

/// A pager that fails one request, by number, and says which pages that were.
struct FailingPager {
    kept: &'static MemoryPager,
    asked: AtomicU64,
    failing: u64,
    /// Indices of a write that failed.
    unwritten: Mutex<Vec<u64>>,
    /// The index of a read that failed.
    unread: Mutex<Option<u64>>,
}

impl FailingPager {
    fn leak(kept: &'static MemoryPager, failing: u64) -> &'static Self {
        Box::leak(Box::new(Self {
            kept,
            asked: AtomicU64::new(0),
            failing,
            unwritten: Mutex::default(),
            unread: Mutex::default(),
        }))
    }

    fn fails(&self) -> bool {
        self.asked.fetch_add(1, SeqCst) + 1 == self.failing
    }

    fn has_failed(&self) -> bool {
        self.asked.load(SeqCst) >= self.failing
    }
}

impl Pager<HostedMachine> for FailingPager {
    fn page_in(&self, request: PageIn<HostedMachine>) {
        if self.fails() {
            *self.unread.lock().expect("nobody panics with it") = Some(request.index());
            return request.complete(Err(PagerError));
        }
        self.kept.page_in(request);
    }

    fn page_out(&self, request: PageOut<HostedMachine>) {
        if self.fails() {
            self.unwritten.lock().expect("nobody panics with it").extend(request.indices());
            return request.complete(Err(PagerError));
        }
        self.kept.page_out(request);
    }

    fn cluster(&self) -> usize {
        5
    }
}

/// Has the daemon write what is dirty: memory is short for a moment.
fn launder(hosted: &'static Hosted, object: &TestObject) {
    let service = hosted.service();
    let mut locked = object.lock();
    for index in 0..PAGES {
        if let Some(mut page) = locked.page(index) {
            page.deactivate();
        }
    }
    drop(locked);
    let frames = hoard(service, Gfp::NOWAIT);
    service.balance(NODE);
    free(service, frames);
}

/// The page at an index, with what was written to it; a failure is the pager's, and the next try has the page.
fn read(object: &TestObject, pager: &FailingPager, index: u64, number: u64) {
    let failed = pager.has_failed();
    let page = object.fault(index).or_else(|error| {
        assert_eq!(error, FaultError::Pager);
        assert!(!failed && *pager.unread.lock().expect("nobody panics with it") == Some(index), "page {index}");
        assert!(object.lock().page(index).is_none(), "no page is left where it could not be read");
        object.fault(index)
    });
    assert!(has_label(&page.expect("it fails once"), number), "page {index}");
}

/// A page that a write failed for is dirty still, or was written since.
fn assert_none_is_lost(object: &TestObject, pager: &FailingPager, number: impl Fn(u64) -> u64) {
    let mut locked = object.lock();
    for &index in pager.unwritten.lock().expect("nobody panics with it").iter() {
        let is_dirty = locked.page(index).is_some_and(|page| page.is_dirty() && !page.is_busy());
        assert!(is_dirty || pager.kept.holds(index, number(index)), "page {index}");
    }
}

/// Writes pages, has them written back, reads them, writes the half of them again, and so on; the pager's `failing`th request
/// fails. Returns whether there was such a request.
fn pages_go_and_come_while_a_request_fails(failing: u64, kept: &'static MemoryPager) -> bool {
    let hosted = machine(16, 1);
    let service = hosted.service();
    let pager = FailingPager::leak(kept, failing);
    let object = service.vm_object(Some(pager)).expect("there is memory");
    let number = |index: u64, round: u64| if index.is_multiple_of(2) { index + PAGES * round } else { index };
    for index in 0..PAGES {
        // Absent pages are asked for, too.
        let page = object.fault(index).or_else(|_| object.fault(index));
        label(&mut page.expect("it fails once"), index);
    }
    object.lock().page(7).expect("it is there").wire();
    for round in 0..3 {
        let failed_before = service.event_count(Event::VmLaunderFailed);
        launder(hosted, &object);
        if service.event_count(Event::VmLaunderFailed) > failed_before {
            let unwritten = pager.unwritten.lock().expect("nobody panics with it").len() as u64;
            assert_eq!(service.event_count(Event::VmLaunderFailed), unwritten);
            assert_none_is_lost(&object, pager, |index| number(index, round));
            launder(hosted, &object);
            assert_eq!(service.event_count(Event::VmLaunderFailed), unwritten, "written the second time");
        }
        assert_eq!(service.vm_pages(NODE).laundering, 0);
        for index in 0..PAGES {
            read(&object, pager, index, number(index, round));
            if number(index, round + 1) != index {
                label(&mut object.fault(index).expect("it is there"), number(index, round + 1));
            }
        }
    }
    object.lock().page(7).expect("a wired page stays").unwire();
    launder(hosted, &object);
    launder(hosted, &object);
    for index in 0..PAGES {
        assert!(kept.holds(index, number(index, 3)), "page {index} was written in the end");
    }
    drop(object);
    assert_all_returned(service);
    hosted.leave();
    // SAFETY: nobody uses the instance any more.
    unsafe { hosted.retire() };
    pager.has_failed()
}

#[test]
fn whichever_request_a_pager_fails_no_page_is_lost() {
    let mut failing = 1;
    while pages_go_and_come_while_a_request_fails(failing, MemoryPager::leak()) {
        failing += 1;
    }
    assert!(failing > 3 * PAGES / 2, "a run makes {failing} requests");
}

/// An object with dirty pages, which a pager was asked to write, and what it was asked: the test's to complete, and gone before
/// the object, which waits for it.
fn asked_to_write(hosted: &'static Hosted) -> (VmObject<HostedMachine>, mpsc::Receiver<PageOut<HostedMachine>>) {
    let (pager, requests) = MemoryPager::leak_held();
    let object = hosted.service().vm_object(Some(pager)).expect("there is memory");
    for index in 0..PAGES {
        label(&mut object.fault(index).expect("there is memory"), index);
    }
    launder(hosted, &object);
    (object, requests)
}

#[test]
fn a_page_that_is_wired_while_it_is_written_is_on_no_queue_whatever_comes_of_it() {
    for result in [Ok(()), Err(PagerError)] {
        let hosted = machine(16, 1);
        let service = hosted.service();
        let (object, receive) = asked_to_write(hosted);
        let request = receive.try_recv().expect("dirty pages are written");
        let index = request.indices().next().expect("there are pages to write");
        object.lock().page(index).expect("it is there").wire();
        let wired_before = service.vm_pages(NODE);
        request.complete(result);
        {
            let mut locked = object.lock();
            let mut page = locked.page(index).expect("a wired page stays");
            assert_eq!((page.queue(), page.is_dirty()), (Queue::None, result.is_err()), "{result:?}");
            page.unwire();
            assert_eq!(page.queue(), Queue::Active);
        }
        assert!(service.vm_pages(NODE).laundering < wired_before.laundering);
        receive.try_iter().for_each(drop);
        drop(object);
        assert_all_returned(service);
    }
}

#[test]
fn an_object_whose_pages_are_being_written_goes_once_they_were_whatever_comes_of_it() {
    for result in [Ok(()), Err(PagerError)] {
        let hosted = machine(16, 1);
        let service = hosted.service();
        let (object, receive) = asked_to_write(hosted);
        let requests: Vec<_> = receive.try_iter().collect();
        assert!(!requests.is_empty(), "dirty pages are written");
        thread::scope(|scope| {
            scope.spawn(|| drop(object));
            for request in requests {
                request.complete(result);
            }
        });
        assert_all_returned(service);
    }
}
