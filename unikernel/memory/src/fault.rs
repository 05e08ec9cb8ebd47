//! Fault injection: allocations that fail although there is memory, so that what callers do then is tested. Linux's
//! `failslab` and `fail_page_alloc`.
//!
//! Users: tests, through [`Service::failslab`] and [`Service::fail_page_alloc`]; the unikernel, which reads the same
//! words on its command line; the slow paths of objects and pages, which ask. Source: Linux's
//! `fault-injection/fault-injection.rst`. See docs/fault-injection.md for the words.
//!
//! # Theory
//!
//! An injector that is off is one relaxed load on slow paths, and nothing on a fast path. One that is on must see every
//! allocation, so caches pass everything through while it is: limits are 0, and refills take one object or block, as
//! while somebody waits for memory.
//!
//! Each injector's counters and random numbers are under a lock of its own, a leaf of the lock order. So the same
//! allocations with the same seed fail again. Injected failures are told, in Linux's words, after the lock was released,
//! and are no allocation failures to [`failure`](crate::failure): memory is not short.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::events::Event;
use crate::failure::RateLimit;
use crate::frame::Order;
use crate::gfp::Gfp;
use crate::lock::Lock;
use crate::machine::Machine;
use crate::registry::CacheView;
use crate::service::Service;

/// Which allocations fail, and when. The defaults are Linux's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultAttributes {
    /// Of those that could fail, each so many-th may. 0 is as 1.
    pub interval: u32,
    /// And of these so many percent do.
    pub probability: u32,
    /// Bytes that are allocated before the first failure.
    pub space: u64,
    /// Failures before no more are injected; `None` for no end.
    pub times: Option<u32>,
    /// Where the random numbers start.
    pub seed: u64,
    /// Whether each injected failure is told, as long as there are few. Linux's `verbose`.
    pub verbose: bool,
    /// Which allocations could fail at all.
    pub filter: FaultFilter,
}

/// Which allocations an injector may fail. (One with `__GFP_NOFAIL` never.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultFilter {
    /// Spare those that may wait (`__GFP_DIRECT_RECLAIM`). Linux's `ignore-gfp-wait`, on unless said otherwise.
    pub ignore_gfp_wait: bool,
    /// Spare those with `__GFP_HIGHMEM`. Linux's `ignore-gfp-highmem`, of `fail_page_alloc`.
    pub ignore_gfp_highmem: bool,
    /// Only those with all of these flags.
    pub require_gfp: Gfp,
    /// Only those of at least so many bytes.
    pub min_bytes: usize,
    /// Only those of at most so many bytes.
    pub max_bytes: usize,
    /// Only objects of the cache with that name.
    pub cache: Option<CacheFilter>,
}

/// The name of a cache. Linux marks caches with `/sys/kernel/slab/<cache>/failslab`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CacheFilter {
    name: [u8; Self::MAX_LENGTH],
    length: u8,
}

/// Whose words are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Slab,
    Pages,
}

/// What is wrong with a description of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// The four numbers are not there.
    Numbers,
    /// No number, or one out of range.
    Number(&'static str),
    /// A word that is not known.
    UnknownWord,
    /// What a word says makes no sense.
    Value(&'static str),
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numbers => {
                f.write_str("fault injection needs <interval>,<probability>,<space>,<times> first: 1,10,0,-1, say")
            }
            Self::Number(what) => write!(f, "the {what} of the fault injection is not a number in its range"),
            Self::UnknownWord => f.write_str(
                "the fault injection has a word that is not known: see docs/fault-injection.md for those that are",
            ),
            Self::Value(word) => write!(f, "what the fault injection's word {word} says is not understood"),
        }
    }
}

impl core::error::Error for FaultError {}

impl Default for FaultAttributes {
    fn default() -> Self {
        let filter = FaultFilter {
            ignore_gfp_wait: true,
            ignore_gfp_highmem: true,
            require_gfp: Gfp::empty(),
            min_bytes: 0,
            max_bytes: usize::MAX,
            cache: None,
        };
        Self { interval: 1, probability: 0, space: 0, times: None, seed: 1, verbose: true, filter }
    }
}

impl FaultAttributes {
    /// The `number`-th allocation fails, whatever it is, and no other.
    pub fn nth(number: u32) -> Self {
        let mut attributes = Self { interval: number, probability: 100, times: Some(1), ..Self::default() };
        attributes.filter.ignore_gfp_wait = false;
        attributes.filter.ignore_gfp_highmem = false;
        attributes
    }

    /// Reads what follows `failslab=`: `<interval>,<probability>,<space>,<times>`, then any of the words
    /// `ignore-gfp-wait=`, `require-gfp=`, `min-size=`, `max-size=`, `cache=`, `seed=`, `verbose=`, all separated by commas.
    ///
    /// # Errors
    ///
    /// [`FaultError`].
    pub fn parse_failslab(text: &str) -> Result<Self, FaultError> {
        Self::parse(text, Kind::Slab, Self::default())
    }

    /// Reads what follows `fail_page_alloc=`: as [`Self::parse_failslab`], with `min-order=` and `max-order=` for the
    /// sizes and `ignore-gfp-highmem=` for the cache. Blocks of one page do not fail unless `min-order=0` is given.
    ///
    /// # Errors
    ///
    /// [`FaultError`].
    pub fn parse_fail_page_alloc(text: &str) -> Result<Self, FaultError> {
        let mut defaults = Self::default();
        defaults.filter.min_bytes = bytes_of_order("1").unwrap_or_default();
        Self::parse(text, Kind::Pages, defaults)
    }

    fn parse(text: &str, kind: Kind, defaults: Self) -> Result<Self, FaultError> {
        let mut words = text.split(',');
        let mut number = || words.next().ok_or(FaultError::Numbers);
        let (interval, probability, space, times) = (number()?, number()?, number()?, number()?);
        let mut attributes = Self {
            interval: interval.parse().map_err(|_| FaultError::Number("interval"))?,
            probability: probability.parse().map_err(|_| FaultError::Number("probability"))?,
            space: space.parse().map_err(|_| FaultError::Number("space"))?,
            times: if times == "-1" { None } else { Some(times.parse().map_err(|_| FaultError::Number("times"))?) },
            ..defaults
        };
        if attributes.probability > 100 {
            return Err(FaultError::Number("probability"));
        }
        for word in words {
            let (name, value) = word.split_once('=').ok_or(FaultError::UnknownWord)?;
            attributes.apply(kind, name, value)?;
        }
        Ok(attributes)
    }

    fn apply(&mut self, kind: Kind, name: &str, value: &str) -> Result<(), FaultError> {
        let filter = &mut self.filter;
        match (kind, name) {
            (_, "ignore-gfp-wait") => {
                filter.ignore_gfp_wait = truth(value).ok_or(FaultError::Value("ignore-gfp-wait"))?;
            }
            (_, "require-gfp") => {
                filter.require_gfp = value.parse().map_err(|_| FaultError::Value("require-gfp"))?;
            }
            (_, "verbose") => self.verbose = truth(value).ok_or(FaultError::Value("verbose"))?,
            (_, "seed") => self.seed = value.parse().map_err(|_| FaultError::Value("seed"))?,
            (Kind::Slab, "min-size") => {
                filter.min_bytes = value.parse().map_err(|_| FaultError::Value("min-size"))?;
            }
            (Kind::Slab, "max-size") => {
                filter.max_bytes = value.parse().map_err(|_| FaultError::Value("max-size"))?;
            }
            (Kind::Slab, "cache") => {
                filter.cache = Some(CacheFilter::new(value).ok_or(FaultError::Value("cache"))?);
            }
            (Kind::Pages, "min-order") => {
                filter.min_bytes = bytes_of_order(value).ok_or(FaultError::Value("min-order"))?;
            }
            (Kind::Pages, "max-order") => {
                filter.max_bytes = bytes_of_order(value).ok_or(FaultError::Value("max-order"))?;
            }
            (Kind::Pages, "ignore-gfp-highmem") => {
                filter.ignore_gfp_highmem = truth(value).ok_or(FaultError::Value("ignore-gfp-highmem"))?;
            }
            _ => return Err(FaultError::UnknownWord),
        }
        Ok(())
    }
}

/// As debugfs reads a truth.
fn truth(value: &str) -> Option<bool> {
    match value {
        "Y" | "y" | "1" => Some(true),
        "N" | "n" | "0" => Some(false),
        _ => None,
    }
}

fn bytes_of_order(value: &str) -> Option<usize> {
    Order::new(value.parse().ok()?).map(Order::bytes)
}

impl FaultFilter {
    /// Whether the allocation is one that could fail. `cache` is the name of the object's.
    fn admits(&self, gfp: Gfp, bytes: usize, cache: Option<&dyn fmt::Display>) -> bool {
        let spared = gfp.contains(Gfp::NOFAIL)
            || self.ignore_gfp_wait && gfp.may_wait()
            || self.ignore_gfp_highmem && gfp.contains(Gfp::HIGHMEM);
        let named = self.cache.is_none_or(|wanted| cache.is_some_and(|name| wanted.is(name)));
        !spared && gfp.contains(self.require_gfp) && (self.min_bytes..=self.max_bytes).contains(&bytes) && named
    }
}

impl CacheFilter {
    /// Bytes of the longest name.
    pub const MAX_LENGTH: usize = 32;

    /// The caches of that name; `None` for no name or one that is too long.
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; Self::MAX_LENGTH];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        (!name.is_empty()).then_some(Self { name: bytes, length: name.len() as u8 })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.name[..usize::from(self.length)]
    }

    fn is(&self, name: &dyn fmt::Display) -> bool {
        struct Rest<'a>(&'a [u8]);
        impl fmt::Write for Rest<'_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0 = self.0.strip_prefix(text.as_bytes()).ok_or(fmt::Error)?;
                Ok(())
            }
        }
        let mut rest = Rest(self.as_bytes());
        fmt::Write::write_fmt(&mut rest, format_args!("{name}")).is_ok() && rest.0.is_empty()
    }
}

impl fmt::Debug for CacheFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheFilter({})", self.as_bytes().escape_ascii())
    }
}

/// Decides which allocations of one kind fail.
pub(crate) struct Injector {
    name: &'static str,
    active: AtomicBool,
    state: Lock<State>,
    reports: RateLimit,
}

/// What an injector is to do, and how far it has got.
struct State {
    attributes: Option<FaultAttributes>,
    /// Allocations counted for the interval.
    count: u32,
    /// The generator of random numbers (splitmix64).
    random: u64,
}

impl Injector {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            active: AtomicBool::new(false),
            state: Lock::new(State { attributes: None, count: 0, random: 0 }),
            reports: RateLimit::new(),
        }
    }

    /// Whether it is on: for those who then ask [`Self::fails`].
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        // Relaxed: an allocation that overlaps with the switch may be seen or not.
        self.active.load(Relaxed)
    }

    /// Starts anew with these attributes, or stops. Returns whether it was on before.
    fn set<M: Machine>(&self, machine: &M, attributes: Option<FaultAttributes>) -> bool {
        let random = attributes.map_or(0, |attributes| attributes.seed);
        let mut state = self.state.lock(machine);
        *state = State { attributes, count: 0, random };
        self.active.swap(attributes.is_some(), Relaxed)
    }

    fn attributes<M: Machine>(&self, machine: &M) -> Option<FaultAttributes> {
        self.state.lock(machine).attributes
    }

    /// Whether this allocation is to fail, and tells so. Never sleeps.
    #[cold]
    pub(crate) fn fails<M: Machine>(
        &self,
        machine: &M,
        gfp: Gfp,
        bytes: usize,
        cache: Option<&dyn fmt::Display>,
    ) -> bool {
        let mut state = self.state.lock(machine);
        let failing = state.decide(gfp, bytes, cache);
        drop(state);
        let Some(attributes) = failing else { return false };
        if attributes.verbose
            && !gfp.contains(Gfp::NOWARN)
            && let Some(suppressed) = self.reports.admit(machine.now())
        {
            let FaultAttributes { interval, probability, space, times, seed, .. } = attributes;
            let times = times.map_or(-1, i64::from);
            if suppressed > 0 {
                machine.warn(format_args!("FAULT_INJECTION: {suppressed} reports suppressed"));
            }
            machine.warn(format_args!("FAULT_INJECTION: forcing a failure."));
            machine.warn(format_args!(
                "name {}, interval {interval}, probability {probability}, space {space}, times {times}, seed {seed}",
                self.name
            ));
        }
        true
    }
}

impl State {
    /// The attributes, as they were before, of a failure that is to be; `None` where the allocation goes on. In Linux's
    /// order: first the space, then the interval, then chance.
    fn decide(&mut self, gfp: Gfp, bytes: usize, cache: Option<&dyn fmt::Display>) -> Option<FaultAttributes> {
        let attributes = self.attributes.as_mut()?;
        let before = *attributes;
        if before.probability == 0 || before.times == Some(0) || !before.filter.admits(gfp, bytes, cache) {
            return None;
        }
        if before.space > bytes as u64 {
            attributes.space -= bytes as u64;
            return None;
        }
        self.count = self.count.wrapping_add(1);
        if before.interval > 1 && !self.count.is_multiple_of(before.interval) {
            return None;
        }
        if before.probability < 100 && u64::from(before.probability) <= random(&mut self.random) % 100 {
            return None;
        }
        attributes.times = before.times.map(|times| times - 1);
        Some(before)
    }
}

/// The next of splitmix64's numbers. (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.)
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// The service's injectors.
pub(crate) struct Injectors {
    pub(crate) slab: Injector,
    pub(crate) pages: Injector,
}

impl Injectors {
    pub(crate) const fn new() -> Self {
        Self { slab: Injector::new("failslab"), pages: Injector::new("fail_page_alloc") }
    }

    #[cfg(feature = "hosted")]
    pub(crate) fn for_each_lock(&self, mut each: impl FnMut(&crate::raw_lock::RawLock)) {
        each(self.slab.state.raw());
        each(self.pages.state.raw());
    }
}

impl<M: Machine> Service<M> {
    /// Lets allocations of objects fail from now on, as the attributes say; with `None` no more. Starts counting anew.
    /// Called by a thread that may sleep, else other CPUs' caches still hand out what they have. Linux's `failslab`.
    pub fn failslab(&self, attributes: Option<FaultAttributes>) {
        self.inject(&self.injectors().slab, attributes);
    }

    /// As [`Self::failslab`], for page blocks, those of slabs among them. Linux's `fail_page_alloc`.
    pub fn fail_page_alloc(&self, attributes: Option<FaultAttributes>) {
        self.inject(&self.injectors().pages, attributes);
    }

    /// What [`Self::failslab`] was told, with the space and times that are left; `None` when it is off.
    pub fn failslab_attributes(&self) -> Option<FaultAttributes> {
        self.injectors().slab.attributes(self.machine())
    }

    /// As [`Self::failslab_attributes`], for page blocks.
    pub fn fail_page_alloc_attributes(&self) -> Option<FaultAttributes> {
        self.injectors().pages.attributes(self.machine())
    }

    /// Whether an allocation of an object is to fail.
    #[inline]
    pub(crate) fn object_fault_injected(&self, gfp: Gfp, cache: &CacheView) -> bool {
        let injector = &self.injectors().slab;
        injector.is_active()
            && self.note_fault(injector.fails(self.machine(), gfp, cache.geometry.size as usize, Some(&cache.name)))
    }

    /// Whether an allocation of a page block is to fail.
    #[inline]
    pub(crate) fn page_fault_injected(&self, gfp: Gfp, order: Order) -> bool {
        let injector = &self.injectors().pages;
        injector.is_active() && self.note_fault(injector.fails(self.machine(), gfp, order.bytes(), None))
    }

    fn note_fault(&self, fails: bool) -> bool {
        self.events().add(Event::FaultInjected, u64::from(fails));
        fails
    }

    /// Starts an injector, or stops it; while any is on, caches pass everything through.
    fn inject(&self, injector: &Injector, attributes: Option<FaultAttributes>) {
        let attention = self.waiters().attention();
        if attributes.is_some() {
            attention.raise();
        }
        if injector.set(self.machine(), attributes) {
            attention.lower();
        }
        if attributes.is_some() {
            self.close_all_caches();
            self.attached_set();
            self.drain_local();
            if self.machine().may_sleep() {
                M::drain_others(self);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;
    use std::vec::Vec;

    /// Which of a number of allocations fail.
    fn failing(attributes: FaultAttributes, allocations: u32, gfp: Gfp, bytes: usize) -> Vec<u32> {
        let mut state = State { attributes: Some(attributes), count: 0, random: attributes.seed };
        (0..allocations).filter(|_| state.decide(gfp, bytes, None).is_some()).collect()
    }

    fn slab(text: &str) -> FaultAttributes {
        FaultAttributes::parse_failslab(text).expect("the text is right")
    }

    #[test]
    fn interval_space_and_times_are_as_linux_has_them() {
        assert_eq!(failing(slab("1,100,0,-1"), 4, Gfp::ATOMIC, 64), [0, 1, 2, 3]);
        assert_eq!(failing(slab("3,100,0,2"), 20, Gfp::ATOMIC, 64), [2, 5]);
        assert_eq!(failing(slab("1,100,200,1"), 10, Gfp::ATOMIC, 64), [3], "three times 64 bytes are spared");
        assert_eq!(failing(slab("1,0,0,-1"), 10, Gfp::ATOMIC, 64), Vec::<u32>::new());
        assert_eq!(failing(slab("1,100,0,0"), 10, Gfp::ATOMIC, 64), Vec::<u32>::new());
        assert_eq!(failing(FaultAttributes::nth(7), 50, Gfp::KERNEL, 64), [6]);
    }

    #[test]
    fn the_seed_decides_what_chance_does() {
        let half = |seed: u64| failing(slab(&std::format!("1,50,0,-1,seed={seed}")), 1000, Gfp::ATOMIC, 8);
        assert_eq!(half(1), half(1));
        assert_ne!(half(1), half(2));
        assert!((400..600).contains(&half(3).len()), "about half fail");
    }

    #[test]
    fn filters_spare_what_they_should() {
        let fails = |text: &str, gfp, bytes| !failing(slab(text), 1, gfp, bytes).is_empty();
        assert!(!fails("1,100,0,-1", Gfp::KERNEL, 64), "those that may wait are spared unless asked for");
        assert!(fails("1,100,0,-1,ignore-gfp-wait=N", Gfp::KERNEL, 64));
        assert!(!fails("1,100,0,-1,ignore-gfp-wait=N", Gfp::KERNEL | Gfp::NOFAIL, 64), "what must not fail never does");
        assert!(fails("1,100,0,-1,min-size=64,max-size=64", Gfp::ATOMIC, 64));
        assert!(!fails("1,100,0,-1,min-size=65", Gfp::ATOMIC, 64));
        assert!(!fails("1,100,0,-1,max-size=63", Gfp::ATOMIC, 64));
        assert!(fails("1,100,0,-1,require-gfp=__GFP_ZERO", Gfp::ATOMIC | Gfp::ZERO, 64));
        assert!(!fails("1,100,0,-1,require-gfp=GFP_ATOMIC|__GFP_ZERO", Gfp::ATOMIC, 64));
    }

    #[test]
    fn pages_of_one_frame_are_spared_unless_asked_for() {
        let pages = |text| FaultAttributes::parse_fail_page_alloc(text).expect("the text is right");
        let fails = |text, gfp, order| {
            let bytes = Order::new(order).expect("an order").bytes();
            !failing(pages(text), 1, gfp, bytes).is_empty()
        };
        assert!(!fails("1,100,0,-1", Gfp::ATOMIC, 0));
        assert!(fails("1,100,0,-1", Gfp::ATOMIC, 1));
        assert!(fails("1,100,0,-1,min-order=0", Gfp::ATOMIC, 0));
        assert!(!fails("1,100,0,-1,max-order=2", Gfp::ATOMIC, 3));
        assert!(!fails("1,100,0,-1", Gfp::ATOMIC | Gfp::HIGHMEM, 1));
        assert!(fails("1,100,0,-1,ignore-gfp-highmem=N,ignore-gfp-wait=0", Gfp::HIGHUSER, 1));
    }

    #[test]
    fn one_cache_alone_can_be_named() {
        let attributes = slab("1,100,0,-1,cache=kmalloc-64");
        for (name, admitted) in [("kmalloc-64", true), ("kmalloc-6", false), ("kmalloc-640", false), ("", false)] {
            assert_eq!(attributes.filter.admits(Gfp::ATOMIC, 64, Some(&name)), admitted, "{name}");
            // A name is written in pieces.
            let pieces = format_args!("{}{}", &name[..name.len() / 2], &name[name.len() / 2..]).to_string();
            assert_eq!(attributes.filter.admits(Gfp::ATOMIC, 64, Some(&pieces)), admitted, "{name}");
        }
        assert!(!attributes.filter.admits(Gfp::ATOMIC, 64, None), "pages are of no cache");
    }

    #[test]
    fn what_is_wrong_with_a_description_is_said() {
        for (text, error) in [
            ("", FaultError::Numbers),
            ("1", FaultError::Numbers),
            ("1,100,0", FaultError::Numbers),
            ("1,101,0,-1", FaultError::Number("probability")),
            ("1,100,-5,-1", FaultError::Number("space")),
            ("1,100,0,-2", FaultError::Number("times")),
            ("1,100,0,-1,min-order=0", FaultError::UnknownWord),
            ("1,100,0,-1,", FaultError::UnknownWord),
            ("1,100,0,-1,ignore-gfp-wait=maybe", FaultError::Value("ignore-gfp-wait")),
            ("1,100,0,-1,require-gfp=GFP_WHATEVER", FaultError::Value("require-gfp")),
            ("1,100,0,-1,cache=", FaultError::Value("cache")),
        ] {
            assert_eq!(FaultAttributes::parse_failslab(text), Err(error), "{text}");
            assert!(!error.to_string().is_empty());
        }
        let order = FaultAttributes::parse_fail_page_alloc("1,100,0,-1,min-order=11");
        assert_eq!(order, Err(FaultError::Value("min-order")), "there is no such order");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-z,=-]{0,60}") {
            let _ = FaultAttributes::parse_failslab(&text);
            let _ = FaultAttributes::parse_fail_page_alloc(&text);
        }

        #[test]
        fn as_many_fail_as_the_numbers_say(interval in 1u32..20, times in 0u32..20, allocations in 0u32..400) {
            let attributes = slab(&std::format!("{interval},100,0,{times}"));
            let failed = failing(attributes, allocations, Gfp::ATOMIC, 8);
            prop_assert_eq!(failed.len() as u32, times.min(allocations / interval));
            prop_assert!(failed.iter().all(|index| (index + 1) % interval == 0));
        }
    }
}
