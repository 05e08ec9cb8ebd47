//! The targets file: which figures there are, what each is to be, where it is measured, and why some are missed.
//!
//! [`Targets`] is the file as it is written; a row says in one of its keys what kind of figure it has, which
//! [`Row::figure`] makes of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// A targets file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Targets {
    /// What the page says first.
    pub(super) introduction: String,
    pub(super) linux: Linux,
    #[serde(rename = "source")]
    pub(super) sources: Vec<Source>,
    #[serde(rename = "section")]
    pub(super) sections: Vec<Section>,
}

/// Where Linux's figures are from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Linux {
    /// The source that has them.
    pub(super) from: String,
    /// What the figures are of that stand in this file, for when that source is missing.
    pub(super) recorded: String,
}

/// Something that is run, and leaves a file of figures.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    pub(super) name: String,
    #[serde(default)]
    pub(super) kind: Kind,
    /// What is run: `quarry ...`, which is this command, or another program. `--output` and a file are appended.
    pub(super) command: String,
    /// Of [`Kind::Startup`]: machines to boot, by name, as options of `quarry boot`.
    #[serde(default)]
    pub(super) boots: BTreeMap<String, String>,
    /// The same: examples whose images are weighed.
    #[serde(default)]
    pub(super) images: Vec<String>,
}

/// What file a source leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// Records, as `quarry run` and `quarry linux` write them.
    #[default]
    Records,
    /// The document of `cargo bench -p quarry-peers`.
    Peers,
    /// How long boots took, and how large images are. Measured here.
    Startup,
}

impl Source {
    /// Its file in the folder of results.
    pub(super) fn file(&self, folder: &Path) -> PathBuf {
        let ending = if self.kind == Kind::Records { "jsonl" } else { "json" };
        folder.join(format!("{}.{ending}", self.name))
    }

    /// When and on what it was measured, in the folder of results.
    pub(super) fn stamp(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.stamp.json", self.name))
    }
}

/// A table of the page.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    pub(super) title: String,
    /// What is to be known of its figures.
    pub(super) text: String,
    /// The source of its rows.
    pub(super) from: String,
    #[serde(rename = "row")]
    pub(super) rows: Vec<Row>,
}

/// A figure with its target.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub(super) what: String,
    /// `None` where the figure is to be told, and no more.
    #[serde(default)]
    pub(super) at_most: Option<f64>,
    #[serde(default)]
    count: Option<Vec<Key>>,
    #[serde(default)]
    ratio: Option<Vec<Key>>,
    /// Whom a ratio is to, where that is not whoever is the best of all.
    #[serde(default)]
    beside: Option<Vec<String>>,
    #[serde(default)]
    growth: Option<Growth>,
    #[serde(default)]
    over: Option<Over>,
    #[serde(default)]
    latency: Option<Latency>,
    #[serde(default)]
    held: Option<Key>,
    #[serde(default)]
    share: Option<String>,
    #[serde(default)]
    boot: Option<String>,
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    unmeasured: Option<String>,
    /// Linux's figure, measured before.
    #[serde(default)]
    pub(super) linux: Option<f64>,
    /// The cases of Linux's figure, where they are not the row's own.
    #[serde(default)]
    pub(super) linux_count: Option<Vec<Key>>,
    /// Why the target is missed, and what was tried.
    #[serde(default)]
    pub(super) why: Option<String>,
}

/// What a row's figure is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Figure<'t> {
    /// Instructions an operation takes: the sum over these cases.
    Count(&'t [Key]),
    /// The time of these cases over that of whoever is the best of the others, or of those named.
    Ratio(&'t [Key], Option<&'t [String]>),
    /// What an operation takes on many CPUs over what it takes on one.
    Growth(&'t Growth),
    /// Instructions over those that another source has.
    Over(&'t Over),
    /// What few single calls exceed.
    Latency(&'t Latency),
    /// Bytes of memory held for each live byte of a case.
    Held(&'t Key),
    /// A row of the memory statistics, in percent of the memory that was ever touched.
    Share(&'t str),
    /// Milliseconds from QEMU's start to an image's `main`.
    Boot(&'t str),
    /// KiB of an image without symbols.
    Image(&'t str),
    /// No source has it; the row says what keeps it instead.
    Unmeasured,
}

/// A case of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    pub(super) workload: String,
    #[serde(default)]
    pub(super) size: Option<u64>,
    #[serde(default)]
    pub(super) order: Option<u32>,
    #[serde(default)]
    pub(super) variant: Option<String>,
    #[serde(default)]
    pub(super) phase: Option<String>,
    #[serde(default = "one")]
    pub(super) cpus: u32,
}

const fn one() -> u32 {
    1
}

/// From one CPU to many.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Growth {
    /// Summed, as in a count.
    pub(super) cases: Vec<Key>,
    pub(super) to: u32,
}

impl Growth {
    /// The cases on so many CPUs.
    pub(super) fn on(&self, cpus: u32) -> Vec<Key> {
        self.cases.iter().map(|key| Key { cpus, ..key.clone() }).collect()
    }
}

/// Beside another source.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Over {
    /// Summed, as in a count.
    pub(super) cases: Vec<Key>,
    pub(super) source: String,
}

/// Nanoseconds of single calls of a case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Latency {
    pub(super) case: Key,
    pub(super) percentile: Percentile,
}

/// What part of the calls takes no longer.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum Percentile {
    #[serde(rename = "p50")]
    P50,
    #[serde(rename = "p99")]
    P99,
    #[serde(rename = "p99.99")]
    P9999,
    #[serde(rename = "worst")]
    Worst,
}

impl Row {
    /// What keeps a figure that no source has.
    pub(super) fn kept_by(&self) -> Option<&str> {
        self.unmeasured.as_deref()
    }

    /// What its figure is; `None` where the row says none, or several.
    pub(super) fn figure(&self) -> Option<Figure<'_>> {
        let figures = [
            self.count.as_deref().map(Figure::Count),
            self.ratio.as_deref().map(|keys| Figure::Ratio(keys, self.beside.as_deref())),
            self.growth.as_ref().map(Figure::Growth),
            self.over.as_ref().map(Figure::Over),
            self.latency.as_ref().map(Figure::Latency),
            self.held.as_ref().map(Figure::Held),
            self.share.as_deref().map(Figure::Share),
            self.boot.as_deref().map(Figure::Boot),
            self.image.as_deref().map(Figure::Image),
            self.unmeasured.as_ref().map(|_| Figure::Unmeasured),
        ];
        let mut said = figures.into_iter().flatten();
        said.next().filter(|_| said.next().is_none())
    }
}

impl Targets {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or does not say what it must.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no file of targets", path.display()))
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let targets: Self = toml::from_str(text)
            .map_err(|problem| anyhow::anyhow!("{}", problem.to_string().trim_end().replace('\n', "\n  ")))?;
        let known = |name: &str| targets.sources.iter().any(|source| source.name == name);
        let named = targets.sections.iter().map(|section| &section.from).chain([&targets.linux.from]);
        if let Some(unknown) = named.into_iter().find(|name| !known(name)) {
            bail!("there is no source `{unknown}`: name one of its [[source]] tables");
        }
        let rows = targets.sections.iter().flat_map(|section| &section.rows);
        for row in rows {
            let Some(figure) = row.figure() else {
                bail!(
                    "the row `{}` needs exactly one of count, ratio, growth, over, latency, held, share, boot, image, unmeasured",
                    row.what
                );
            };
            if let Figure::Over(over) = figure
                && !known(&over.source)
            {
                bail!(
                    "there is no source `{}` to hold `{}` against: name one of the [[source]] tables",
                    over.source,
                    row.what
                );
            }
            if row.beside.is_some() && !matches!(figure, Figure::Ratio(..)) {
                bail!("the row `{}` has no ratio, so nothing to name in `beside`", row.what);
            }
            if row.at_most.is_none() && !matches!(figure, Figure::Latency(_)) {
                bail!("the row `{}` needs a target: say `at_most`; only a latency is told without", row.what);
            }
        }
        Ok(targets)
    }

    /// The sources of these names; all for `all`.
    ///
    /// # Errors
    ///
    /// When there is none of such a name.
    pub(super) fn sources_named(&self, names: &[String]) -> Result<Vec<&Source>> {
        if let Some(unknown) =
            names.iter().find(|name| *name != "all" && self.sources.iter().all(|source| source.name != **name))
        {
            let known: Vec<&str> = self.sources.iter().map(|source| source.name.as_str()).collect();
            bail!("there is no source `{unknown}` to measure; choose from all, {}", known.join(", "));
        }
        let all = names.iter().any(|name| name == "all");
        Ok(self.sources.iter().filter(|source| all || names.contains(&source.name)).collect())
    }
}
