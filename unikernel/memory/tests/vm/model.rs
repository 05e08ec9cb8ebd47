//! Any sequence of calls on an object, against a map of what each index must hold.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::vm::{PageRequest, VmObject};
use quarry_memory::{Gfp, NodeId, Topology};

use crate::cases;
use crate::support::{MIB, MemoryPager, assert_all_returned, free, has_label, hoard, label};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Writes to pages from an index on.
    Write(u64, u64),
    Read(u64, u64),
    Alloc(u64, PageRequest),
    Free(u64),
    Cache(u64),
    Deactivate(u64, u64),
    Wire(u64),
    Unwire(u64),
    /// Has memory short, and the node balanced.
    Balance,
    Compact,
    /// Takes all memory and gives it back: what is cached goes.
    Shortage,
}

fn index() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0u64..300, 1 => (0u64..30).prop_map(|low| low << 40 | low), 1 => (0u64..5).prop_map(|at| u64::MAX - at)]
}

fn request() -> impl Strategy<Value = PageRequest> {
    let class = prop_oneof![Just(PageRequest::normal()), Just(PageRequest::system()), Just(PageRequest::interrupt())];
    let cached = prop_oneof![Just(0), Just(1), Just(2)];
    (class, cached, any::<bool>()).prop_map(|(request, cached, zero)| {
        let request = if zero { request.zero() } else { request };
        let request = request.no_busy();
        match cached {
            0 => request,
            1 => request.if_cached(),
            _ => request.if_not_cached(),
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (index(), 1u64..60).prop_map(|(first, count)| Step::Write(first, count)),
        4 => (index(), 1u64..60).prop_map(|(first, count)| Step::Read(first, count)),
        3 => (index(), request()).prop_map(|(index, request)| Step::Alloc(index, request)),
        2 => index().prop_map(Step::Free),
        3 => index().prop_map(Step::Cache),
        2 => (index(), 1u64..100).prop_map(|(first, count)| Step::Deactivate(first, count)),
        2 => index().prop_map(Step::Wire),
        2 => index().prop_map(Step::Unwire),
        2 => Just(Step::Balance),
        1 => Just(Step::Compact),
        1 => Just(Step::Shortage),
    ]
}

/// What must be at an index; 0 for zeroes.
struct Model {
    hosted: &'static Hosted,
    pager: Option<&'static MemoryPager>,
    object: VmObject<HostedMachine>,
    /// What was written last, where the object still has it.
    written: BTreeMap<u64, u64>,
    wirings: BTreeMap<u64, u32>,
    labels: u64,
}

impl Model {
    fn new(nodes: usize, has_pager: bool) -> Self {
        let topology = (0..nodes).fold(Topology::builder(), |machine, _| machine.node(16 * MIB, 1));
        let hosted = Hosted::leak(topology.build().expect("a machine")).expect("there is address space");
        let pager = has_pager.then(MemoryPager::leak);
        let object = hosted.service().vm_object(pager.map(|pager| pager as _)).expect("there is memory");
        Self { hosted, pager, object, written: BTreeMap::new(), wirings: BTreeMap::new(), labels: 0 }
    }

    fn check(&self, index: u64, page: &[u8; 4096]) {
        match self.written.get(&index) {
            Some(&number) => assert!(has_label(page, number), "page {index} is not as it was written"),
            None => assert!(page.iter().all(|&byte| byte == 0), "page {index} was never written and is not zeroes"),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Write(first, count) => {
                for index in (first..=u64::MAX).take(count as usize) {
                    let mut page = self.object.fault(index).expect("there is memory");
                    self.check(index, &page);
                    self.labels += 1;
                    label(&mut page, self.labels);
                    self.written.insert(index, self.labels);
                }
            }
            Step::Read(first, count) => {
                for index in (first..=u64::MAX).take(count as usize) {
                    self.check(index, &self.object.fault(index).expect("there is memory"));
                }
            }
            Step::Alloc(index, request) => self.alloc(index, request),
            Step::Free(index) => self.free(index),
            Step::Cache(index) => self.cache(index),
            Step::Deactivate(first, count) => {
                let mut locked = self.object.lock();
                for index in (first..=u64::MAX).take(count as usize) {
                    if let Some(mut page) = locked.page(index) {
                        page.deactivate();
                    }
                }
            }
            Step::Wire(index) => {
                if let Some(mut page) = self.object.lock().page(index) {
                    page.wire();
                    *self.wirings.entry(index).or_default() += 1;
                }
            }
            Step::Unwire(index) => {
                if let Some(wirings) = self.wirings.get_mut(&index).filter(|wirings| **wirings > 0) {
                    self.object.lock().page(index).expect("a wired page stays").unwire();
                    *wirings -= 1;
                }
            }
            Step::Balance => {
                let service = self.hosted.service();
                let frames = hoard(service, Gfp::NOWAIT);
                self.hosted.topology().nodes().for_each(|node| _ = service.balance(node));
                free(service, frames);
            }
            Step::Compact => drop(self.hosted.service().compact_memory()),
            Step::Shortage => {
                let frames = hoard(self.hosted.service(), Gfp::NOWAIT);
                let cached: u32 = self.nodes().map(|node| self.hosted.service().vm_pages(node).cache).sum();
                assert_eq!(cached, 0, "all that is cached can be had");
                free(self.hosted.service(), frames);
            }
        }
    }

    fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.hosted.topology().nodes()
    }

    fn alloc(&mut self, index: u64, request: PageRequest) {
        let mut locked = self.object.lock();
        if locked.page(index).is_some() {
            return;
        }
        let was_cached = locked.is_cached(index);
        let got = self.hosted.service().vm_page_alloc(Some(&mut locked), index, request);
        let (if_cached, if_not) = (PageRequest::if_cached(request), PageRequest::if_not_cached(request));
        let expected = (request != if_cached || was_cached) && (request != if_not || !was_cached);
        assert_eq!(got.is_some(), expected, "{request:?} of a page that is cached: {was_cached}");
        let Some(page) = got else { return };
        assert_eq!(page.is_valid(), was_cached);
        assert!(!page.is_busy() && page.wirings() == 0);
        if was_cached {
            drop(locked);
            self.check(index, &self.object.fault(index).expect("it is there"));
        } else {
            // What is in the frame is the object's only once somebody says so.
            page.free().expect("nobody holds it");
        }
    }

    fn free(&mut self, index: u64) {
        let mut locked = self.object.lock();
        let Some(page) = locked.page(index) else { return };
        let is_dirty = page.is_dirty();
        let is_wired = page.wirings() > 0;
        let freed = page.free().is_ok();
        assert_eq!(freed, !is_wired);
        if freed && is_dirty {
            // What the pager has comes back, or nothing.
            drop(locked);
            self.reread(index);
        } else if freed && self.pager.is_none() {
            self.written.remove(&index);
        }
    }

    /// Takes what the pager has for what the page must hold: a dirty page was freed.
    fn reread(&mut self, index: u64) {
        let last = self.written.remove(&index);
        let Some(pager) = self.pager else { return };
        if let Some(number) = (1..=last.unwrap_or(0)).rev().find(|&number| pager.holds(index, number)) {
            self.written.insert(index, number);
        }
    }

    fn cache(&mut self, index: u64) {
        let mut locked = self.object.lock();
        let Some(page) = locked.page(index) else { return };
        let can_be = page.is_valid() && !page.is_dirty() && page.wirings() == 0;
        assert_eq!(page.cache(), can_be);
        assert_eq!(locked.is_cached(index), can_be);
    }

    fn check_books(&self) {
        let service = self.hosted.service();
        let rows = service.statistics();
        assert!(rows.adds_up(), "{rows:#?}");
        let mut locked = self.object.lock();
        assert_eq!(rows.object_pages + rows.object_cache, locked.page_count() * 4096, "{rows:#?}");
        for (&index, &wirings) in &self.wirings {
            assert_eq!(locked.page(index).map_or(0, |page| page.wirings()), wirings, "wirings of page {index}");
        }
        drop(locked);
        service.validate().unwrap_or_else(|broken| panic!("{broken}"));
    }

    fn finish(mut self) {
        for index in self.written.keys().copied().collect::<Vec<_>>() {
            self.take(Step::Read(index, 1));
        }
        self.check_books();
        let service = self.hosted.service();
        drop(self.object);
        assert_all_returned(service);
        self.hosted.leave();
        // SAFETY: nobody uses the instance any more.
        unsafe { self.hosted.retire() };
    }
}

proptest! {
    #![proptest_config(cases::cases(48))]

    #[test]
    fn an_object_is_a_map_whatever_is_done_to_it(
        nodes in 1usize..3,
        has_pager in any::<bool>(),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut model = Model::new(nodes, has_pager);
        for step in steps {
            model.take(step);
            model.check_books();
        }
        model.finish();
    }
}
