//! `quarry noise`: the same build over and over, to know what `quarry compare` makes of no change at all.

mod measure;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::case::Metric;
use crate::cli::{HostOptions, MachineOptions, SuiteOptions};
use crate::failure::Failure;
use crate::guest::{Guest, results};
use crate::images::Image;
use crate::progress::Progress;
use crate::runs::read_whole;
use crate::session::Session;
use crate::words::count;
use measure::{measure, text};

#[derive(Debug, clap::Args)]
pub(crate) struct NoiseCommand {
    /// Boots a side: A B A B ... until each has so many.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..))]
    boots: u32,
    /// Boot nothing: take the runs of these files, all of one build, in the order they were made.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    from: Vec<PathBuf>,
    /// Which figure.
    #[arg(long, value_enum, default_value = "ns")]
    metric: Metric,
    /// Where to write the noise floor, for `compare --noise` [default: results/noise.json of the source].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also write the records of all boots to a file, as JSON Lines.
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineOptions,
    #[command(flatten)]
    suite: SuiteOptions,
    #[command(flatten)]
    host: HostOptions,
}

/// Boots, prints what differs, and writes the noise floor.
///
/// # Errors
///
/// When a boot comes to no good end, or nothing is left to tell.
pub(crate) fn execute(command: &NoiseCommand) -> Result<()> {
    if command.metric == Metric::Instructions || command.machine.icount {
        bail!("counted instructions have no noise: `quarry compare` takes any difference for one");
    }
    let sessions = if command.from.is_empty() { boot(command)? } else { read_whole(&command.from)? };
    if sessions.len() < 4 {
        bail!("{} do not tell how boots differ; that takes 4 at least", count(sessions.len() as u64, "boot"));
    }
    let Some(noise) = measure(&sessions, command.metric) else {
        bail!("no case has {} in every boot", command.metric.unit());
    };
    let file = command.output.clone().unwrap_or_else(|| results().join("noise.json"));
    noise.floor.write(&file)?;
    print!("{}", text(&noise));
    println!("\nkept in {}: `quarry compare --noise` takes it", file.display());
    Ok(())
}

/// All boots, one after the other.
fn boot(command: &NoiseCommand) -> Result<Vec<Session>> {
    let words = ["mode=run".to_owned()].into_iter().chain(command.suite.guest_words());
    let mut guest = Guest::announce(Image::Bench, "noise", &command.machine, &command.host, words)?;
    guest.files.output.clone_from(&command.records);
    let boots = 2 * command.boots;
    let mut sessions = Vec::new();
    for boot in 0..boots {
        let side = if boot % 2 == 0 { 'A' } else { 'B' };
        eprintln!("boot {} of {boots}, side {side}", boot + 1);
        let ended = guest.watch(Duration::ZERO, &mut Progress::new(command.host.verbose));
        ended.verdict.map_err(|failure| guest.explain(failure))?;
        if ended.session.results.is_empty() {
            return Err(guest.explain(Failure::NoResults));
        }
        sessions.push(ended.session);
        guest.files.append = true;
    }
    Ok(sessions)
}
