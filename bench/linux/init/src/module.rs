//! [`Module`]: `quarry_linux` loaded, its requests and answers. Their format is told at the head of
//! `bench/linux/module/main.c`.

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};

use anyhow::{Context, Result, bail};
use quarry_suite::{Histogram, Span};
use rustix::system::finit_module;

/// Where the initramfs has the module.
const FILE: &str = "/quarry_linux.ko";

/// Where the module is spoken to.
const DOOR: &str = "/proc/quarry";

/// How the module runs a loop. The numbers are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As it is.
    Bare = 0,
    /// Over nothing, to see what the loop costs.
    Empty = 1,
    /// With every call timed.
    Stamped = 2,
}

/// What the module is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Name of the workload.
    pub(crate) workload: &'static str,
    /// How its loop is run.
    pub(crate) kind: Kind,
    /// Bytes of a block.
    pub(crate) size: usize,
    /// Order of a block of pages.
    pub(crate) order: u32,
    /// Slots, objects a call, or the node asked for.
    pub(crate) count: usize,
    /// On the first so many CPUs.
    pub(crate) cpus: usize,
    /// Operations of one CPU in one sample.
    pub(crate) operations: u64,
    /// Samples.
    pub(crate) samples: usize,
    /// Samples before them that do not count.
    pub(crate) warm_ups: usize,
    /// Where random numbers start.
    pub(crate) seed: u64,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, kind, size, order, count, cpus, operations, samples, warm_ups, seed } = self;
        let kind = *kind as u8;
        write!(f, "{workload} {kind} {size} {order} {count} {cpus} {operations} {samples} {warm_ups} {seed}")
    }
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Allocations that failed.
    pub(crate) failures: u64,
    /// Phase after phase, sample after sample, CPU after CPU.
    pub(crate) spans: Vec<Span>,
    /// What calls took on all CPUs, where each was timed.
    pub(crate) calls: Option<Calls>,
}

/// What calls took, in ticks. Reading the counter is in each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) allocations: Histogram,
    pub(crate) frees: Histogram,
}

impl Answer {
    fn parse(text: &str) -> Option<Self> {
        let (text, calls) = match text.split_once("allocations ") {
            Some((before, calls)) => (before, Some(Calls::parse(calls)?)),
            None => (text, None),
        };
        let (failures, spans) = headed(text.strip_prefix("failures ")?)?;
        let spans = spans.into_iter().map(|(start, end)| Span { start, end }).collect();
        Some(Self { failures, spans, calls })
    }
}

impl Calls {
    fn parse(text: &str) -> Option<Self> {
        let (allocations, frees) = text.split_once("frees ")?;
        let histogram = |text| headed(text).map(|(worst, buckets)| Histogram::of_buckets(buckets, worst));
        Some(Self { allocations: histogram(allocations)?, frees: histogram(frees)? })
    }
}

/// A number, and pairs of them on the lines below it.
fn headed(text: &str) -> Option<(u64, Vec<(u64, u64)>)> {
    let mut lines = text.lines();
    let first = lines.next()?.parse().ok()?;
    let pair = |line: &str| {
        let (one, other) = line.split_once(' ')?;
        Some((one.parse().ok()?, other.parse().ok()?))
    };
    Some((first, lines.map(pair).collect::<Option<_>>()?))
}

/// Whoever runs requests: the module, or a test.
pub(crate) trait Runner {
    /// Runs one.
    ///
    /// # Errors
    ///
    /// When it is refused or its answer not understood.
    fn run(&mut self, request: &Request) -> Result<Answer>;
}

/// The module.
pub(crate) struct Module {
    door: File,
    tsc_khz: u64,
    clock: u64,
    slab: String,
}

impl Module {
    /// Loads it. Where CPUs are `emulated`, those that wait for others sleep now and then.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it: most likely it was built with the headers of another kernel.
    pub(crate) fn load(emulated: bool) -> Result<Self> {
        let file = File::open(FILE).with_context(|| format!("there is no {FILE}"))?;
        let parameters = CString::new(format!("nap={}", u8::from(emulated))).expect("there is no null in it");
        finit_module(&file, &parameters, 0)
            .context("the kernel refuses the module; build it with the headers of this very kernel (--headers)")?;
        let mut door =
            File::options().read(true).write(true).open(DOOR).context("the module is loaded but not there")?;
        let hello = read(&mut door)?;
        let word = |key: &str| hello.lines().find_map(|line| line.strip_prefix(key));
        let number = |key| word(key).and_then(|number| number.parse::<u64>().ok());
        let known = number("tsc_khz ").zip(number("clock ")).zip(word("slab "));
        let ((tsc_khz, clock), slab) =
            known.with_context(|| format!("the module introduces itself by `{}`", hello.trim()))?;
        let slab = slab.to_owned();
        Ok(Self { door, tsc_khz, clock, slab })
    }

    /// Rate of the time-stamp counter, as the kernel found it.
    pub(crate) fn tsc_hz(&self) -> u64 {
        self.tsc_khz * 1000
    }

    /// Ticks that timing no call at all takes.
    pub(crate) fn clock(&self) -> u64 {
        self.clock
    }

    /// Name of the kernel's slab allocator.
    pub(crate) fn slab(&self) -> &str {
        &self.slab
    }

    /// Ends QEMU with that code. Returns where it has no device for that.
    ///
    /// # Errors
    ///
    /// When the module does not do it.
    pub(crate) fn exit(&mut self, code: u8) -> Result<()> {
        self.door.write_all(format!("exit {code}").as_bytes()).context("the module ends nothing")
    }
}

fn read(door: &mut File) -> Result<String> {
    let mut text = String::new();
    door.rewind().and_then(|()| door.read_to_string(&mut text)).context("the module gives no answer")?;
    Ok(text)
}

impl Runner for Module {
    fn run(&mut self, request: &Request) -> Result<Answer> {
        let line = request.to_string();
        let written = self.door.write(line.as_bytes());
        let written = written.with_context(|| format!("the module cannot run `{line}`"))?;
        if written != line.len() {
            bail!("the module took only a part of `{line}`");
        }
        let text = read(&mut self.door)?;
        Answer::parse(&text).with_context(|| format!("the module's answer to `{line}` is none"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_line_of_ten_words() {
        let request = Request {
            workload: "bulk",
            kind: Kind::Empty,
            size: 256,
            order: 0,
            count: 16,
            cpus: 2,
            operations: 1600,
            samples: 5,
            warm_ups: 3,
            seed: 7,
        };
        assert_eq!(request.to_string(), "bulk 1 256 0 16 2 1600 5 3 7");
    }

    #[test]
    fn an_answer_is_failures_and_spans() {
        let spans = vec![Span { start: 5, end: 9 }, Span { start: 10, end: 12 }];
        assert_eq!(Answer::parse("failures 3\n5 9\n10 12\n"), Some(Answer { failures: 3, spans, calls: None }));
        for wrong in
            ["", "tsc_khz 5\n", "failures x\n", "failures 0\n5\n", "failures 0\n5 -1\n", "failures 0\nallocations 5\n"]
        {
            assert_eq!(Answer::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn timed_calls_stand_below_the_spans() {
        let text = "failures 0\n5 9\nallocations 70\n20 3\n71 1\nfrees 9\n9 2\n";
        let answer = Answer::parse(text).expect("it is right");
        assert_eq!(answer.spans, [Span { start: 5, end: 9 }]);
        let calls = answer.calls.expect("there are some");
        let counted = |histogram: &Histogram| (histogram.count(), histogram.percentile(50, 100), histogram.worst());
        assert_eq!((counted(&calls.allocations), counted(&calls.frees)), ((4, 20, 70), (2, 9, 9)));
    }

    #[test]
    fn the_modules_buckets_are_those_of_the_suite() {
        let header = include_str!("../../module/quarry_linux.h");
        let number = |name: &str| {
            let line = header.lines().find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name));
            line.map(|rest| rest.trim().to_owned())
        };
        assert_eq!(number("KEPT_BITS "), Some("5".to_owned()));
        // A bucket that had others of the suite in it would not come back alone.
        let of_module =
            (0..32_u64).chain((32..64).flat_map(|most| (0..35).map(move |shift| ((most + 1) << shift) - 1)));
        let mut buckets: Vec<_> = of_module.map(|most| (most, 1)).collect();
        buckets.sort_unstable();
        let of_suite: Vec<_> = Histogram::of_buckets(buckets.iter().copied(), u64::MAX).buckets().collect();
        assert_eq!(of_suite, buckets);
    }
}
