//! The prompt: a person at a terminal, or a script from a pipe, says what to do next.
//!
//! Used by `main` for `mode=shell`. Keys, lines and commands are those of `quarry-shell`; here they are done. One thread
//! on the first CPU reads the console, and sleeps while nothing comes; a command runs in it to its end.
//!
//! What can be asked for is in [`COMMANDS`]. A command fails when it is not understood or when what it did went wrong;
//! either is told in one sentence. The prompt goes on, and a script's end tells how many there were.

mod bench;
mod faults;

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use quarry_record::catalogue;
use quarry_shell::{COMMANDS, Command, Description, Editor, Input, Report, Script, Vocabulary, parse};
use quarry_suite::{Limit, Options, Platform, Stress, Workload, stress};
use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::statistics::{
    Buddyinfo, Hardware, Malloctypes, Meminfo, MetadataParts, Numastat, Pagetypeinfo, Rows, Slabinfo, Vmstat, Zoneinfo,
};
use quarry_unikernel::{console, cpus, print, println, topology};

use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::peers::CONTESTANTS;

const PROMPT: &str = "quarry> ";

/// Does what is asked for until there is no more; returns how many commands of a script failed. (A person saw it.)
pub(crate) fn converse(machine: Machine, options: &Options) -> u64 {
    machine.warm_up();
    let shell = Shell { machine, options };
    let failed = if options.columns == 0 {
        shell.follow_script()
    } else {
        shell.talk();
        0
    };
    // The last records need memory.
    faults::end();
    failed
}

struct Shell<'o> {
    machine: Machine,
    options: &'o Options,
}

/// Whether there is more to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    More,
    End,
}

impl Shell<'_> {
    fn talk(&self) {
        let workloads: Vec<_> = Workload::ALL.iter().map(|workload| workload.name()).collect();
        let allocators: Vec<_> = CONTESTANTS.iter().map(|contestant| contestant.name).collect();
        let words = Vocabulary { workloads: &workloads, allocators: &allocators };
        let mut editor = Editor::new(PROMPT, self.options.columns);
        println!("{} CPUs on {} nodes. `help` lists the commands.", cpus::online().count(), topology().nodes().count());
        editor.draw(&mut console::write);
        loop {
            match editor.feed(next_byte(), &words, &mut console::write) {
                None => continue,
                Some(Input::Closed) => return,
                Some(Input::GivenUp | Input::Unreadable) => {}
                Some(Input::Line(line)) => match self.obey(&line) {
                    Ok(Next::More) => {}
                    Ok(Next::End) => return,
                    Err(problem) => println!("{problem}"),
                },
            }
            editor.draw(&mut console::write);
        }
    }

    fn follow_script(&self) -> u64 {
        let mut script = Script::default();
        let mut failed = 0;
        loop {
            let done = match script.feed(next_byte()) {
                None | Some(Input::GivenUp) => continue,
                Some(Input::Closed) => return failed,
                Some(Input::Unreadable) => Err("a line is too long, or no text".to_string()),
                Some(Input::Line(line)) => self.obey(&line),
            };
            match done {
                Ok(Next::More) => {}
                Ok(Next::End) => return failed,
                Err(problem) => {
                    println!("{problem}");
                    failed += 1;
                }
            }
        }
    }

    /// Does what a line says.
    ///
    /// # Errors
    ///
    /// A sentence on what went wrong.
    fn obey(&self, line: &str) -> Result<Next, String> {
        match parse(line).map_err(|error| error.to_string())? {
            None => {}
            Some(Command::Quit) => return Ok(Next::End),
            Some(Command::Help) => help(),
            Some(Command::Workloads) => list(catalogue::WORKLOADS.iter().map(|it| (it.name, it.summary))),
            Some(Command::Allocators) => list(catalogue::ALLOCATORS.iter().map(|it| (it.name, it.summary))),
            Some(Command::Show(report)) => show(report)?,
            Some(Command::Bench(task)) => bench::run(self.machine, self.options, &task)?,
            Some(Command::Fault(fault)) => faults::apply(fault)?,
            Some(Command::Stress(seconds)) => self.stress(seconds)?,
        }
        Ok(Next::More)
    }

    fn stress(&self, seconds: u64) -> Result<(), String> {
        let cpus = self.machine.cpu_count();
        let task = Stress { cpus, seed: self.options.settings.seed, limit: Limit::Seconds(seconds) };
        let report = stress(self.machine, &Kernel, task);
        println!(
            "{} operations on {cpus} CPUs, {} blocks handed on, {} errors, {} failed allocations, {} bytes lost",
            report.operations, report.handed_on, report.errors, report.failed_allocations, report.lost_bytes
        );
        if report.passed() { Ok(()) } else { Err("the stress failed".into()) }
    }
}

fn next_byte() -> u8 {
    let mut byte = [0];
    console::read(&mut byte);
    byte[0]
}

fn help() {
    let length = |command: &Description| command.name.len() + 1 + command.words.len();
    let width = COMMANDS.iter().map(length).max().unwrap_or_default();
    for command in COMMANDS {
        let (name, rest) = (command.name, width - command.name.len() - 1);
        println!("{name} {:rest$}  {}", command.words, command.about);
    }
}

fn list(entries: impl Iterator<Item = (&'static str, &'static str)> + Clone) {
    let width = entries.clone().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, summary) in entries {
        println!("{name:width$}  {summary}");
    }
}

/// # Errors
///
/// When the rows do not add up though nobody else works.
fn show(report: Report) -> Result<(), String> {
    let service = service();
    match report {
        Report::Numa => print!("{}", Hardware { service, topology: topology() }),
        Report::Rows => {
            print!("{}", Rows(service));
            if !service.statistics().adds_up() {
                return Err("the rows do not add up".into());
            }
        }
        Report::Metadata => print!("{}", MetadataParts(service)),
        Report::Slabinfo => print!("{}", Slabinfo(service)),
        Report::Buddyinfo => print!("{}", Buddyinfo(service)),
        Report::Pagetypeinfo => print!("{}", Pagetypeinfo(service)),
        Report::Zoneinfo => print!("{}", Zoneinfo(service)),
        Report::Meminfo => print!("{}", Meminfo(service)),
        Report::Vmstat => print!("{}", Vmstat(service)),
        Report::Malloctypes => print!("{}", Malloctypes(service)),
        Report::Numastat => print!("{}", Numastat(service)),
    }
    Ok(())
}
