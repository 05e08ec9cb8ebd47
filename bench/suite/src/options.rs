//! What the bench image is asked for on its command line: `key=value` words, as [`Options`].
//!
//! The `quarry` command writes them, the image reads them; a person at a QEMU prompt may do the same.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;
use core::str::FromStr;

use quarry_topology::MAX_CPUS;

use crate::case::{ORDERS, UnknownWorkload};
use crate::recorded::Extract;
use crate::settings::{Effort, Settings};

/// Most events that are recorded: about the most whose text a guest takes again.
const MOST_EVENTS: usize = 1_000_000;

/// What the image is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Measure.
    #[default]
    Run,
    /// Report the machine and end.
    Boot,
    /// Run the [stress](crate::stress()).
    Stress,
    /// Run at the [edge](crate::edge()) of memory.
    Edge,
    /// Record what workloads do, as a trace.
    Record,
    /// Have threads that must not fail take more memory than there is, and see the run end.
    DeadEnd,
    /// Do what is asked for at a prompt on the serial line.
    Shell,
}

/// The command line, understood.
#[derive(Clone, Debug)]
pub struct Options {
    /// `mode=run|boot|stress|edge|record|dead-end|shell`.
    pub mode: Mode,
    /// `effort=quick|full` sets the defaults of what follows. `workloads=`, `sizes=`, `orders=`, `cpus=` (lists with commas), `samples=`, `blocks=` (most a CPU holds), `patience=` (seconds), `seed=`, `no-latencies=1`;
    /// `icount=1` makes the effort fixed.
    pub settings: Settings,
    /// `icount=1`: the clock counts instructions.
    pub icount: bool,
    /// `allocators=`: which to measure; whoever runs the suite knows their names.
    pub allocators: Vec<String>,
    /// `seconds=`: length of the stress, or of the run at the edge.
    pub seconds: u64,
    /// `operations=`, `events=`: how much is recorded.
    pub extract: Extract,
    /// `reports=1`: tell the state of the memory service in every format when the work is done.
    pub reports: bool,
    /// `columns=`: how wide the terminal at the prompt is; 0 where there is none, but a pipe with lines.
    pub columns: usize,
}

/// Columns of a terminal that does not say.
const USUAL_COLUMNS: usize = 80;

/// A word of the command line that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionError {
    key: &'static str,
    value: String,
    problem: String,
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}: {}", self.key, self.value, self.problem)
    }
}

impl core::error::Error for OptionError {}

impl Options {
    /// Largest size a workload may be asked for: 4 MiB, the most `kmalloc` gives.
    pub const MAX_SIZE: usize = 4 << 20;

    /// Reads what it knows from `find`, which gives the value of a key; other words are somebody else's.
    ///
    /// # Errors
    ///
    /// [`OptionError`] for the first value that is none.
    pub fn read<'a>(find: impl Fn(&str) -> Option<&'a str>) -> Result<Self, OptionError> {
        let icount = switch("icount", find("icount"))?;
        let defaults = effort(find("effort"))?;
        let settings = Settings {
            workloads: words(find("workloads"))
                .map(|word| word.parse().map_err(|problem: UnknownWorkload| error("workloads", word, problem)))
                .collect::<Result<Vec<_>, _>>()
                .map(|asked| or(asked, &defaults.workloads))?,
            sizes: or(numbers("sizes", find("sizes"), &(1..=Self::MAX_SIZE))?, &defaults.sizes),
            orders: or(numbers("orders", find("orders"), &ORDERS)?, &defaults.orders),
            cpus: numbers("cpus", find("cpus"), &(1..=MAX_CPUS))?,
            only_ends: defaults.only_ends,
            // Counted instructions repeat: a few samples show that they do.
            samples: one("samples", &find)?.unwrap_or(if icount { 5 } else { defaults.samples }),
            effort: if icount { Effort::Fixed } else { defaults.effort },
            most_blocks: one("blocks", &find)?.unwrap_or(defaults.most_blocks),
            checked_bytes: defaults.checked_bytes,
            patience: one("patience", &find)?.or(defaults.patience),
            latencies: !switch("no-latencies", find("no-latencies"))?,
            seed: one("seed", &find)?.unwrap_or(defaults.seed),
            trace: None,
        };
        if settings.samples == 0 {
            return Err(error("samples", "0", "ask for at least 1"));
        }
        let seconds = one("seconds", &find)?.unwrap_or(30);
        let defaults = Extract::default();
        let extract = Extract {
            operations: one("operations", &find)?.unwrap_or(defaults.operations),
            events: one("events", &find)?.unwrap_or(defaults.events),
        };
        if extract.events > MOST_EVENTS {
            return Err(error(
                "events",
                find("events").unwrap_or_default(),
                format_args!("ask for {MOST_EVENTS} at most"),
            ));
        }
        let reports = switch("reports", find("reports"))?;
        let allocators = words(find("allocators")).map(ToString::to_string).collect();
        let columns = one("columns", &find)?.unwrap_or(USUAL_COLUMNS);
        Ok(Self { mode: mode(find("mode"))?, settings, icount, allocators, seconds, extract, reports, columns })
    }
}

fn error(key: &'static str, value: &str, problem: impl fmt::Display) -> OptionError {
    OptionError { key, value: value.to_string(), problem: problem.to_string() }
}

fn switch(key: &'static str, value: Option<&str>) -> Result<bool, OptionError> {
    match value {
        None | Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(other) => Err(error(key, other, "use 0 or 1")),
    }
}

/// What is asked for, or else the default.
fn or<T: Clone>(asked: Vec<T>, default: &[T]) -> Vec<T> {
    if asked.is_empty() { default.to_vec() } else { asked }
}

fn effort(value: Option<&str>) -> Result<Settings, OptionError> {
    match value {
        None => Ok(Settings::default()),
        Some("quick") => Ok(Settings::quick()),
        Some("full") => Ok(Settings::full()),
        Some(other) => Err(error("effort", other, "use quick or full")),
    }
}

fn mode(value: Option<&str>) -> Result<Mode, OptionError> {
    match value {
        None => Ok(Mode::default()),
        Some("run") => Ok(Mode::Run),
        Some("boot") => Ok(Mode::Boot),
        Some("stress") => Ok(Mode::Stress),
        Some("edge") => Ok(Mode::Edge),
        Some("record") => Ok(Mode::Record),
        Some("dead-end") => Ok(Mode::DeadEnd),
        Some("shell") => Ok(Mode::Shell),
        Some(other) => Err(error("mode", other, "use run, boot, stress, edge, record, dead-end or shell")),
    }
}

fn one<'a, T: FromStr>(key: &'static str, find: impl Fn(&str) -> Option<&'a str>) -> Result<Option<T>, OptionError> {
    find(key).map(|value| value.parse().map_err(|_| error(key, value, "use a whole number"))).transpose()
}

fn words(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.unwrap_or_default().split(',').filter(|word| !word.is_empty())
}

fn numbers<T>(key: &'static str, value: Option<&str>, range: &RangeInclusive<T>) -> Result<Vec<T>, OptionError>
where
    T: FromStr + PartialOrd + fmt::Display,
{
    let number = |word: &str| {
        word.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
            error(key, word, format_args!("use whole numbers from {} to {}", range.start(), range.end()))
        })
    };
    words(value).map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Workload;

    fn read(line: &str) -> Result<Options, OptionError> {
        let words: Vec<_> = line.split(' ').filter_map(|word| word.split_once('=')).collect();
        Options::read(|key| words.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
    }

    fn complaint(line: &str) -> String {
        read(line).expect_err("the line is wrong").to_string()
    }

    #[test]
    fn an_empty_line_means_the_defaults() {
        let options = read("").expect("nothing is wrong with nothing");
        assert_eq!(options.mode, Mode::Run);
        assert_eq!(options.settings.samples, Settings::default().samples);
        assert!(options.settings.workloads.is_empty() && options.settings.sizes.is_empty());
        assert!(!options.icount && !options.reports);
    }

    #[test]
    fn every_word_is_understood() {
        let options = read(
            "mode=stress workloads=pair,mix sizes=64,4096 orders=0,9 cpus=1,4 samples=7 seed=3 patience=8 seconds=5 operations=20 events=9 blocks=16 reports=1 git=abc accel=tcg loglevel=debug",
        )
        .expect("every word is right");
        assert_eq!(options.mode, Mode::Stress);
        assert_eq!(options.settings.workloads, [Workload::Pair, Workload::Mix]);
        assert_eq!(options.settings.sizes, [64, 4096]);
        assert_eq!(options.settings.orders, [0, 9]);
        assert_eq!(options.settings.cpus, [1, 4]);
        assert_eq!(options.columns, USUAL_COLUMNS);
        assert_eq!((options.settings.samples, options.settings.seed, options.seconds), (7, 3, 5));
        assert_eq!((options.settings.most_blocks, options.settings.patience), (16, Some(8)));
        assert_eq!(options.extract, Extract { operations: 20, events: 9 });
        assert!(options.reports);
    }

    #[test]
    fn a_prompt_may_have_no_terminal() {
        let options = read("mode=shell columns=0").expect("the words are right");
        assert_eq!((options.mode, options.columns), (Mode::Shell, 0));
    }

    #[test]
    fn counting_instructions_fixes_the_effort() {
        let options = read("icount=1").expect("the word is right");
        assert_eq!((options.settings.effort, options.settings.samples), (Effort::Fixed, 5));
    }

    #[test]
    fn an_effort_sets_the_defaults_and_words_win() {
        let quick = read("effort=quick samples=3 sizes=128").expect("the words are right").settings;
        assert_eq!((quick.samples, &quick.sizes[..]), (3, &[128][..]));
        assert_eq!((quick.effort, quick.workloads), (Settings::quick().effort, Settings::quick().workloads));
        assert_eq!(read("effort=full").expect("the word is right").settings.samples, Settings::full().samples);
        assert_eq!(complaint("effort=high"), "effort=high: use quick or full");
    }

    #[test]
    fn wrong_values_get_a_sentence() {
        assert_eq!(complaint("mode=walk"), "mode=walk: use run, boot, stress, edge, record, dead-end or shell");
        assert_eq!(complaint("workloads=pair,pear"), alloc::format!("workloads=pear: {UnknownWorkload}"));
        assert_eq!(complaint("sizes=64,x"), "sizes=x: use whole numbers from 1 to 4194304");
        assert_eq!(complaint("sizes=0"), "sizes=0: use whole numbers from 1 to 4194304");
        assert_eq!(complaint("orders=10"), "orders=10: use whole numbers from 0 to 9");
        assert_eq!(complaint("seconds=long"), "seconds=long: use a whole number");
        assert_eq!(complaint("samples=0"), "samples=0: ask for at least 1");
        assert_eq!(complaint("events=1000001"), "events=1000001: ask for 1000000 at most");
        assert_eq!(complaint("icount=yes"), "icount=yes: use 0 or 1");
        assert_eq!(complaint("reports=all"), "reports=all: use 0 or 1");
    }
}
