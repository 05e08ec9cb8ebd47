//! [`Line`]: what a line of `perf script`, `trace-cmd report` or the kernel's own `trace` file says.
//!
//! All three print who, on which CPU, when, and the event with its fields as `name=value`:
//!
//! ```text
//! make 16810 [004]  2319.000873: kmem:kmalloc: call_site=fuse_io_alloc+0x41 ptr=0xffff888101aee200 bytes_req=216 ...
//! make-16810 [004] ..... 2319.000873: kmalloc:  call_site=fuse_io_alloc+0x41 ptr=0xffff888101aee200 bytes_req=216 ...
//! ```
//!
//! A program's name may have spaces, colons and brackets in it, so a line is read from the CPU on: the first word in
//! brackets that is a number, after which comes a time.

/// An event of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) cpu: u16,
    /// Since some moment.
    pub(super) nanoseconds: u64,
    /// Without `kmem:`.
    pub(super) event: &'a str,
    /// All behind the event's name.
    fields: &'a str,
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    Event(Line<'a>),
    /// Events the kernel had no room for, at this place.
    Lost(u64),
    /// It names an event of `kmem`, but cannot be read.
    Unreadable,
    /// Neither: a comment, a header, a call chain.
    Other,
}

/// Reads a line.
pub(super) fn kind(text: &str) -> Kind<'_> {
    if text.starts_with('#') {
        return Kind::Other;
    }
    if let Some(line) = event(text) {
        return Kind::Event(line);
    }
    if let Some(lost) = lost(text) {
        return Kind::Lost(lost);
    }
    let names_event = ["kmem:", "kmalloc:", "kfree:", "mm_page_alloc:", "mm_page_free:", "kmem_cache_"];
    if text.contains('=') && names_event.iter().any(|name| text.contains(name)) {
        Kind::Unreadable
    } else {
        Kind::Other
    }
}

fn event(text: &str) -> Option<Line<'_>> {
    let mut rest = text;
    loop {
        let (word, behind) = next_word(rest)?;
        rest = behind;
        let Some(cpu) = cpu(word) else { continue };
        if let Some(line) = event_on(cpu, rest) {
            return Some(line);
        }
    }
}

/// What follows a CPU: perhaps flags, a time, perhaps a count, an event, its fields.
fn event_on(cpu: u16, text: &str) -> Option<Line<'_>> {
    let (mut word, mut rest) = next_word(text)?;
    if time(word).is_none() {
        (word, rest) = next_word(rest)?;
    }
    let nanoseconds = time(word)?;
    let (mut word, mut fields) = next_word(rest)?;
    if word.bytes().all(|byte| byte.is_ascii_digit()) {
        (word, fields) = next_word(fields)?;
    }
    let event = word.strip_suffix(':')?;
    let event = event.rsplit_once(':').map_or(event, |(_, name)| name);
    Some(Line { cpu, nanoseconds, event, fields })
}

fn next_word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    if text.is_empty() {
        return None;
    }
    Some(text.split_once(char::is_whitespace).unwrap_or((text, "")))
}

fn cpu(word: &str) -> Option<u16> {
    digits(word.strip_prefix('[')?.strip_suffix(']')?)
}

/// `2319.000873:`, in seconds, with micro- or nanoseconds.
fn time(word: &str) -> Option<u64> {
    let (seconds, fraction) = word.strip_suffix(':')?.split_once('.')?;
    let scale = 10_u64.checked_pow(9_u32.checked_sub(fraction.len() as u32)?)?;
    let (seconds, fraction): (u64, u64) = (digits(seconds)?, digits(fraction)?);
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction * scale)
}

fn digits<T: std::str::FromStr>(word: &str) -> Option<T> {
    if word.bytes().all(|byte| byte.is_ascii_digit()) { word.parse().ok() } else { None }
}

/// `CPU:2 [LOST 1234 EVENTS]`, with or without blanks; of a kernel that does not count, 1.
fn lost(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("[LOST").or_else(|| text.split_once("[EVENTS DROPPED"))?;
    Some(rest.split_ascii_whitespace().find_map(digits).unwrap_or(1))
}

impl<'a> Line<'a> {
    /// The value of a field.
    pub(super) fn field(&self, name: &str) -> Option<&'a str> {
        let mut words = self.fields.split_ascii_whitespace();
        loop {
            let (key, value) = words.next()?.split_once('=').unwrap_or_default();
            if key == name {
                // Old kernels fill a null pointer up with blanks.
                return if value.is_empty() { words.next() } else { Some(value) };
            }
        }
    }

    /// A field that is a number of bytes, an order: decimal, or hexadecimal behind `0x`.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let value = self.field(name)?;
        match value.strip_prefix("0x") {
            Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16).ok(),
            None => digits(value),
        }
    }

    /// A field that is an address: hexadecimal, with or without `0x`. 0 for none.
    pub(super) fn address(&self, name: &str) -> Option<u64> {
        let value = self.field(name)?;
        if matches!(value, "(null)" | "(nil)") {
            return Some(0);
        }
        u64::from_str_radix(value.strip_prefix("0x").unwrap_or(value), 16).ok()
    }
}
