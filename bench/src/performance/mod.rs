//! `quarry performance`: writes docs/performance.md, a table with a row for every figure that is claimed.
//!
//! ```text
//! mod          the command
//! page         tables in Markdown
//! figure       what was measured of a row, against its target
//! measure      runs the commands of sources; startup times boots and weighs images
//! sources      the files they leave
//! targets      ci/targets.toml: what is claimed, and where it is measured
//! ```
//!
//! The page has nothing that is not in the targets file or in the files of the sources: what was not measured says so.

mod figure;
mod measure;
mod page;
mod sources;
mod startup;
mod targets;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::guest::results;
use crate::images::workspace;
use targets::Targets;

/// What to do with `performance`, for somebody who has never done it.
const EXAMPLES: &str = "Examples:
  quarry performance                        writes the page again from what was measured last
  quarry performance --measure all          measures everything first: some minutes on a quiet computer
  quarry performance --measure counts       one source alone, by its name in ci/targets.toml";

#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct PerformanceCommand {
    /// First measure these sources of the targets file; all for `all`.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    measure: Vec<String>,
    /// What is claimed, and where it is measured [default: ci/targets.toml of the source].
    #[arg(long, value_name = "FILE")]
    targets: Option<PathBuf>,
    /// Where what was measured is kept [default: results/performance of the source].
    #[arg(long, value_name = "FOLDER")]
    results: Option<PathBuf>,
    /// Where to write the page [default: docs/performance.md of the source].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Measures what is asked for, and writes the page.
///
/// # Errors
///
/// When the targets file or what was measured cannot be read, or something cannot be measured or written.
pub(crate) fn execute(command: &PerformanceCommand) -> Result<()> {
    let path = |given: &Option<PathBuf>, default: &str| given.clone().unwrap_or_else(|| workspace().join(default));
    let targets = Targets::read(&path(&command.targets, "ci/targets.toml"))?;
    let folder = command.results.clone().unwrap_or_else(|| results().join("performance"));
    for source in targets.sources_named(&command.measure)? {
        measure::measure(source, &folder)?;
    }
    let page = page::page(&targets, &sources::read(&targets, &folder)?);
    let output = path(&command.output, "docs/performance.md");
    fs::write(&output, &page.text).with_context(|| format!("cannot write {}", output.display()))?;
    for complaint in &page.complaints {
        eprintln!("note: {complaint}");
    }
    println!("{} written", output.display());
    Ok(())
}

#[cfg(test)]
mod tests;
