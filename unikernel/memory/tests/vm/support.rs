//! Machines, and a pager that keeps pages in the memory of the test.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, mpsc};
use std::thread;

use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::vm::{BusyPage, PageIn, PageOut, PagedIn, Pager, PagerError};
use quarry_memory::{CpuId, Gfp, Order, Pfn, Service, Topology};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) type TestService = Service<HostedMachine>;

/// A machine of one node whose calling thread is its first CPU.
pub(crate) fn machine(mib: u64, cpus: usize) -> &'static Hosted {
    let topology = Topology::builder().node(mib * MIB, cpus).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    assert!(hosted.run_on(CpuId(0)));
    hosted
}

/// All single frames that `gfp` gives at once.
pub(crate) fn hoard(service: &TestService, gfp: Gfp) -> Vec<Pfn> {
    std::iter::from_fn(|| service.alloc_pages(gfp | Gfp::NOWARN, Order::ZERO)).collect()
}

pub(crate) fn free(service: &TestService, frames: impl IntoIterator<Item = Pfn>) {
    frames.into_iter().for_each(|frame| service.__free_pages(frame, Order::ZERO));
}

/// The rows add up, and nothing is in use.
#[track_caller]
pub(crate) fn assert_all_returned(service: &TestService) {
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
    let rows = service.statistics();
    assert!(rows.adds_up(), "{rows:#?}");
    assert_eq!((rows.in_use(), rows.object_cache), (0, 0), "{rows:#?}");
}

/// Writes a number all over a page.
pub(crate) fn label(page: &mut BusyPage<'_, HostedMachine>, number: u64) {
    for (at, word) in page.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(number << 16 | at as u64).to_le_bytes());
    }
}

pub(crate) fn has_label(page: &[u8; 4096], number: u64) -> bool {
    page.chunks_exact(8).enumerate().all(|(at, word)| word == (number << 16 | at as u64).to_le_bytes())
}

type Stored = Box<[u8; 4096]>;

/// Keeps pages in memory of the test's own.
#[derive(Default)]
pub(crate) struct MemoryPager {
    stored: Mutex<HashMap<u64, Stored>>,
    /// Fails what it is asked for while it is set.
    pub(crate) fails_to_read: AtomicBool,
    pub(crate) fails_to_write: AtomicBool,
    /// Pages and requests written, pages read.
    pub(crate) written: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) read: AtomicU64,
    /// Indices in the order in which they were written.
    pub(crate) order: Mutex<Vec<u64>>,
    /// Where what is to be written goes, to be completed by another thread.
    later: Mutex<Option<mpsc::Sender<PageOut<HostedMachine>>>>,
}

impl MemoryPager {
    pub(crate) fn leak() -> &'static Self {
        Box::leak(Box::default())
    }

    /// One whose writes a thread of its own completes.
    pub(crate) fn leak_asynchronous() -> &'static Self {
        let (pager, receive) = Self::leak_held();
        thread::spawn(move || receive.iter().for_each(|request| pager.write(request)));
        pager
    }

    /// One whose writes the caller completes, with [`Self::write`].
    pub(crate) fn leak_held() -> (&'static Self, mpsc::Receiver<PageOut<HostedMachine>>) {
        let pager = Self::leak();
        let (send, receive) = mpsc::channel();
        *pager.later.lock().expect("nobody panics with it") = Some(send);
        (pager, receive)
    }

    pub(crate) fn holds(&self, index: u64, number: u64) -> bool {
        let stored = self.stored.lock().expect("nobody panics with it");
        stored.get(&index).is_some_and(|page| has_label(page, number))
    }

    pub(crate) fn store(&self, index: u64, page: &[u8; 4096]) {
        self.stored.lock().expect("nobody panics with it").insert(index, Box::new(*page));
    }

    pub(crate) fn write(&self, request: PageOut<HostedMachine>) {
        if self.fails_to_write.load(SeqCst) {
            return request.complete(Err(PagerError));
        }
        for (index, bytes) in request.indices().zip(request.bytes()) {
            self.store(index, bytes);
            self.order.lock().expect("nobody panics with it").push(index);
        }
        self.written.fetch_add(request.count() as u64, SeqCst);
        self.requests.fetch_add(1, SeqCst);
        request.complete(Ok(()));
    }
}

impl Pager<HostedMachine> for MemoryPager {
    fn page_in(&self, mut request: PageIn<HostedMachine>) {
        if self.fails_to_read.load(SeqCst) {
            // As if it had forgotten it.
            return drop(request);
        }
        let stored = self.stored.lock().expect("nobody panics with it");
        let result = match stored.get(&request.index()) {
            Some(page) => {
                request.bytes_mut().copy_from_slice(&page[..]);
                self.read.fetch_add(1, SeqCst);
                PagedIn::Filled
            }
            None => PagedIn::Absent,
        };
        drop(stored);
        request.complete(Ok(result));
    }

    fn page_out(&self, request: PageOut<HostedMachine>) {
        let later = self.later.lock().expect("nobody panics with it").clone();
        match later {
            Some(later) => later.send(request).expect("the pager's thread lives"),
            None => self.write(request),
        }
    }
}
