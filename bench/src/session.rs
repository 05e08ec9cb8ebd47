//! [`Session`]: what a guest has said so far, and the verdict over it. No processes and no clocks here.
//!
//! ```text
//! Booting --run--> Working --result, alive, test, stress, edge, trace, statistics, report--> Working --end--> Ended
//! ```
//!
//! An `end` record that tells of a failure may come at any time. Any other record in any other place is a failure of
//! its own.

use std::collections::VecDeque;

use quarry_record::{Edge, End, EndStatus, Measurement, Record, Report, Run, Statistics, Stress, Test, TestStatus};

use crate::failure::Failure;
use crate::process::Exit;

/// Lines that are no records, kept to show what went before a failure.
const LAST_LINES: usize = 24;

/// How far a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing heard of it.
    Booting,
    /// Its `run` record has come.
    Working,
    /// Its `end` record has come.
    Ended,
}

/// What a guest has said so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    /// The first record.
    pub(crate) run: Option<Run>,
    /// Results, in the order they came.
    pub(crate) results: Vec<Measurement>,
    /// Tests that are over, in the order they ended.
    pub(crate) tests: Vec<Test>,
    /// What came of a stress.
    pub(crate) stress: Option<Stress>,
    /// What came of a run at the edge.
    pub(crate) edge: Option<Edge>,
    /// The lines of a trace, as far as they have come.
    pub(crate) trace: String,
    /// Events of the trace there was no room for; known when the trace is whole.
    pub(crate) trace_dropped: Option<u64>,
    /// The latest statistics.
    pub(crate) statistics: Option<Statistics>,
    /// Reports of the memory service, in the order they came.
    pub(crate) reports: Vec<Report>,
    /// The last record.
    pub(crate) end: Option<End>,
    /// What the guest said it is at, since its last result.
    pub(crate) doing: Option<String>,
    /// The test that has started and is not over.
    running_test: Option<String>,
    last_lines: VecDeque<String>,
    line: usize,
}

impl Session {
    /// One that begins behind so many lines of a file.
    pub(crate) fn behind(lines: usize) -> Self {
        Self { line: lines, ..Self::default() }
    }

    /// How far the guest is.
    pub(crate) const fn phase(&self) -> Phase {
        match (&self.run, &self.end) {
            (None, _) => Phase::Booting,
            (Some(_), None) => Phase::Working,
            (Some(_), Some(_)) => Phase::Ended,
        }
    }

    /// The test at work.
    pub(crate) fn running_test(&self) -> Option<&str> {
        self.running_test.as_deref()
    }

    /// The last lines for people.
    pub(crate) fn last_lines(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.last_lines.iter().map(String::as_str)
    }

    /// Takes one line; the record in it, or `None` when it is one for people.
    ///
    /// # Errors
    ///
    /// [`Failure::Malformed`] and [`Failure::Misplaced`].
    pub(crate) fn take(&mut self, line: &str) -> Result<Option<Record>, Failure> {
        self.line += 1;
        if !Record::is_record(line) {
            if self.last_lines.len() == LAST_LINES {
                self.last_lines.pop_front();
            }
            self.last_lines.push_back(line.to_owned());
            return Ok(None);
        }
        let record = Record::from_line(line)
            .map_err(|problem| Failure::Malformed { line: self.line, problem: problem.to_string() })?;
        let place = match (self.phase(), &record) {
            (Phase::Booting, Record::Run(_)) => None,
            // One that fails may do so at any time: when it cannot follow its command line, and when it panics.
            (_, Record::End(end)) if end.status == EndStatus::Failed => None,
            (Phase::Booting, _) => Some("before its `run` record"),
            (Phase::Working, Record::Run(_)) => Some("where there was one before"),
            (Phase::Working, _) => None,
            (Phase::Ended, _) => Some("after its `end` record"),
        };
        if let Some(place) = place {
            return Err(Failure::Misplaced { line: self.line, record: name(&record), place });
        }
        self.keep(&record);
        Ok(Some(record))
    }

    fn keep(&mut self, record: &Record) {
        match record.clone() {
            Record::Run(run) => self.run = Some(run),
            Record::Result(result) => {
                self.doing = None;
                self.results.push(result);
            }
            Record::Alive(alive) => self.doing = Some(alive.doing),
            Record::Statistics(statistics) => self.statistics = Some(statistics),
            Record::Report(report) => self.reports.push(report),
            Record::Stress(stress) => self.stress = Some(stress),
            Record::Edge(edge) => self.edge = Some(edge),
            Record::Trace(piece) => {
                self.trace += &piece.text;
                self.trace_dropped = piece.dropped;
            }
            Record::Test(test) if test.status == TestStatus::Started => self.running_test = Some(test.name),
            Record::Test(test) => {
                self.running_test = None;
                self.tests.push(test);
            }
            Record::End(end) => self.end = Some(end),
        }
    }

    /// What to think of the guest now that QEMU has ended.
    ///
    /// # Errors
    ///
    /// What is worst about it.
    pub(crate) fn verdict(&self, exit: Exit, complaints: &str) -> Result<(), Failure> {
        let test = self.running_test.clone();
        match exit {
            Exit::LoaderRefused => {
                let prefix = "quarry-loader: error: ";
                let reason = self.last_lines().filter_map(|line| line.strip_prefix(prefix)).next_back();
                return Err(Failure::Loader { reason: reason.unwrap_or("it does not say why").to_owned() });
            }
            Exit::Panicked => {
                let reason = self.end.as_ref().and_then(|end| end.reason.as_deref());
                let reason = reason.map(|reason| reason.trim_start_matches("panic: ").to_owned());
                return Err(Failure::Panicked { test, reason });
            }
            // What QEMU says before it ends by itself tells more than that it ended.
            Exit::Other(status) if status != 0 && self.run.is_none() && !complaints.is_empty() => {
                return Err(Failure::Qemu { status, complaint: one_line(complaints) });
            }
            // Who said that it failed may reset in place of ending: Linux, where the module that ends it did not load.
            Exit::Other(0) if self.end.as_ref().is_some_and(|end| end.status == EndStatus::Failed) => {}
            Exit::Other(_) | Exit::Signal(_) => return Err(Failure::Died { exit, test }),
            Exit::Success | Exit::Failed => {}
        }
        let Some(end) = &self.end else { return Err(Failure::NoEnd { test }) };
        self.judge(end)?;
        if exit == Exit::Failed { Err(Failure::Contradiction) } else { Ok(()) }
    }

    /// What to think of records that are whole.
    ///
    /// # Errors
    ///
    /// What is worst about them.
    pub(crate) fn judge(&self, end: &End) -> Result<(), Failure> {
        if end.status == EndStatus::Failed {
            let reason = end.reason.clone().unwrap_or_else(|| "the guest failed and does not say why".into());
            return Err(Failure::SaysFailed { reason });
        }
        let errors = end.errors.max(self.errors());
        if errors > 0 {
            return Err(Failure::Errors { errors });
        }
        let announced = self.run.as_ref().map_or(0, |run| run.rows);
        let given = (self.results.len() + self.tests.len()) as u64;
        if given < announced { Err(Failure::TooFew { announced, given }) } else { Ok(()) }
    }

    /// Errors in all records together.
    fn errors(&self) -> u64 {
        let results = self.results.iter().map(|result| result.errors);
        let stress = self.stress.iter().map(|stress| stress.errors.max(u64::from(!stress.passed)));
        let edge = self.edge.iter().map(|edge| edge.complaints.len() as u64);
        let failed_tests = self.tests.iter().map(|test| u64::from(test.status == TestStatus::Failed));
        let statistics =
            self.statistics.iter().map(|statistics| u64::from(!statistics.adds_up && !statistics.approximate));
        results.chain(stress).chain(edge).chain(failed_tests).chain(statistics).fold(0, u64::saturating_add)
    }
}

fn name(record: &Record) -> &'static str {
    match record {
        Record::Run(_) => "run",
        Record::Result(_) => "result",
        Record::Statistics(_) => "statistics",
        Record::Report(_) => "report",
        Record::Stress(_) => "stress",
        Record::Edge(_) => "edge",
        Record::Alive(_) => "alive",
        Record::Trace(_) => "trace",
        Record::Test(_) => "test",
        Record::End(_) => "end",
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
