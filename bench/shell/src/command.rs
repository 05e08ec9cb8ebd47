//! [`Command`]: what a line asks for; and [`COMMANDS`], the list of all there are.
//!
//! Used by the guest, which does what is asked for. Names of workloads and allocators are its affair: here they are
//! words.

use core::fmt;

use crate::editor::Complete;

/// Longest a stress may be asked to take: a day.
const MOST_SECONDS: u64 = 86_400;

/// What stands for "whatever is usual" in the place of a word.
const USUAL: &str = "-";

/// A command in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: &'static str,
    /// The words it takes.
    pub words: &'static str,
    /// What it does.
    pub about: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Help,
    Show(Report),
    Bench,
    Workloads,
    Allocators,
    Fault,
    Stress,
    Quit,
}

/// All commands, in the order `help` has them.
pub static COMMANDS: &[Description] = &[
    command("help", "", "this list", Kind::Help),
    show("numa", "nodes, their CPUs, memory and distances, as `numactl -H`", Report::Numa),
    show("rows", "where all memory is, in rows that add up", Report::Rows),
    show("metadata", "what the row `metadata` consists of", Report::Metadata),
    show("slabinfo", "caches, as /proc/slabinfo", Report::Slabinfo),
    show("buddyinfo", "free blocks, as /proc/buddyinfo", Report::Buddyinfo),
    show("pagetypeinfo", "free blocks by mobility, as /proc/pagetypeinfo", Report::Pagetypeinfo),
    show("zoneinfo", "zones, as /proc/zoneinfo", Report::Zoneinfo),
    show("meminfo", "all memory, as /proc/meminfo", Report::Meminfo),
    show("vmstat", "counters, as /proc/vmstat", Report::Vmstat),
    show("malloctypes", "contiguous memory by malloc type, as `vmstat -m`", Report::Malloctypes),
    show("numastat", "where pages came from, as `numastat`", Report::Numastat),
    command("workloads", "", "what can be measured", Kind::Workloads),
    command("allocators", "", "over what it can be measured", Kind::Allocators),
    command(
        "bench",
        "WORKLOAD [SIZE] [CPUS] [ALLOCATOR]",
        "measure; SIZE is an order for pages, `-` the usual",
        Kind::Bench,
    ),
    command(
        "stress",
        "SECONDS",
        "allocate, hand on and free at random on all CPUs, and check every byte",
        Kind::Stress,
    ),
    command(
        "fault",
        "[failslab|fail_page_alloc SPEC|off]",
        "tell or set which allocations fail on purpose",
        Kind::Fault,
    ),
    command("quit", "", "end the guest; Ctrl-D on an empty line does so, too", Kind::Quit),
];

const fn command(name: &'static str, words: &'static str, about: &'static str, kind: Kind) -> Description {
    Description { name, words, about, kind }
}

const fn show(name: &'static str, about: &'static str, report: Report) -> Description {
    command(name, "", about, Kind::Show(report))
}

/// What a line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'l> {
    /// List the commands.
    Help,
    /// Show a report of the memory service.
    Show(Report),
    /// Measure.
    Bench(Bench<'l>),
    /// List the workloads.
    Workloads,
    /// List the allocators.
    Allocators,
    /// Tell or set which allocations fail.
    Fault(Fault<'l>),
    /// Run the stress for so many seconds.
    Stress(u64),
    /// End.
    Quit,
}

/// A report of the memory service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Nodes and distances.
    Numa,
    /// All memory, in rows that add up.
    Rows,
    /// What the row `metadata` consists of.
    Metadata,
    /// Caches.
    Slabinfo,
    /// Free blocks.
    Buddyinfo,
    /// Free blocks by mobility.
    Pagetypeinfo,
    /// Zones.
    Zoneinfo,
    /// All memory, by use.
    Meminfo,
    /// Counters.
    Vmstat,
    /// Contiguous memory by malloc type.
    Malloctypes,
    /// Where pages came from.
    Numastat,
}

/// What to measure. `None` means the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bench<'l> {
    /// The name of a workload.
    pub workload: &'l str,
    /// Bytes of a block, or an order of pages.
    pub size: Option<usize>,
    /// On how many CPUs at once. Not 0.
    pub cpus: Option<usize>,
    /// The name of an allocator.
    pub allocator: Option<&'l str>,
}

/// Which allocations can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injector {
    /// Of objects.
    Failslab,
    /// Of page blocks.
    FailPageAlloc,
}

impl Injector {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Failslab, Self::FailPageAlloc];

    /// Its name: Linux's, which is also the guest's word on its command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failslab => "failslab",
            Self::FailPageAlloc => "fail_page_alloc",
        }
    }
}

/// What is to be done about failing allocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault<'l> {
    /// Tell.
    Tell,
    /// None is to fail.
    Off,
    /// None of this kind is to fail.
    OffOne(Injector),
    /// Those are to fail that the description says.
    Set(Injector, &'l str),
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError<'l> {
    /// There is no such command.
    Unknown(&'l str),
    /// A word is missing.
    Missing(&'static Description),
    /// A word too many.
    Extra(&'l str, &'static Description),
    /// No number, or none in range.
    Number {
        /// The word.
        word: &'l str,
        /// What it should be.
        what: &'static str,
    },
    /// Nothing that can be made to fail.
    NoInjector(&'l str),
}

impl fmt::Display for CommandError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => write!(f, "there is no command `{word}`; `help` lists those there are"),
            Self::Missing(of) => write!(f, "`{}` needs more words: {} {}", of.name, of.name, of.words),
            Self::Extra(word, of) if of.words.is_empty() => {
                write!(f, "`{word}` is too much: `{}` stands alone", of.name)
            }
            Self::Extra(word, of) => write!(f, "`{word}` is too much: {} {}", of.name, of.words),
            Self::Number { word, what } => write!(f, "`{word}` is not {what}"),
            Self::NoInjector(word) => {
                write!(f, "`{word}` cannot be made to fail; choose from failslab, fail_page_alloc, or say off")
            }
        }
    }
}

impl core::error::Error for CommandError<'_> {}

/// Understands a line; `None` when nothing stands on it, or a comment, which begins with `#`.
///
/// # Errors
///
/// [`CommandError`].
pub fn parse(line: &str) -> Result<Option<Command<'_>>, CommandError<'_>> {
    let mut words = line.split_ascii_whitespace();
    let Some(name) = words.next().filter(|word| !word.starts_with('#')) else { return Ok(None) };
    let description = COMMANDS.iter().find(|command| command.name == name).ok_or(CommandError::Unknown(name))?;
    let missing = CommandError::Missing(description);
    let command = match description.kind {
        Kind::Help => Command::Help,
        Kind::Show(report) => Command::Show(report),
        Kind::Workloads => Command::Workloads,
        Kind::Allocators => Command::Allocators,
        Kind::Quit => Command::Quit,
        Kind::Stress => Command::Stress(seconds(words.next().ok_or(missing)?)?),
        Kind::Bench => {
            let workload = words.next().ok_or(missing)?;
            let mut next = || words.next().filter(|word| *word != USUAL);
            Command::Bench(Bench {
                workload,
                size: next().map(size).transpose()?,
                cpus: next().map(cpus).transpose()?,
                allocator: next(),
            })
        }
        Kind::Fault => Command::Fault(match words.next() {
            None => Fault::Tell,
            Some("off") => Fault::Off,
            Some(name) => {
                let named = Injector::ALL.into_iter().find(|injector| injector.name() == name);
                let injector = named.ok_or(CommandError::NoInjector(name))?;
                match words.next().ok_or(missing)? {
                    "off" => Fault::OffOne(injector),
                    description => Fault::Set(injector, description),
                }
            }
        }),
    };
    words.next().map_or(Ok(Some(command)), |word| Err(CommandError::Extra(word, description)))
}

fn seconds(word: &str) -> Result<u64, CommandError<'_>> {
    let seconds = word.parse().ok().filter(|seconds| (1..=MOST_SECONDS).contains(seconds));
    seconds.ok_or(CommandError::Number { word, what: "a whole number of seconds from 1 to 86400" })
}

fn cpus(word: &str) -> Result<usize, CommandError<'_>> {
    let cpus = word.parse().ok().filter(|cpus| *cpus > 0);
    cpus.ok_or(CommandError::Number { word, what: "a number of CPUs" })
}

/// A whole number, in units of 1024 or 1024 * 1024 with `K` or `M`.
fn size(word: &str) -> Result<usize, CommandError<'_>> {
    let (digits, shift) = match word.as_bytes().last() {
        Some(b'k' | b'K') => (&word[..word.len() - 1], 10),
        Some(b'm' | b'M') => (&word[..word.len() - 1], 20),
        _ => (word, 0),
    };
    let size = digits.parse().ok().and_then(|number: usize| number.checked_mul(1 << shift));
    size.ok_or(CommandError::Number { word, what: "a size or an order: 64, 4K, 1M, or `-` for the usual" })
}

/// The words commands are completed with.
#[derive(Clone, Copy, Debug)]
pub struct Vocabulary<'v> {
    /// Names of workloads.
    pub workloads: &'v [&'v str],
    /// Names of allocators.
    pub allocators: &'v [&'v str],
}

impl Complete for Vocabulary<'_> {
    fn candidates(&self, before: &str, found: &mut dyn FnMut(&str)) {
        let mut words = before.split_ascii_whitespace();
        let (command, place) = (words.next(), words.clone().count());
        match (command, place) {
            (None, _) => COMMANDS.iter().for_each(|command| found(command.name)),
            (Some("bench"), 0) => self.workloads.iter().for_each(|name| found(name)),
            (Some("bench"), 3) => self.allocators.iter().for_each(|name| found(name)),
            (Some("fault"), 0) => Injector::ALL.iter().map(|it| it.name()).chain(["off"]).for_each(found),
            (Some("fault"), 1) if words.next() != Some("off") => found("off"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn command(line: &str) -> Command<'_> {
        parse(line).expect("the line is right").expect("the line says something")
    }

    fn complaint(line: &str) -> String {
        parse(line).expect_err("the line is wrong").to_string()
    }

    fn candidates(before: &str) -> Vec<String> {
        let vocabulary = Vocabulary { workloads: &["pair", "mix"], allocators: &["quarry"] };
        let mut all = Vec::new();
        vocabulary.candidates(before, &mut |word| all.push(word.to_string()));
        all
    }

    #[test]
    fn nothing_and_comments_ask_for_nothing() {
        for line in ["", "  \t", "# numa", "#numa"] {
            assert_eq!(parse(line), Ok(None), "{line}");
        }
    }

    #[test]
    fn reports_stand_alone() {
        assert_eq!(command("numa"), Command::Show(Report::Numa));
        assert_eq!(command("  slabinfo "), Command::Show(Report::Slabinfo));
        assert_eq!(complaint("numa 1"), "`1` is too much: `numa` stands alone");
    }

    #[test]
    fn what_to_measure_is_named_in_order_and_may_be_left_out() {
        let usual = Bench { workload: "pair", size: None, cpus: None, allocator: None };
        assert_eq!(command("bench pair"), Command::Bench(usual));
        assert_eq!(command("bench pair - - -"), Command::Bench(usual));
        assert_eq!(command("bench pair 4K 2"), Command::Bench(Bench { size: Some(4096), cpus: Some(2), ..usual }));
        assert_eq!(
            command("bench pair - 1 talc"),
            Command::Bench(Bench { cpus: Some(1), allocator: Some("talc"), ..usual })
        );
        assert_eq!(complaint("bench"), "`bench` needs more words: bench WORKLOAD [SIZE] [CPUS] [ALLOCATOR]");
        assert_eq!(complaint("bench pair big"), "`big` is not a size or an order: 64, 4K, 1M, or `-` for the usual");
        assert_eq!(complaint("bench pair 64 0"), "`0` is not a number of CPUs");
        assert_eq!(complaint("bench pair 1 1 talc x"), "`x` is too much: bench WORKLOAD [SIZE] [CPUS] [ALLOCATOR]");
    }

    #[test]
    fn faults_are_told_set_and_ended() {
        assert_eq!(command("fault"), Command::Fault(Fault::Tell));
        assert_eq!(command("fault off"), Command::Fault(Fault::Off));
        assert_eq!(command("fault failslab off"), Command::Fault(Fault::OffOne(Injector::Failslab)));
        assert_eq!(
            command("fault fail_page_alloc 1,10,0,-1"),
            Command::Fault(Fault::Set(Injector::FailPageAlloc, "1,10,0,-1"))
        );
        assert_eq!(complaint("fault failslab"), "`fault` needs more words: fault [failslab|fail_page_alloc SPEC|off]");
        assert_eq!(
            complaint("fault disk 1"),
            "`disk` cannot be made to fail; choose from failslab, fail_page_alloc, or say off"
        );
    }

    #[test]
    fn a_stress_has_a_length() {
        assert_eq!(command("stress 30"), Command::Stress(30));
        for word in ["0", "86401", "long", "-1"] {
            let line = alloc::format!("stress {word}");
            assert_eq!(complaint(&line), alloc::format!("`{word}` is not a whole number of seconds from 1 to 86400"));
        }
        assert_eq!(complaint("stress"), "`stress` needs more words: stress SECONDS");
    }

    #[test]
    fn an_unknown_word_gets_a_sentence() {
        assert_eq!(complaint("ls -l"), "there is no command `ls`; `help` lists those there are");
    }

    #[test]
    fn words_are_completed_where_they_can_stand() {
        assert_eq!(candidates("").len(), COMMANDS.len());
        assert_eq!(candidates("bench "), ["pair", "mix"]);
        assert!(candidates("bench pair ").is_empty());
        assert_eq!(candidates("bench pair 64 4 "), ["quarry"]);
        assert_eq!(candidates("fault "), ["failslab", "fail_page_alloc", "off"]);
        assert_eq!(candidates("fault failslab "), ["off"]);
        assert!(candidates("fault off ").is_empty());
        assert!(candidates("numa ").is_empty());
    }

    #[test]
    fn every_command_that_needs_no_words_is_understood_by_its_name() {
        for description in COMMANDS.iter().filter(|it| it.words.is_empty() || it.words.starts_with('[')) {
            assert!(parse(description.name).is_ok_and(|command| command.is_some()), "{}", description.name);
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_on_a_line_gets_an_answer(line: String) {
            if let Err(error) = parse(&line) {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }

        #[test]
        fn sizes_are_what_they_say(number in 0_usize..1 << 40, unit in 0_usize..3) {
            let word = alloc::format!("{number}{}", ["", "K", "M"][unit]);
            prop_assert_eq!(size(&word), Ok(number << (10 * unit)));
        }
    }
}
