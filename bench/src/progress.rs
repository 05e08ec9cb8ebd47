//! [`Progress`]: what the user sees on standard error while a guest works.
//!
//! On a terminal it is one line that rewrites itself; elsewhere a line now and then.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use quarry_record::{Measurement, Record};

use crate::session::{Phase, Session};
use crate::size::Size;
use crate::watch::Observer;
use crate::words::count;

/// How often a line is written where none can be rewritten.
const BETWEEN_LINES: Duration = Duration::from_secs(15);

/// How often a line is rewritten.
const BETWEEN_REWRITES: Duration = Duration::from_millis(100);

/// Shows how far a guest is.
pub(crate) struct Progress {
    terminal: bool,
    started: Instant,
    last: Option<Instant>,
    /// Also shows the guest's lines for people.
    verbose: bool,
}

impl Progress {
    /// Starts now.
    pub(crate) fn new(verbose: bool) -> Self {
        Self { terminal: stderr().is_terminal(), started: Instant::now(), last: None, verbose }
    }

    fn show(&mut self, session: &Session, at_once: bool) {
        let between = if self.terminal { BETWEEN_REWRITES } else { BETWEEN_LINES };
        let due = match self.last {
            None => self.terminal || self.started.elapsed() >= between,
            Some(last) => last.elapsed() >= between,
        };
        if !due && !at_once {
            return;
        }
        self.last = Some(Instant::now());
        let line = describe(session, self.started.elapsed());
        // Nobody is left to tell when standard error is gone.
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K{line}");
        } else {
            let _ = writeln!(stderr(), "{line}");
        }
    }

    fn clear(&self) {
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

impl Observer for Progress {
    fn text(&mut self, line: &str) {
        if self.verbose {
            self.clear();
            eprintln!("{line}");
        }
    }

    fn record(&mut self, record: &Record, session: &Session) {
        self.show(session, matches!(record, Record::Run(_)));
    }

    fn tick(&mut self, session: &Session) {
        self.show(session, false);
    }

    fn done(&mut self) {
        self.clear();
    }
}

/// One line on how far a guest is.
fn describe(session: &Session, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match (session.phase(), &session.run) {
        (Phase::Working | Phase::Ended, Some(run)) if run.rows > 0 => {
            let doing = session.doing.as_ref().map(|doing| format!("; slow: {doing}"));
            let latest = session.results.last().map(|result| format!(", {}", subject(result)));
            let latest = doing.or(latest).unwrap_or_default();
            format!("{} of {}, {seconds} s{latest}", session.results.len(), count(run.rows, "result"))
        }
        (Phase::Working | Phase::Ended, Some(run)) => {
            format!(
                "booted on {} in {} ms, works for {seconds} s",
                count(run.cpus_online.into(), "CPU"),
                run.boot_microseconds / 1000
            )
        }
        _ => format!("booting, {seconds} s"),
    }
}

fn subject(result: &Measurement) -> String {
    let extent = match (result.size, result.order) {
        (Some(size), _) => format!(" {}", Size(size).for_people()),
        (None, Some(order)) => format!(" order {order}"),
        (None, None) => String::new(),
    };
    format!("{}{extent} on {}", result.workload, count(result.cpus.into(), "CPU"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_record::{Alive, Run, SCHEMA_VERSION};

    #[test]
    fn every_phase_has_its_line() {
        let mut session = Session::default();
        let mut lines = vec![describe(&session, Duration::from_secs(1))];
        let run = Run { schema: SCHEMA_VERSION, rows: 12, cpus_online: 4, boot_microseconds: 59_400, ..Run::default() };
        let mut idle = session.clone();
        idle.take(&Record::Run(Run { rows: 0, ..run.clone() }).to_line()).expect("it is the first");
        lines.push(describe(&idle, Duration::from_secs(9)));
        session.take(&Record::Run(run).to_line()).expect("it is the first");
        lines.push(describe(&session, Duration::from_secs(2)));
        let alive = Alive { doing: "pair, size 4096, CPUs 1: sample 2 of 101".into() };
        session.take(&Record::Alive(alive).to_line()).expect("the guest works");
        lines.push(describe(&session, Duration::from_secs(50)));
        let result = Measurement { workload: "pair".into(), size: Some(4096), cpus: 1, ..Measurement::default() };
        session.take(&Record::Result(result).to_line()).expect("the guest works");
        lines.push(describe(&session, Duration::from_secs(61)));
        insta::assert_snapshot!(lines.join("\n"), @"
        booting, 1 s
        booted on 4 CPUs in 59 ms, works for 9 s
        0 of 12 results, 2 s
        0 of 12 results, 50 s; slow: pair, size 4096, CPUs 1: sample 2 of 101
        1 of 12 results, 61 s, pair 4 KiB on 1 CPU
        ");
    }
}
