//! What a test is, and how tests are run: one after the other on the first CPU, each announced before it starts.
//!
//! Used by `main`, which passes the lists of all modules; the test modules use [`tests!`](crate::tests), the `check`
//! macros and [`Outcome`]. After each test the memory statistics have to add up: a test that leaves the accounts wrong
//! has failed.

use alloc::format;
use alloc::string::{String, ToString};

use quarry_guest_records::{emit, fingerprint, statistics};
use quarry_record::{End, EndStatus, Record, TestStatus};
use quarry_unikernel::memory::service;
use quarry_unikernel::{ExitCode, option};

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
    emit(&Record::End(End { status, reason, errors: failed }));
    code
}

fn passes(test: &Test) -> bool {
    announce(test, TestStatus::Started, None);
    let outcome = (test.run)().and_then(|()| sound_memory());
    match outcome {
        Ok(()) => announce(test, TestStatus::Ok, None),
        Err(message) => {
            announce(test, TestStatus::Failed, Some(message));
            return false;
        }
    }
    true
}

/// No other CPU has anything to do between tests, so the accounts are exact.
fn sound_memory() -> Outcome {
    let statistics = service().statistics();
    check!(statistics.adds_up(), "the memory statistics do not add up: {statistics:?}");
    service().validate().map_err(|broken| format!("a zone's free lists are broken: {broken:?}"))
}

fn announce(test: &Test, status: TestStatus, message: Option<String>) {
    emit(&Record::Test(quarry_record::Test { name: test.name.to_string(), status, message }));
}
