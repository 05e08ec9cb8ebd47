//! [`watch`]: boots a guest and stays with it to its end, whatever end that is.
//!
//! It joins a [`Process`] (what happens) with a [`Session`] (what it means) under three deadlines: until the guest's
//! first record, from record to record, and for all of its work.

use std::fs::{File, OpenOptions, create_dir_all};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quarry_record::Record;

use crate::failure::Failure;
use crate::pin;
use crate::process::{Event, Line, Process};
use crate::qemu::Boot;
use crate::session::{Phase, Session};

/// How long a guest may take to end after its last record, or after it wrote what nobody understands.
const GRACE: Duration = Duration::from_secs(5);

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    /// Until the first record.
    pub(crate) boot: Duration,
    /// From one record to the next.
    pub(crate) record: Duration,
    /// The same, of a guest that has announced results.
    pub(crate) measured: Duration,
    /// From the first record to the last.
    pub(crate) work: Duration,
    /// So much more for each result the first record announces.
    pub(crate) result: Duration,
}

/// Where things are kept.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// Everything on the serial line, and what QEMU itself says.
    pub(crate) log: PathBuf,
    /// The records alone, where they are wanted.
    pub(crate) output: Option<PathBuf>,
    /// Whether `output` keeps the records it has.
    pub(crate) append: bool,
}

/// Whoever wants to know while the guest works.
pub(crate) trait Observer {
    /// A line for people.
    fn text(&mut self, _line: &str) {}

    /// A record, which the session has taken already.
    fn record(&mut self, _record: &Record, _session: &Session) {}

    /// Called several times a second.
    fn tick(&mut self, _session: &Session) {}

    /// Nothing more will come.
    fn done(&mut self) {}
}

/// Nobody wants to know.
pub(crate) struct Nobody;

impl Observer for Nobody {}

/// A guest's end.
pub(crate) struct Ended {
    /// All it said.
    pub(crate) session: Session,
    /// What to think of it.
    pub(crate) verdict: Result<(), Failure>,
}

/// Boots a guest and watches it to its end.
pub(crate) fn watch(boot: &Boot, deadlines: Deadlines, files: &Files, observer: &mut dyn Observer) -> Ended {
    watch_line(boot, deadlines, files, Line::unused(), observer)
}

/// The same, with somebody at the other end of the guest's serial line.
pub(crate) fn watch_line(
    boot: &Boot,
    deadlines: Deadlines,
    files: &Files,
    line: Line,
    observer: &mut dyn Observer,
) -> Ended {
    let mut session = Session::default();
    let verdict = begin(boot, files, line).and_then(|(mut process, mut output)| {
        let pin = boot.pin.then(|| boot.machine.cpus() as usize);
        let verdict = attend(&mut process, &mut session, deadlines, &mut output, pin, observer);
        observer.done();
        verdict
    });
    Ended { session, verdict }
}

/// A file of records, written as they come.
struct Output(Option<(PathBuf, File)>);

impl Output {
    fn open(path: Option<&Path>, append: bool) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self(None)) };
        let folder = path.parent().map_or(Ok(()), create_dir_all);
        let open = || OpenOptions::new().create(true).write(true).append(append).truncate(!append).open(path);
        let file = folder.and_then(|()| open());
        let file = file.map_err(|problem| Failure::Output { output: path.to_owned(), problem })?;
        Ok(Self(Some((path.to_owned(), file))))
    }

    fn keep(&mut self, line: &str) -> Result<(), Failure> {
        let Some((path, file)) = &mut self.0 else { return Ok(()) };
        writeln!(file, "{line}").map_err(|problem| Failure::Output { output: path.clone(), problem })
    }
}

fn begin(boot: &Boot, files: &Files, line: Line) -> Result<(Process, Output), Failure> {
    let output = Output::open(files.output.as_deref(), files.append)?;
    Ok((Process::start(boot, &files.log, line)?, output))
}

/// The three deadlines at work.
struct Clock {
    deadlines: Deadlines,
    started: Instant,
    last_record: Instant,
    /// When the first record came.
    booted: Option<Instant>,
    /// How long all work may take, and the way to the next record, now that it is known what there is to do.
    work: Duration,
    silence: Duration,
    /// Set once the guest has nothing more to say; then only the end is waited for.
    leaving: Option<Instant>,
}

impl Clock {
    fn new(deadlines: Deadlines) -> Self {
        let now = Instant::now();
        let (work, silence) = (deadlines.work, deadlines.record);
        Self { deadlines, started: now, last_record: now, booted: None, work, silence, leaving: None }
    }

    fn record(&mut self, session: &Session) {
        self.last_record = Instant::now();
        self.booted.get_or_insert(self.last_record);
        let rows = session.run.as_ref().map_or(0, |run| u32::try_from(run.rows).unwrap_or(u32::MAX));
        self.silence = if rows > 0 { self.deadlines.measured } else { self.deadlines.record };
        self.work = self.deadlines.work.saturating_add(self.deadlines.result.saturating_mul(rows));
        if session.phase() == Phase::Ended {
            self.leave();
        }
    }

    fn leave(&mut self) {
        self.leaving.get_or_insert_with(Instant::now);
    }

    fn deadline(&self) -> Instant {
        match (self.leaving, self.booted) {
            (Some(leaving), _) => leaving + GRACE,
            (None, None) => self.started + self.deadlines.boot,
            (None, Some(booted)) => (self.last_record + self.silence).min(booted + self.work),
        }
    }

    /// What it means that the deadline has passed.
    fn missed(&self, session: &Session) -> Failure {
        let test = session.running_test().map(ToOwned::to_owned);
        match (self.leaving, self.booted) {
            (Some(_), _) => Failure::Lingered,
            (None, None) => Failure::BootDeadline { limit: self.deadlines.boot },
            (None, Some(booted)) if booted + self.work <= self.last_record + self.silence => {
                Failure::WorkDeadline { limit: self.work, test }
            }
            (None, Some(_)) => Failure::RecordDeadline { limit: self.silence, test },
        }
    }
}

fn attend(
    process: &mut Process,
    session: &mut Session,
    deadlines: Deadlines,
    output: &mut Output,
    mut pin: Option<usize>,
    observer: &mut dyn Observer,
) -> Result<(), Failure> {
    let mut clock = Clock::new(deadlines);
    // The first line nobody understands. A guest that is dying may write such, and then its death is the news.
    let mut nonsense = None;
    loop {
        match process.next(clock.deadline()) {
            Event::Line(line) => match session.take(&line) {
                Ok(None) => observer.text(&line),
                Ok(Some(record)) => {
                    clock.record(session);
                    // With its first record its CPUs are up, and nothing is measured yet.
                    if let Some(cpus) = pin.take() {
                        pin::pin(process.id(), cpus)?;
                    }
                    // A sign of life is nothing to keep.
                    if !matches!(record, Record::Alive(_)) {
                        output.keep(&line)?;
                    }
                    observer.record(&record, session);
                }
                Err(failure) => {
                    clock.leave();
                    nonsense.get_or_insert(failure);
                }
            },
            Event::Closed => break,
            Event::Silence => observer.tick(session),
            Event::Interrupted => return Err(Failure::Interrupted),
        }
        if Instant::now() >= clock.deadline() {
            return Err(nonsense.unwrap_or_else(|| clock.missed(session)));
        }
    }
    clock.leave();
    let Some(exit) = process.exit(clock.deadline()) else {
        return Err(if crate::process::interrupted() { Failure::Interrupted } else { Failure::Lingered });
    };
    let verdict = session.verdict(exit, &process.complaints());
    match (nonsense, verdict) {
        (Some(nonsense), Ok(()) | Err(Failure::NoEnd { .. } | Failure::TooFew { .. })) => Err(nonsense),
        (_, verdict) => verdict,
    }
}

#[cfg(test)]
mod tests {
    use quarry_record::{End, EndStatus, Run, SCHEMA_VERSION};

    use super::*;

    fn clock() -> Clock {
        let hour = Duration::from_hours(1);
        Clock::new(Deadlines { boot: hour, record: 2 * hour, measured: 5 * hour, work: 3 * hour, result: hour })
    }

    #[test]
    fn until_the_first_record_the_boot_is_what_takes_too_long() {
        let clock = clock();
        assert_eq!(clock.deadline(), clock.started + clock.deadlines.boot);
        assert!(matches!(clock.missed(&Session::default()), Failure::BootDeadline { .. }));
    }

    /// A guest that has announced so many results, and may have ended.
    fn session(rows: u64, ended: bool) -> Session {
        let run = Record::Run(Run { schema: SCHEMA_VERSION, rows, ..Run::default() });
        let end = Record::End(End { status: EndStatus::Ok, reason: None, errors: 0 });
        let mut session = Session::default();
        for record in [Some(run), ended.then_some(end)].into_iter().flatten() {
            session.take(&record.to_line()).expect("the record is in its place");
        }
        session
    }

    #[test]
    fn a_record_gives_time_for_the_next_but_never_more_than_for_all_work() {
        let mut clock = clock();
        clock.record(&session(0, false));
        assert_eq!(clock.deadline(), clock.last_record + clock.deadlines.record);
        assert!(matches!(clock.missed(&Session::default()), Failure::RecordDeadline { .. }));
        clock.last_record += clock.deadlines.record;
        assert_eq!(clock.deadline(), clock.booted.expect("it has booted") + clock.deadlines.work);
        assert!(matches!(clock.missed(&Session::default()), Failure::WorkDeadline { .. }));
    }

    #[test]
    fn who_announces_results_may_work_and_be_silent_for_longer() {
        let mut clock = clock();
        clock.record(&session(100, false));
        assert_eq!(clock.deadline(), clock.last_record + clock.deadlines.measured);
        assert!(
            matches!(clock.missed(&Session::default()), Failure::RecordDeadline { limit, .. } if limit == clock.deadlines.measured)
        );
        assert_eq!(clock.work, Duration::from_hours(3 + 100));
    }

    #[test]
    fn a_guest_that_has_said_its_last_word_has_little_time_to_end() {
        let mut clock = clock();
        clock.record(&session(0, true));
        assert_eq!(clock.deadline(), clock.leaving.expect("it leaves") + GRACE);
        assert!(matches!(clock.missed(&Session::default()), Failure::Lingered));
    }
}
