//! [`Trace::parse`]: a trace from its text, or the line that is wrong and what to do about it.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use core::fmt;

use crate::trace::{Action, Cpu, Event, Flags, Misuse, Node, ObjectId, Request, Trace};
use crate::{MOST_ORDER, VERSION};

/// The first line that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Its number; the first line is 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The text does not begin with the header.
    NoHeader,
    /// The header is of another version of the format.
    Version(String),
    /// A line begins with something else than an event's letter.
    UnknownEvent(String),
    /// A line ends before all is said.
    Missing(&'static str),
    /// A word is not what stands in its place.
    Wrong {
        /// What stands there.
        what: &'static str,
        /// The word.
        word: String,
    },
    /// A line goes on after all is said.
    TooMuch(String),
    /// The id is another object's.
    Taken {
        /// The id.
        id: u64,
        /// Where that one was allocated.
        line: usize,
    },
    /// The event cannot follow those before it.
    Misuse {
        /// The id, as it is in the text.
        id: u64,
        /// Why.
        misuse: Misuse,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match &self.problem {
            Problem::NoHeader => {
                write!(f, "this is no trace: its first line has to be `{}`; ", Trace::header())?;
                f.write_str("`quarry trace convert` makes one of what perf or trace-cmd print")
            }
            Problem::Version(found) => {
                write!(f, "a trace of format `{found}`, but this program reads version {VERSION}; ")?;
                f.write_str("convert or record it again")
            }
            Problem::UnknownEvent(word) => {
                write!(f, "`{word}` is no event; write a, f, r, p or q, or # before a comment")
            }
            Problem::Missing(what) => write!(f, "the line ends before its {what}; see docs/traces.md"),
            Problem::Wrong { what, word } => write!(f, "`{word}` is no {what}"),
            Problem::TooMuch(word) => write!(f, "`{word}` is more than belongs on the line; leave it out"),
            Problem::Taken { id, line } => {
                write!(f, "id {id} is that of the object of line {line}; give every object an id of its own")
            }
            Problem::Misuse { id, misuse } => write!(f, "id {id}: {misuse}"),
        }
    }
}

impl core::error::Error for ParseError {}

/// What an id of the text stands for.
#[derive(Clone, Copy)]
struct Known {
    object: ObjectId,
    line: usize,
}

impl Trace {
    /// Reads a trace. Ids in the text may be any numbers; in the trace they count from 0.
    ///
    /// # Errors
    ///
    /// [`ParseError`] with the first line that is wrong.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut lines = text.lines().zip(1..);
        let header = lines.next().map_or("", |(line, _)| line.trim_end());
        check_header(header).map_err(|problem| ParseError { line: 1, problem })?;
        let (mut trace, mut known) = (Self::default(), BTreeMap::new());
        for (text, line) in lines {
            let content = text.split_once('#').map_or(text, |(content, _)| content);
            let mut words = Words(content.split_ascii_whitespace());
            if let Some(first) = words.0.next() {
                take_line(&mut trace, &mut known, line, first, &mut words)
                    .map_err(|problem| ParseError { line, problem })?;
            }
        }
        Ok(trace)
    }
}

fn check_header(line: &str) -> Result<(), Problem> {
    match line.strip_prefix("quarry-trace ") {
        None => Err(Problem::NoHeader),
        Some(version) if version.trim_start().parse() == Ok(VERSION) => Ok(()),
        Some(version) => Err(Problem::Version(excerpt(version))),
    }
}

fn take_line(
    trace: &mut Trace,
    known: &mut BTreeMap<u64, Known>,
    line: usize,
    first: &str,
    words: &mut Words<'_>,
) -> Result<(), Problem> {
    let (after, letter) = match first.strip_prefix('+') {
        Some(after) => (Some(number("time, a whole number of nanoseconds", after)?), words.next("event")?),
        None => (None, first),
    };
    if !matches!(letter, "a" | "f" | "r" | "p" | "q") {
        return Err(Problem::UnknownEvent(excerpt(letter)));
    }
    let cpu = Cpu(words.number("CPU, a whole number from 0 to 65535")?);
    let id: u64 = words.number("id, a whole number")?;
    let action = match letter {
        "a" => Action::Allocate(words.request()?),
        "p" => Action::AllocatePages(words.number("order, a whole number from 0 to 10")?),
        "r" => Action::Resize(words.number(SIZE)?),
        "f" => Action::Free,
        _ => Action::FreePages,
    };
    if let Some(more) = words.0.next() {
        return Err(Problem::TooMuch(excerpt(more)));
    }
    let earlier = known.get(&id);
    let object = match (action, earlier) {
        (Action::Allocate(_) | Action::AllocatePages(_), Some(earlier)) => {
            return Err(Problem::Taken { id, line: earlier.line });
        }
        (Action::Allocate(_) | Action::AllocatePages(_), None) => trace.next_id(),
        (_, Some(earlier)) => earlier.object,
        (_, None) => return Err(Problem::Misuse { id, misuse: Misuse::Unknown }),
    };
    trace.push(Event { after, cpu, object, action }).map_err(|misuse| Problem::Misuse { id, misuse })?;
    if earlier.is_none() {
        known.insert(id, Known { object, line });
    }
    Ok(())
}

const SIZE: &str = "size, a whole number of bytes from 1 to 4194304";
const _: () = assert!(crate::MOST_SIZE == 4_194_304 && MOST_ORDER == 10, "the sentences say so");

/// What is left of a line.
struct Words<'a>(core::str::SplitAsciiWhitespace<'a>);

impl<'a> Words<'a> {
    fn next(&mut self, what: &'static str) -> Result<&'a str, Problem> {
        self.0.next().ok_or(Problem::Missing(what.split_once(',').map_or(what, |(what, _)| what)))
    }

    fn number<T: core::str::FromStr>(&mut self, what: &'static str) -> Result<T, Problem> {
        number(what, self.next(what)?)
    }

    fn request(&mut self) -> Result<Request, Problem> {
        let size = self.number(SIZE)?;
        let node = match self.0.next() {
            None | Some("-") => None,
            Some(word) => Some(Node(number("node, a whole number from 0 to 65535 or -", word)?)),
        };
        let flags = self.0.next().map_or(Ok(Flags::default()), flags)?;
        Ok(Request { size, node, flags })
    }
}

/// A number without a sign.
fn number<T: core::str::FromStr>(what: &'static str, word: &str) -> Result<T, Problem> {
    let digits = Some(word).filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|word| word.parse().ok()).ok_or_else(|| Problem::Wrong { what, word: excerpt(word) })
}

fn flags(word: &str) -> Result<Flags, Problem> {
    let mut flags = Flags::default();
    for letter in word.chars() {
        match letter {
            'z' => flags.zeroed = true,
            'a' => flags.atomic = true,
            _ => return Err(Problem::Wrong { what: "list of flags, which are z and a", word: excerpt(word) }),
        }
    }
    Ok(flags)
}

/// As much of a word as a message has room for.
fn excerpt(word: &str) -> String {
    const MOST: usize = 40;
    match word.char_indices().nth(MOST) {
        Some((end, _)) => word[..end].to_string() + "...",
        None => word.to_string(),
    }
}
