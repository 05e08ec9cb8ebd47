//! The bench image: the suite over the kernel's own `kmalloc`, its results as records on the serial line.
//!
//! Booted by the `quarry` command, or by hand with the same words on the command line ([`Options`]). What it does:
//! `mode=run` measures, `mode=boot` shows the machine and ends, `mode=stress` has all CPUs allocate, hand on and check,
//! `mode=edge` has threads want more memory than there is, `mode=record` records what workloads do, `mode=dead-end` ends
//! when all of it is gone, and `mode=shell` does what it is told at a prompt;
//! with `reports=1` it then tells the state of the memory service in every format there is.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;

mod kernel;
mod machine;
mod memory;
mod peers;
mod pressure;
mod records;
mod shell;
mod traces;

use quarry_guest_records::{emit, emit_whole_trace, fingerprint, reports, statistics};
use quarry_record::{End, EndStatus, Record};
use quarry_suite::{Limit, Mode, Options, Platform, Stress, plan, row_count, stress};
use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::statistics::{Buddyinfo, Hardware, Numastat, Zoneinfo};
use quarry_unikernel::{ExitCode, log, option, println, time, topology};

use kernel::Kernel;
use machine::Machine;
use peers::{CONTESTANTS, Contestant};

quarry_unikernel::main!(main);

fn main() -> ExitCode {
    let mut options = match Options::read(option) {
        Ok(options) => options,
        Err(error) => {
            log::error!("{error}");
            return finish(1, Some(alloc::format!("the command line asks for the impossible: {error}")));
        }
    };
    let contestants = match contestants(&options) {
        Ok(contestants) => contestants,
        Err(problem) => {
            log::error!("{problem}");
            return finish(1, Some(alloc::format!("the command line asks for the impossible: {problem}")));
        }
    };
    let machine = Machine::new();
    match traces::given(machine, &options) {
        Ok(trace) => options.settings.trace = trace,
        Err(problem) => {
            log::error!("{problem}");
            return finish(1, Some(alloc::format!("the trace cannot be replayed: {problem}")));
        }
    }
    let rows = if options.mode == Mode::Run {
        contestants.iter().map(|contestant| row_count(&plan(machine, contestant.features, &options.settings))).sum()
    } else {
        0
    };
    emit(&Record::Run(fingerprint("bench", options.settings.seed, rows as u64)));
    let errors = match options.mode {
        Mode::Boot => {
            show();
            0
        }
        Mode::Run => measure(machine, &contestants, &options),
        Mode::Stress => endure(machine, &options),
        Mode::Edge => pressure::edge(machine, &options),
        Mode::Record => traces::record(machine, &options),
        Mode::DeadEnd => pressure::run_into_a_dead_end(),
        Mode::Shell => return converse(machine, &options),
    };
    let statistics = statistics();
    let adds_up = statistics.adds_up;
    emit(&Record::Statistics(statistics));
    if options.reports {
        for report in reports() {
            emit(&Record::Report(report));
        }
    }
    let reason = if errors > 0 {
        Some(alloc::format!("{errors} errors, see the records"))
    } else if !adds_up {
        Some("the memory statistics do not add up".into())
    } else {
        None
    };
    finish(errors, reason)
}

/// Prints the machine for people.
fn show() {
    let service = service();
    println!("{}", Hardware { service, topology: topology() });
    println!("{}\n{}\n{}", Zoneinfo(service), Buddyinfo(service), Numastat(service));
    println!("{}", service.statistics());
}

/// The allocators asked for: ours, when nobody says otherwise.
fn contestants(options: &Options) -> Result<Vec<&'static Contestant>, String> {
    let find = |name: &str| CONTESTANTS.iter().find(|contestant| contestant.name == name);
    match &options.allocators[..] {
        [] => Ok(CONTESTANTS.iter().take(1).collect()),
        [all] if all == "all" => Ok(CONTESTANTS.iter().collect()),
        names => names.iter().map(|name| find(name).ok_or_else(|| unknown(name))).collect(),
    }
}

fn unknown(name: &str) -> String {
    let names: Vec<&str> = CONTESTANTS.iter().map(|contestant| contestant.name).collect();
    alloc::format!("allocators={name}: there is no such allocator; choose from {}, or all", names.join(", "))
}

/// Runs the suite over each of them; returns how many errors there were.
fn measure(machine: Machine, contestants: &[&Contestant], options: &Options) -> u64 {
    machine.warm_up();
    let mut errors = 0;
    for contestant in contestants {
        (contestant.run)(machine, &options.settings, &mut |row| {
            errors += row.errors;
            machine::sign_of_life();
            emit(&Record::Result(row.measurement(contestant.name, time::ticks_per_second(), options.icount)));
        });
    }
    errors
}

/// Runs the stress on all CPUs; returns how many errors there were.
fn endure(machine: Machine, options: &Options) -> u64 {
    machine.warm_up();
    let cpus = machine.cpu_count();
    let task = Stress { cpus, seed: options.settings.seed, limit: Limit::Seconds(options.seconds) };
    let report = stress(machine, &Kernel, task);
    let record = records::stress(&report, cpus as u32, options.seconds);
    let errors = if report.passed() { 0 } else { (report.errors + report.failed_allocations).max(1) };
    emit(&Record::Stress(record));
    errors
}

/// Does what is asked for at the prompt. What went wrong was told there, and the run's end tells it once more.
fn converse(machine: Machine, options: &Options) -> ExitCode {
    let failed = shell::converse(machine, options);
    let reason = if failed > 0 {
        Some(alloc::format!("{failed} {} failed", if failed == 1 { "command" } else { "commands" }))
    } else if !service().statistics().adds_up() {
        Some("the memory statistics do not add up".into())
    } else {
        None
    };
    finish(failed, reason)
}

fn finish(errors: u64, reason: Option<String>) -> ExitCode {
    emit_whole_trace();
    let failed = reason.is_some();
    emit(&Record::End(End { status: if failed { EndStatus::Failed } else { EndStatus::Ok }, reason, errors }));
    if failed { ExitCode::Failure } else { ExitCode::Success }
}
