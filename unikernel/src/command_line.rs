//! The kernel command line: words of the form `key=value`, separated by spaces.

use spin::Once;

static TEXT: Once<&'static str> = Once::new();

/// Notes the command line; what is not UTF-8 ends it.
pub(crate) fn initialise(bytes: &'static [u8]) {
    TEXT.call_once(|| match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    });
}

/// The whole command line; empty before the boot has found it.
pub fn command_line() -> &'static str {
    TEXT.get().copied().unwrap_or_default()
}

/// The value of the last `key=value` word with this key.
pub fn option(key: &str) -> Option<&'static str> {
    let values = command_line().split_ascii_whitespace().filter_map(|word| word.split_once('='));
    values.rev().find(|(name, _)| *name == key).map(|(_, value)| value)
}
