//! The init program of the VM that `quarry linux` boots: the first process of a Linux kernel, and the only one.
//!
//! It loads the module `quarry_linux` (bench/linux/module), has it run the loops of the suite's workloads, and writes
//! records on the serial console as Quarry's own bench image does, so that the host reads both alike. The words it gets
//! are those of that image ([`quarry_suite::Options`]); the kernel passes on what stands behind `--` on its own command
//! line.
//!
//! ```text
//! main       from the kernel's hands to the last record
//! measure    cases of the suite as requests to the module; how long a sample is; rows of what came of them
//! loops      which of the module's loops a case is
//! module     the module's requests and answers
//! machine    nodes, CPUs and memory, as Linux shows them
//! firmware   where memory is, from the tables firmware left
//! ```

#![forbid(unsafe_code)]

mod firmware;
mod loops;
mod machine;
mod measure;
mod module;

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use quarry_record::{End, EndStatus, Record, Run, SCHEMA_VERSION};
use quarry_suite::Options;
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

use machine::{Facts, Machine};
use module::Module;

/// What QEMU's device isa-debug-exit is told: as Quarry's images do.
const SUCCESS: u8 = 16;
const FAILURE: u8 = 17;

fn main() -> ExitCode {
    let mut module = None;
    let end = match run(&mut module) {
        Ok(0) => End { status: EndStatus::Ok, reason: None, errors: 0 },
        Ok(errors) => failed(errors, format!("{errors} allocations failed, see the records")),
        Err(error) => failed(1, format!("{error:#}")),
    };
    let code = if end.status == EndStatus::Ok { SUCCESS } else { FAILURE };
    // There is nobody left to tell when the console is gone.
    drop(emit(&Record::End(end)));
    power_off(module, code);
    ExitCode::FAILURE
}

fn failed(errors: u64, reason: String) -> End {
    End { status: EndStatus::Failed, reason: Some(reason), errors }
}

/// Measures all that was asked for; returns how many allocations failed. `module` stays when this has ended.
fn run(module: &mut Option<Module>) -> Result<u64> {
    mount_all()?;
    // From here on the kernel's own lines stay off the console unless it dies: they would break records in two.
    fs::write("/proc/sys/kernel/printk", "1").context("the kernel does not lower its voice")?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |key: &str| words.iter().filter_map(|word| word.split_once('=')).find(|(name, _)| *name == key);
    let options = Options::read(|key| word(key).map(|(_, value)| value))?;
    let facts = Facts::read().context("the kernel shows its machine in a way not understood")?;
    let module = module.insert(Module::load(facts.is_emulated())?);
    let machine = Machine::new(&facts, module, options.icount);
    let cases = measure::plan(machine, &options.settings);
    if cases.is_empty() {
        bail!("nothing to measure: Linux is measured in {}", measure::names());
    }
    let value = |key| word(key).map_or_else(|| "unknown".to_owned(), |(_, value)| value.to_owned());
    emit(&Record::Run(Run {
        schema: SCHEMA_VERSION,
        git: value("git"),
        image: format!("linux-{}", facts.release),
        accelerator: value("accel"),
        icount: options.icount,
        tsc_hz: machine.tsc_hz(),
        tsc_method: if options.icount { "counted" } else { "Linux" }.to_owned(),
        seed: options.settings.seed,
        rows: quarry_suite::row_count(&cases) as u64,
        ..facts.run()
    }))?;
    let allocator = allocator(&facts.release, module.slab());
    let mut errors = 0;
    let clock = module.clock();
    measure::run(machine, module, clock, &options.settings, &cases, &mut |row| {
        errors += row.errors;
        emit(&Record::Result(row.measurement(&allocator, machine.tsc_hz(), options.icount)))
    })?;
    Ok(errors)
}

/// `linux-6.1-slub`.
fn allocator(release: &str, slab: &str) -> String {
    let version: Vec<&str> = release.splitn(3, ['.', '-']).take(2).collect();
    format!("linux-{}-{slab}", version.join("."))
}

fn mount_all() -> Result<()> {
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys")] {
        mount(kind, place, kind, MountFlags::empty(), None).with_context(|| format!("cannot mount {place}"))?;
    }
    Ok(())
}

fn emit(record: &Record) -> Result<()> {
    let mut console = io::stdout().lock();
    writeln!(console, "{}", record.to_line()).and_then(|()| console.flush()).context("the console takes no records")
}

/// Ends QEMU with that code; restarts, which ends it as well, where that cannot be.
fn power_off(module: Option<Module>, code: u8) {
    // Nothing more can be done about any of these failing: the next one is the remedy.
    let _ = rustix::termios::tcdrain(io::stdout());
    drop(module.map(|mut module| module.exit(code)));
    let _ = reboot(RebootCommand::Restart);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocator_is_named_after_the_series_of_its_kernel() {
        assert_eq!(allocator("6.1.0-56-cloud-amd64", "slub"), "linux-6.1-slub");
        assert_eq!(allocator("6.12-rc1", "slub"), "linux-6.12-slub");
        assert_eq!(allocator("5.10.0", "slab"), "linux-5.10-slab");
    }
}
