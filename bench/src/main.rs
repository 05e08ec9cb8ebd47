//! The `quarry` command: boots Quarry guests under QEMU, runs the benchmark suite and the guest tests, prints tables.
//!
//! It knows guests only by their records (`quarry-record`) and traces (`quarry-trace`). Layers, each using only those below it:
//!
//! ```text
//! commands, smoke        run, boot, test, stress, stats, show; every topology of a folder
//! linux                  Linux in the same machine, for its figures
//! export                 runs in the formats of others
//! shell                  a guest to speak with
//! trace                  traces made of Linux's, looked at, recorded
//! performance            the page of all figures that are claimed
//! budget                 instructions held against a file
//! noise                  one build, over and over
//! compare                two builds, case by case
//! guest                  a boot about to happen
//! report_page            runs as a page with pictures
//! cli                    the command line
//! disk                   disks for a guest
//! watch, progress        a guest from boot to end, under deadlines
//! tables, report, stats  records as text; as JSON
//! case                   what tells rows of results apart
//! runs                   files of records
//! process, session       QEMU and its pipes; what a guest has said and what to think of it
//! list                   what there is to measure, in words
//! images, expectation    what is booted; what a guest must find
//! terminal               the person's terminal, raw and restored
//! qemu                   a machine in QEMU's words
//! machine, accelerator   a machine; what it runs on
//! size, words, failure
//! ```

#![forbid(unsafe_code)]

mod accelerator;
mod budget;
mod case;
mod cli;
mod commands;
mod compare;
mod disk;
mod expectation;
mod export;
mod failure;
mod guest;
mod images;
mod linux;
mod list;
mod machine;
mod matrix;
mod noise;
mod performance;
mod pin;
mod preflight;
mod process;
mod progress;
mod qemu;
mod report;
mod report_page;
mod runs;
mod session;
mod shell;
mod size;
mod smoke;
mod stats;
mod tables;
mod terminal;
mod trace;
mod watch;
mod words;

use std::process::ExitCode;

use clap::Parser;

/// What shells take for "ended by Ctrl-C".
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    // `quarry ... | head` ends quietly when head has enough. Who speaks with a guest must not be killed for a key that the
    // guest does not take any more: the terminal would stay raw.
    if !matches!(cli.command, cli::Command::Shell(_)) {
        sigpipe::reset();
    }
    process::listen_to_interrupts();
    match commands::execute(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.is::<linux::Missing>() {
                eprintln!("quarry: skipped: {error:#}");
                return linux::SKIPPED.into();
            }
            eprintln!("quarry: {error:#}");
            if process::interrupted() { INTERRUPTED.into() } else { ExitCode::FAILURE }
        }
    }
}
