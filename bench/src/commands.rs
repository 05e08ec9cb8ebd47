//! The commands: each gets its image, boots it, watches it and prints what came of it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::CommandFactory;
use clap_complete::Shell;
use quarry_record::{Measurement, Record, Run, Test, TestStatus};

use crate::budget;
use crate::cli::{
    BootCommand, Cli, Command, EdgeCommand, HostOptions, MachineOptions, RunCommand, ShowCommand, SmokeCommand,
    StatsCommand, StressCommand, TestCommand, accelerator,
};
use crate::compare;
use crate::export;
use crate::failure::Failure;
use crate::guest::{Guest, check_words, results, words_of_host};
use crate::images::{Image, workspace};
use crate::linux::LinuxCommand;
use crate::list;
use crate::matrix;
use crate::noise;
use crate::performance;
use crate::preflight;
use crate::process::check_qemu;
use crate::progress::Progress;
use crate::report;
use crate::report_page;
use crate::runs;
use crate::session::Session;
use crate::shell;
use crate::smoke::{Smoke, topologies};
use crate::stats;
use crate::tables::{Detail, tables};
use crate::trace;
use crate::watch::{Ended, Observer, watch};
use crate::words::count;

/// Does what the command line says.
///
/// # Errors
///
/// One sentence on what is wrong.
pub(crate) fn execute(cli: &Cli) -> Result<()> {
    match &cli.command {
        Command::Run(command) => run(command),
        Command::List(command) => {
            list::execute(command);
            Ok(())
        }
        Command::Boot(command) => boot(command),
        Command::Test(command) => test(command),
        Command::Stress(command) => stress(command),
        Command::Edge(command) => edge(command),
        Command::Stats(command) => stats(command),
        Command::Shell(command) => shell::execute(command),
        Command::Smoke(command) => smoke(command),
        Command::Linux(command) => linux(command),
        Command::Show(command) => show(command),
        Command::Matrix(command) => matrix::execute(command),
        Command::Trace(command) => trace::execute(command),
        Command::Completions(command) => {
            completions(command.shell);
            Ok(())
        }
        Command::Compare(command) => compare::execute(command),
        Command::Noise(command) => noise::execute(command),
        Command::Export(command) => export::execute(command),
        Command::Budget(command) => budget::execute(command),
        Command::Report(command) => report_page::execute(command),
        Command::Performance(command) => performance::execute(command),
    }
}

fn run(command: &RunCommand) -> Result<()> {
    let words = match &command.trace {
        Some(file) => {
            trace::check_for_guest(file)?;
            command.suite.guest_words_with_trace()?
        }
        None => command.suite.guest_words(),
    };
    let words = ["mode=run".to_owned()].into_iter().chain(words);
    let mut guest = Guest::prepare(Image::Bench, "run", &command.machine, &command.host, words)?;
    if let Some(file) = &command.trace {
        guest.boot.hand_over("opt/quarry/trace", file);
    }
    let _disks = command.disk.attach(&mut guest.boot)?;
    println!("{}", guest.boot.line());
    guest.files.output.clone_from(&command.output);
    measure(guest, command.boots, command.details)
}

/// Standard output is as that of `run`.
fn linux(command: &LinuxCommand) -> Result<()> {
    let guest = command.prepare()?;
    println!("{}", guest.boot.line());
    measure(guest, 1, command.details)
}

/// Boots so often, each time to the end, and prints tables of the last.
fn measure(mut guest: Guest, boots: u32, details: bool) -> Result<()> {
    for warning in preflight::warnings(guest.boot.accelerator, guest.boot.machine.cpus()) {
        eprintln!("note: {warning}");
    }
    for boot in 1..=boots {
        let ended = guest.watch(Duration::ZERO, &mut Progress::new(guest.host.verbose));
        let last = boot == boots;
        if last || ended.verdict.is_err() {
            print_session(&ended.session, details);
        } else {
            eprintln!("boot {boot} of {boots}: {}", count(ended.session.results.len() as u64, "result"));
        }
        ended.verdict.map_err(|failure| guest.explain(failure))?;
        if ended.session.results.is_empty() {
            return Err(guest.explain(Failure::NoResults));
        }
        guest.files.append = true;
    }
    Ok(())
}

/// Machine, tables and memory, as far as they are known.
fn print_session(session: &Session, details: bool) {
    print_sessions(&[session], details);
}

/// The same of sessions whose results stand in one table.
fn print_sessions(sessions: &[&Session], details: bool) {
    for run in sessions.iter().filter_map(|session| session.run.as_ref()) {
        println!("\n{}", report::machine(run));
    }
    let is_translated = |session: &&Session| {
        session.run.as_ref().is_some_and(|run| !session.results.is_empty() && !run.icount && run.hypervisor == "TCG")
    };
    if sessions.iter().any(is_translated) {
        println!("TCG translates every instruction: compare these figures with each other, not with real CPUs.\n");
    }
    let results: Vec<Measurement> = sessions.iter().flat_map(|session| session.results.iter().cloned()).collect();
    print!("{}", tables(&results, if details { Detail::Full } else { Detail::Overview }));
    for session in sessions {
        if let Some(stress) = &session.stress {
            println!("stress      {}", report::stress(stress));
        }
        if let Some(edge) = &session.edge {
            println!("{}", report::edge(edge));
        }
        if let Some(statistics) = &session.statistics {
            println!("{}", report::memory(statistics));
        }
    }
}

/// Passes on what the guest has for people.
struct PassOn;

impl Observer for PassOn {
    fn text(&mut self, line: &str) {
        println!("{line}");
    }
}

fn boot(command: &BootCommand) -> Result<()> {
    let guest = Guest::announce(Image::Bench, "boot", &command.machine, &command.host, ["mode=boot".to_owned()])?;
    let ended = watch(&guest.boot, guest.host.deadlines(Duration::ZERO), &guest.files, &mut PassOn);
    ended.verdict.map_err(|failure| guest.explain(failure))
}

/// Prints a line for each test.
struct Tests {
    verbose: bool,
}

impl Observer for Tests {
    fn text(&mut self, line: &str) {
        if self.verbose {
            eprintln!("{line}");
        }
    }

    fn record(&mut self, record: &Record, _session: &Session) {
        match record {
            Record::Run(Run { cpus_online, boot_microseconds, .. }) => {
                println!("booted on {} in {} ms", count((*cpus_online).into(), "CPU"), boot_microseconds / 1000);
            }
            Record::Test(Test { name, status: TestStatus::Ok, .. }) => println!("ok      {name}"),
            Record::Test(Test { name, status: TestStatus::Failed, message }) => {
                println!("FAILED  {name}: {}", message.as_deref().unwrap_or("it does not say why"));
            }
            _ => {}
        }
    }
}

fn test(command: &TestCommand) -> Result<()> {
    let words = command.filter.iter().map(|name| format!("test={name}"));
    let mut guest = Guest::prepare(Image::GuestTests, "test", &command.machine, &command.host, words)?;
    let _disks = command.disks()?.attach(&mut guest.boot)?;
    println!("{}", guest.boot.line());
    let Ended { session, verdict } = guest.watch(Duration::ZERO, &mut Tests { verbose: command.host.verbose });
    if let Some(name) = session.running_test() {
        println!("DIED    {name}");
    }
    let failed = session.tests.iter().filter(|test| test.status == TestStatus::Failed).count();
    println!("{}, {failed} failed", count(session.tests.len() as u64, "test"));
    verdict.map_err(|failure| guest.explain(failure))?;
    if session.tests.is_empty() {
        bail!(
            "no test ran{}",
            command.filter.as_ref().map(|it| format!(": no name has `{it}` in it")).unwrap_or_default()
        );
    }
    Ok(())
}

fn stress(command: &StressCommand) -> Result<()> {
    let work = Work { mode: "stress", seconds: command.seconds, seed: command.seed };
    work.watch(&command.machine, &command.host, |session| session.stress.is_some())
}

fn edge(command: &EdgeCommand) -> Result<()> {
    let work = Work { mode: "edge", seconds: command.seconds, seed: command.seed };
    work.watch(&command.machine(), &command.host, |session| session.edge.is_some())
}

/// What the bench image does for a while, to tell of it in one record.
struct Work {
    /// The word for it, which is also the record's name.
    mode: &'static str,
    seconds: u64,
    seed: u64,
}

impl Work {
    /// Has a guest do it and prints what came of it. `has_record` finds the record.
    fn watch(
        &self,
        machine: &MachineOptions,
        host: &HostOptions,
        has_record: impl FnOnce(&Session) -> bool,
    ) -> Result<()> {
        let Self { mode, seconds, seed } = self;
        let words = [format!("mode={mode}"), format!("seconds={seconds}"), format!("seed={seed}")];
        let guest = Guest::announce(Image::Bench, mode, machine, host, words)?;
        let ended = guest.watch(Duration::from_secs(*seconds), &mut Progress::new(host.verbose));
        print_session(&ended.session, false);
        ended.verdict.map_err(|failure| guest.explain(failure))?;
        if !has_record(&ended.session) {
            return Err(guest.explain(Failure::Nothing(mode)));
        }
        Ok(())
    }
}

/// Standard output has the reports alone, for whoever reads them there; all else goes to standard error.
fn stats(command: &StatsCommand) -> Result<()> {
    let (words, quiet) = command.work()?;
    let guest = Guest::prepare(Image::Bench, "stats", &command.machine, &command.host, words)?;
    eprintln!("{}", guest.boot.line());
    let Ended { session, verdict } = guest.watch(quiet, &mut Progress::new(command.host.verbose));
    verdict.map_err(|failure| guest.explain(failure))?;
    if let Some(stress) = &session.stress {
        eprintln!("stress      {}", report::stress(stress));
    }
    let shown = if command.json { stats::json(&session) } else { stats::texts(&session, &command.reports()) };
    print!("{}", shown.map_err(|failure| guest.explain(failure))?);
    Ok(())
}

fn smoke(command: &SmokeCommand) -> Result<()> {
    let folder = command.topologies.clone().unwrap_or_else(|| workspace().join("ci/topologies"));
    let topologies = topologies(&folder, &command.only)?;
    let accelerator = accelerator(command.accel, false, 0)?;
    let guest_words: Vec<String> =
        ["mode=boot".to_owned()].into_iter().chain(words_of_host(accelerator, &command.host)).collect();
    check_words(&guest_words)?;
    check_qemu(&command.host.qemu)?;
    let smoke = Smoke {
        qemu: command.host.qemu.clone(),
        accelerator,
        files: command.host.images.provide(Image::Bench)?,
        guest_words,
        more: command.host.qemu_arg.clone(),
        deadlines: command.host.deadlines(Duration::ZERO),
        results: command.host.log.clone().unwrap_or_else(results),
    };
    smoke.run(&topologies)
}

fn completions(shell: Shell) {
    let mut command = Cli::command();
    clap_complete::generate(shell, &mut command, "quarry", &mut std::io::stdout());
}

fn show(command: &ShowCommand) -> Result<()> {
    let mut sessions = Vec::new();
    for file in &command.files {
        sessions.extend(runs::read(file)?);
    }
    let together = if runs::can_stand_together(&sessions) { sessions.len() } else { 1 };
    for sessions in sessions.chunks(together) {
        print_sessions(&sessions.iter().collect::<Vec<_>>(), command.details);
        for session in sessions {
            let end = session.end.as_ref().context("the file has no `end` record: this run did not come to its end")?;
            session.judge(end)?;
        }
    }
    Ok(())
}
