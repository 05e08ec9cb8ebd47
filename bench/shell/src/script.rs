//! [`Script`]: lines from a pipe: no echo, no editing.

use crate::{Input, Line};

/// The byte that stands for the end of the pipe, for a serial line has none: Ctrl-D.
const END_OF_TRANSMISSION: u8 = 0x04;

/// The line so far.
#[derive(Debug, Default)]
pub struct Script {
    bytes: heapless::Vec<u8, { crate::LONGEST_LINE }>,
    too_long: bool,
}

impl Script {
    /// Takes a byte; what it completes. A line ends with a line feed, before which a carriage return is no part of it;
    /// all input ends with the byte 4. What stands between the last line feed and that byte is no line.
    pub fn feed(&mut self, byte: u8) -> Option<Input> {
        match byte {
            b'\n' => Some(self.take()),
            END_OF_TRANSMISSION => Some(Input::Closed),
            _ => {
                self.too_long |= self.bytes.push(byte).is_err();
                None
            }
        }
    }

    fn take(&mut self) -> Input {
        let Self { bytes, too_long } = core::mem::take(self);
        let text = core::str::from_utf8(&bytes).ok().filter(|_| !too_long);
        let line = text.and_then(|text| Line::try_from(text.trim_end_matches('\r')).ok());
        line.map_or(Input::Unreadable, Input::Line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LONGEST_LINE;
    use alloc::vec::Vec;

    fn inputs(bytes: &[u8]) -> Vec<Input> {
        let mut script = Script::default();
        bytes.iter().filter_map(|byte| script.feed(*byte)).collect()
    }

    fn line(text: &str) -> Input {
        Input::Line(Line::try_from(text).expect("the text is short"))
    }

    #[test]
    fn lines_come_as_they_are() {
        assert_eq!(inputs(b"numa\nbench pair\t64\r\n\n"), [line("numa"), line("bench pair\t64"), line("")]);
    }

    #[test]
    fn the_end_is_a_byte() {
        assert_eq!(inputs(b"numa\n\x04"), [line("numa"), Input::Closed]);
    }

    #[test]
    fn a_line_too_long_is_refused_and_the_next_is_not() {
        let longest = [b'a'; LONGEST_LINE];
        let text = core::str::from_utf8(&longest).expect("it is ASCII");
        assert_eq!(inputs(&[&longest[..], b"\n"].concat()), [line(text)]);
        assert_eq!(inputs(&[&longest[..], b"a\nnuma\n"].concat()), [Input::Unreadable, line("numa")]);
    }

    #[test]
    fn what_is_no_text_is_refused() {
        assert_eq!(inputs(b"\xff\nnuma\n"), [Input::Unreadable, line("numa")]);
    }
}
