//! `quarry compare`: two builds case by case, from the records of their runs.
//!
//! ```text
//! render                text
//! judge                 a verdict on each case
//! side, floor           the boots of a build; what a machine's noise was measured to be
//! rank, many            statistics of one case; of many
//! differences           what machines differ in
//! ```

mod differences;
pub(crate) mod floor;
pub(crate) mod judge;
pub(crate) mod many;
pub(crate) mod rank;
pub(crate) mod render;
pub(crate) mod side;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, bail};

use crate::case::Metric;
use crate::runs::read_whole;
use crate::words::count;
use differences::differences;
use floor::NoiseFloor;
use judge::{Comparison, Comparisons, Verdict, compare};
use side::Side;

/// Cases that a failure names.
const NAMED: usize = 3;

#[derive(Debug, clap::Args)]
pub(crate) struct CompareCommand {
    /// Records of the old build, a file or a folder of them; a file may hold several runs.
    #[arg(value_name = "OLD", requires = "new_file", required_unless_present_all = ["old", "new"])]
    old_file: Option<PathBuf>,
    /// Records of the new build.
    #[arg(value_name = "NEW")]
    new_file: Option<PathBuf>,
    /// The same where there are several files.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "old_file", requires = "new")]
    old: Vec<PathBuf>,
    /// The same where there are several files.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "new_file", requires = "old")]
    new: Vec<PathBuf>,
    /// Which figure to compare [default: instructions where they are counted, else ns].
    #[arg(long, value_enum)]
    metric: Option<Metric>,
    /// What `quarry noise` measured of this machine: no smaller change is taken for one.
    #[arg(long, value_name = "FILE")]
    noise: Option<PathBuf>,
    /// Fail when a case got worse by more, and that is no noise.
    #[arg(long, value_name = "PERCENT")]
    fail_on: Option<Percent>,
}

/// A part of a hundred, written with or without its sign.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Percent(f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim_end_matches('%').trim_end().parse::<f64>().ok();
        let number = number.filter(|number| number.is_finite() && *number >= 0.0);
        number.map(Self).ok_or_else(|| "write a percentage from 0 on, as in 3%".into())
    }
}

/// Prints the comparison.
///
/// # Errors
///
/// When files cannot be compared, and when a case got worse by more than it may.
pub(crate) fn execute(command: &CompareCommand) -> Result<()> {
    let side = |file: &Option<PathBuf>, files: &Vec<PathBuf>| {
        let files: Vec<PathBuf> = file.iter().chain(files).cloned().collect();
        read_whole(&files).map(|sessions| Side::new(&sessions))
    };
    let (old, new) = (side(&command.old_file, &command.old)?, side(&command.new_file, &command.new)?);
    let metric = metric(&old, &new, command.metric)?;
    let noise = command.noise.as_deref().map(|file| noise(file, metric)).transpose()?;
    let all = compare(&old, &new, metric, noise.as_ref());
    if all.both.is_empty() {
        bail!("no case has {} on both sides", metric.unit());
    }
    for difference in differences(&old.runs, &new.runs, ["old", "new"]) {
        eprintln!("warning: different machines: {difference}");
    }
    for difference in noise.iter().zip(&new.runs).flat_map(|(noise, run)| noise.differences(run)) {
        eprintln!("warning: the noise floor is another machine's: {difference}");
    }
    println!("{}", render::sides(&old, &new));
    print!("{}", render::text(&all));
    for note in render::notes(&all, noise.as_ref()) {
        println!("\n{note}");
    }
    command.fail_on.map_or(Ok(()), |limit| within(&all, limit))
}

fn metric(old: &Side, new: &Side, asked: Option<Metric>) -> Result<Metric> {
    let counts = [old, new].map(Side::counts_instructions);
    match (asked, counts) {
        (None | Some(Metric::Instructions), [true, true]) => Ok(Metric::Instructions),
        (None, [false, false]) => Ok(Metric::Ns),
        (Some(Metric::Instructions), _) => {
            bail!("instructions are counted by runs with --icount, and not all of these are")
        }
        // Memory is no matter of the clock.
        (Some(Metric::Held), _) => Ok(Metric::Held),
        (Some(_), counts) if counts.contains(&true) => {
            bail!("a run with --icount counts instructions and has no times to compare")
        }
        (Some(metric), _) => Ok(metric),
        (None, _) => bail!("one side counts instructions and the other measures time: they do not compare"),
    }
}

/// The noise floor of that file, which is to be one of that figure.
fn noise(file: &Path, metric: Metric) -> Result<NoiseFloor> {
    let noise = NoiseFloor::read(file)?;
    if noise.metric != metric {
        bail!("{} is the noise of {}, not of {}", file.display(), noise.metric.unit(), metric.unit());
    }
    Ok(noise)
}

/// Whether no case got worse by more than `limit`.
fn within(all: &Comparisons, limit: Percent) -> Result<()> {
    let mut worse: Vec<(&Comparison, f64)> = all
        .both
        .iter()
        .filter(|one| one.verdict == Verdict::Worse)
        .map(|one| (one, one.worsening(all.metric)))
        .filter(|(_, worsening)| *worsening * 100.0 > limit.0)
        .collect();
    if worse.is_empty() {
        return Ok(());
    }
    worse.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let name = |(one, by): &(&Comparison, f64)| {
        let [old, new] = [one.old, one.new].map(|figure| render::value(figure, all.metric));
        format!("{} by {} ({old} to {new} {})", one.case, render::percent(*by), all.metric.unit())
    };
    let named: Vec<String> = worse.iter().take(NAMED).map(name).collect();
    let cases = count(worse.len() as u64, "case");
    let what = if worse.len() > NAMED { "the worst are " } else { "" };
    bail!("{cases} got worse by more than {} %: {what}{}", limit.0, named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_may_have_their_sign() {
        assert_eq!(["3%", "3", "0.5 %"].map(str::parse), [Ok(Percent(3.0)), Ok(Percent(3.0)), Ok(Percent(0.5))]);
        assert!(["", "-1", "three", "inf"].iter().all(|text| text.parse::<Percent>().is_err()));
    }
}
