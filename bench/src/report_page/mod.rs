//! `quarry report`: runs as one page for people, and its pictures as files.
//!
//! ```text
//! page                   HTML: fingerprint, pictures, tables
//! summary, figures       others as multiples of ours; every row as a table's text
//! draw                   charts as SVG
//! parts                  what each part of a report makes of the records, as charts
//! scale, chart           axes; charts as plain data
//! sources                the files, and views of their results
//! ```
//!
//! No part knows how it is drawn, and the drawing knows no records. Pictures are drawn as markup by the template
//! language of the page: so they have classes, which give them colours for light and dark, and hints on their points.

mod chart;
mod draw;
mod figures;
mod page;
mod parts;
mod scale;
mod sources;
mod summary;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::words::count;
use chart::Panel;
use parts::Part;
use sources::{View, complaints, read};

/// Longest name of a picture's file, without its ending.
const LONGEST_NAME: usize = 80;

#[derive(Debug, Args)]
pub(crate) struct ReportCommand {
    /// Records as `quarry run --output` writes them. Several are shown together, and those after the first are compared
    /// with it.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Where to write the page, index.html, and its pictures; made if it is not there.
    #[arg(long, value_name = "FOLDER", default_value = "results/report")]
    output: PathBuf,
    /// Write only these overviews, one picture each, and no page.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum)]
    only: Vec<Part>,
}

/// Writes the report and says where it is.
///
/// # Errors
///
/// When a file has nothing to report, or the folder cannot be written.
pub(crate) fn execute(command: &ReportCommand) -> Result<()> {
    let sources = read(&command.files)?;
    let view = View::latest(&sources);
    let wanted = if command.only.is_empty() { Part::value_variants() } else { &command.only };
    let parts: Vec<(Part, Vec<Panel>)> = wanted.iter().map(|part| (*part, part.panels(&sources, &view))).collect();
    let mut files = Vec::new();
    for (part, panels) in &parts {
        if panels.is_empty() && !command.only.is_empty() {
            bail!("the records have nothing for `{}`; leave it out of --only", part.name());
        }
        files.extend(overview(*part, panels));
    }
    if command.only.is_empty() {
        files.extend(singles(&parts));
        files.push(("index.html".into(), page::page(&sources, &view, &parts)));
    }
    write(&command.output, &files)?;
    let pictures = files.iter().filter(|(name, _)| name != "index.html").count() as u64;
    let page = if command.only.is_empty() { "index.html and " } else { "" };
    println!("{}: {page}{}", command.output.display(), count(pictures, "picture"));
    for complaint in complaints(&sources) {
        eprintln!("warning: {complaint}");
    }
    Ok(())
}

/// All of a part that is shown at once, on one sheet.
fn overview(part: Part, panels: &[Panel]) -> Option<(String, String)> {
    let front: Vec<&Panel> = panels.iter().filter(|panel| panel.front).collect();
    (!front.is_empty()).then(|| (format!("{}.svg", part.name()), draw::sheet(&front, part.columns())))
}

/// Every picture in a file of its own.
fn singles(parts: &[(Part, Vec<Panel>)]) -> Vec<(String, String)> {
    let mut taken = BTreeSet::new();
    let mut files = Vec::new();
    for (part, panels) in parts {
        for panel in panels {
            let name = file_name(&format!("{} {}", part.name(), panel.title));
            let again = (2..).map(|again| format!("{name}-{again}"));
            let free = std::iter::once(name.clone()).chain(again).find(|name| !taken.contains(name));
            let name = free.expect("numbers do not run out");
            files.push((format!("{name}.svg"), draw::sheet(&[panel], 1)));
            taken.insert(name);
        }
    }
    files
}

/// A title as a file's name: nothing a foreign record says gets out of the folder.
fn file_name(title: &str) -> String {
    let mut name = String::new();
    for letter in title.chars().take(LONGEST_NAME) {
        if letter.is_ascii_alphanumeric() {
            name.push(letter.to_ascii_lowercase());
        } else if !name.ends_with('-') {
            name.push('-');
        }
    }
    name.trim_matches('-').to_owned()
}

fn write(folder: &Path, files: &[(String, String)]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    for (name, text) in files {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
