//! What a test is, and how tests are run: one after the other on the first CPU, each announced before it starts.
//!
//! Used by `main`, which passes the lists of all modules; the test modules use [`tests!`](crate::tests), the `check`
//! macros and [`Outcome`]. After each test the memory statistics have to add up, and to tell what a look at every object
//! finds; and a test that has freed everything, which all do, must leave in use what was in use before.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use quarry_guest_records::{emit, emit_whole_trace, fingerprint, statistics};
use quarry_record::{End, EndStatus, Record, TestStatus};
use quarry_unikernel::memory::service;
use quarry_unikernel::thread::JoinHandle;
use quarry_unikernel::{ExitCode, cpus, option, thread};

use crate::team::{Gate, InUse, spawn};

/// Where random numbers start unless the command line says otherwise.
const DEFAULT_SEED: u64 = 1;

/// What a test comes to: nothing, or what was wrong.
pub(crate) type Outcome = Result<(), String>;

/// One test. It runs in a thread on the first CPU and leaves nothing behind.
pub(crate) struct Test {
    /// `area::what_is_true`.
    pub(crate) name: &'static str,
    pub(crate) run: fn() -> Outcome,
}

/// The list of a module's tests: the area, then the functions.
#[macro_export]
macro_rules! tests {
    ($area:literal: $($test:ident),+ $(,)?) => {
        /// The tests of this module.
        pub(crate) const TESTS: &[$crate::harness::Test] =
            &[$($crate::harness::Test { name: concat!($area, "::", stringify!($test)), run: $test }),+];
    };
}

/// Ends the test with a message unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(alloc::format!($($message)+));
        }
    };
}

/// Ends the test unless both are equal; the message says what they are.
#[macro_export]
macro_rules! check_equal {
    ($left:expr, $right:expr, $($message:tt)+) => {{
        let (left, right) = (&$left, &$right);
        if *left != *right {
            return Err(alloc::format!("{}: {left:?}, not {right:?}", core::format_args!($($message)+)));
        }
    }};
}

/// The seed of this run's random numbers.
pub(crate) fn seed() -> u64 {
    option("seed").and_then(|seed| seed.parse().ok()).unwrap_or(DEFAULT_SEED)
}

/// Runs the tests the command line asks for and writes their records.
pub(crate) fn run(areas: &[&[Test]]) -> ExitCode {
    emit(&Record::Run(fingerprint("guest-tests", seed(), 0)));
    make_stacks();
    let wanted = option("test").unwrap_or_default();
    let (mut ran, mut failed) = (0, 0);
    for test in areas.iter().copied().flatten().filter(|test| test.name.contains(wanted)) {
        ran += 1;
        failed += u64::from(!passes(test));
    }
    emit(&Record::Statistics(statistics()));
    let reason = match (ran, failed) {
        (0, _) => Some(format!("no test has a name that contains {wanted:?}")),
        (_, 0) => None,
        _ => Some(format!("{failed} of {ran} tests failed")),
    };
    let (status, code) =
        if reason.is_some() { (EndStatus::Failed, ExitCode::Failure) } else { (EndStatus::Ok, ExitCode::Success) };
    emit_whole_trace();
    emit(&Record::End(End { status, reason, errors: failed }));
    code
}

/// Threads most tests have on a CPU at once.
const USUAL_THREADS: usize = 4;

/// Most runs of a test until it leaves nothing behind: one that has more threads at once than any before, or larger ones,
/// makes stacks, which stay.
const MOST_RUNS: usize = 3;

/// Makes the stacks the tests will need, so that what is in use after a test and was not before it is the test's.
fn make_stacks() {
    let gate = Arc::new(Gate::new(cpus::online().count() * USUAL_THREADS));
    let start = |cpu| {
        let gate = Arc::clone(&gate);
        spawn(cpu, move || gate.pass())
    };
    let on_each_cpu = cpus::online().flat_map(|cpu| [cpu; USUAL_THREADS]);
    let threads: Vec<_> = on_each_cpu.map(start).collect();
    threads.into_iter().for_each(JoinHandle::join);
}

fn passes(test: &Test) -> bool {
    announce(test, TestStatus::Started, None);
    let outcome = without_loss(test.run);
    match outcome {
        Ok(()) => announce(test, TestStatus::Ok, None),
        Err(message) => {
            announce(test, TestStatus::Failed, Some(message));
            return false;
        }
    }
    true
}

fn without_loss(test: fn() -> Outcome) -> Outcome {
    let mut before = InUse::now();
    for _ in 0..MOST_RUNS {
        test()?;
        sound_memory()?;
        let after = InUse::now();
        if after == before {
            return Ok(());
        }
        before = after;
    }
    Err(format!("more is in use after each of {MOST_RUNS} runs, at last {before:?}"))
}

/// How often it is looked whether the last thread that makes memory has done so.
const LOOKS: usize = 1000;

/// No other CPU has anything to do between tests, when balancing threads are done with what a test left them, so the
/// accounts are exact.
fn sound_memory() -> Outcome {
    let mut looks = (0..LOOKS).map(|look| {
        if look > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        service().statistics()
    });
    let exact = looks.find(|statistics| !statistics.approximate);
    let statistics = exact.unwrap_or_else(|| service().statistics());
    check!(!statistics.approximate, "a CPU works still: {statistics:?}");
    check!(statistics.adds_up(), "the memory statistics do not add up: {statistics:?}");
    let objects = statistics.slab_in_use + service().pool_bytes().objects;
    check_equal!(objects, service().count_objects_in_use(), "bytes of objects in use");
    service().validate().map_err(|broken| format!("a zone's free lists are broken: {broken:?}"))
}

fn announce(test: &Test, status: TestStatus, message: Option<String>) {
    emit(&Record::Test(quarry_record::Test { name: test.name.to_string(), status, message }));
}
