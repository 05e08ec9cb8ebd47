//! [`Decoder`]: the bytes a terminal sends, as [`Key`]s.
//!
//! Used by the editor. Keys with a name are sequences that begin with an escape byte, in the forms of xterm, rxvt and
//! the Linux console. A control byte in the middle of a sequence ends it and counts by itself, so that a lone press of
//! Escape never swallows the Enter after it.

/// What was pressed, by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A printable character of ASCII.
    Character(char),
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    WordLeft,
    WordRight,
    Home,
    End,
    Up,
    Down,
    /// Cut from the start of the line to the cursor.
    CutToStart,
    /// Cut from the cursor to the end of the line.
    CutToEnd,
    /// Cut the word before the cursor.
    CutWord,
    /// Clear the screen.
    Clear,
    /// Give the line up.
    GiveUp,
    /// Delete, or on an empty line the end of all input.
    EndOfInput,
    /// Something that does nothing here.
    Unknown,
}

/// Where in a sequence the next byte is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// In none.
    #[default]
    Ground,
    /// Behind a carriage return, whose line feed is no further Enter.
    Return,
    /// Behind an escape byte.
    Escape,
    /// Behind `ESC O`.
    Single,
    /// Behind `ESC [`, with the numbers so far: the latest, and the one before.
    Control { latest: u16, previous: Option<u16> },
}

impl Decoder {
    /// Takes a byte; the key that it completes.
    pub(crate) fn push(&mut self, byte: u8) -> Option<Key> {
        let state = core::mem::take(self);
        match (state, byte) {
            (Self::Return, b'\n') => None,
            (_, 0x1b) => self.go_on_in(Self::Escape),
            (Self::Ground | Self::Return, _) | (_, 0..0x20) => self.plain(byte),
            (Self::Escape, b'[') => self.go_on_in(Self::Control { latest: 0, previous: None }),
            (Self::Escape, b'O') => self.go_on_in(Self::Single),
            (Self::Escape, b'b') => Some(Key::WordLeft),
            (Self::Escape, b'f') => Some(Key::WordRight),
            (Self::Escape, 0x7f) => Some(Key::CutWord),
            (Self::Single, _) => Some(named(byte, 0, None)),
            (Self::Control { latest, previous }, b'0'..=b'9') => {
                let latest = latest.saturating_mul(10).saturating_add(u16::from(byte - b'0'));
                self.go_on_in(Self::Control { latest, previous })
            }
            (Self::Control { latest, .. }, b';') => self.go_on_in(Self::Control { latest: 0, previous: Some(latest) }),
            // Bytes that parameters and what follows them may have, and that no key here has.
            (Self::Control { .. }, 0x20..0x40) => self.go_on_in(state),
            (Self::Control { latest, previous }, _) => Some(named(byte, latest, previous)),
            (Self::Escape, _) => Some(Key::Unknown),
        }
    }

    fn go_on_in(&mut self, state: Self) -> Option<Key> {
        *self = state;
        None
    }

    fn plain(&mut self, byte: u8) -> Option<Key> {
        Some(match byte {
            0x01 => Key::Home,
            0x02 => Key::Left,
            0x03 => Key::GiveUp,
            0x04 => Key::EndOfInput,
            0x05 => Key::End,
            0x06 => Key::Right,
            0x08 | 0x7f => Key::Backspace,
            b'\t' => Key::Tab,
            b'\n' => Key::Enter,
            0x0b => Key::CutToEnd,
            0x0c => Key::Clear,
            b'\r' => {
                *self = Self::Return;
                Key::Enter
            }
            0x0e => Key::Down,
            0x10 => Key::Up,
            0x15 => Key::CutToStart,
            0x17 => Key::CutWord,
            b' '..=b'~' => Key::Character(char::from(byte)),
            // The further bytes of a character of UTF-8, whose first one has been refused.
            0x80..0xc0 => return None,
            _ => Key::Unknown,
        })
    }
}

/// The key of a sequence by its last byte and its numbers: `ESC [ 3 ~` is Delete, `ESC [ 1 ; 5 D` is Ctrl with Left.
fn named(last: u8, latest: u16, previous: Option<u16>) -> Key {
    let with_modifier = previous.is_some();
    match (last, previous.unwrap_or(latest)) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', _) if with_modifier => Key::WordRight,
        (b'D', _) if with_modifier => Key::WordLeft,
        (b'C', _) => Key::Right,
        (b'D', _) => Key::Left,
        (b'H', _) | (b'~', 1 | 7) => Key::Home,
        (b'F', _) | (b'~', 4 | 8) => Key::End,
        (b'~', 3) => Key::Delete,
        _ => Key::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut decoder = Decoder::default();
        bytes.iter().filter_map(|byte| decoder.push(*byte)).collect()
    }

    #[test]
    fn keys_have_the_sequences_of_several_terminals() {
        assert_eq!(keys(b"\x1b[A\x1bOA\x1b[B\x1b[C\x1b[D"), [Key::Up, Key::Up, Key::Down, Key::Right, Key::Left]);
        assert_eq!(keys(b"\x1b[H\x1bOH\x1b[1~\x1b[7~\x01"), [Key::Home; 5]);
        assert_eq!(keys(b"\x1b[F\x1bOF\x1b[4~\x1b[8~\x05"), [Key::End; 5]);
        assert_eq!(keys(b"\x1b[3~\x7f\x08"), [Key::Delete, Key::Backspace, Key::Backspace]);
        assert_eq!(
            keys(b"\x1b[1;5D\x1bb\x1b[1;5C\x1bf"),
            [Key::WordLeft, Key::WordLeft, Key::WordRight, Key::WordRight]
        );
    }

    #[test]
    fn a_line_end_is_one_enter_in_every_form() {
        assert_eq!(keys(b"\r"), [Key::Enter]);
        assert_eq!(keys(b"\n"), [Key::Enter]);
        assert_eq!(keys(b"\r\n"), [Key::Enter]);
        assert_eq!(keys(b"\r\r\n\n"), [Key::Enter; 3]);
    }

    #[test]
    fn an_escape_alone_swallows_no_control() {
        assert_eq!(keys(b"\x1b\r"), [Key::Enter]);
        assert_eq!(keys(b"\x1b[12\x03"), [Key::GiveUp]);
        assert_eq!(keys(b"\x1b[\x1b[A"), [Key::Up]);
    }

    #[test]
    fn a_character_outside_ascii_is_one_unknown_key() {
        assert_eq!(keys("é€a".as_bytes()), [Key::Unknown, Key::Unknown, Key::Character('a')]);
    }

    #[test]
    fn an_unknown_sequence_is_one_unknown_key() {
        assert_eq!(
            keys(b"\x1b[15~a\x1b[?25hb\x1bxc"),
            [Key::Unknown, Key::Character('a'), Key::Unknown, Key::Character('b'), Key::Unknown, Key::Character('c')]
        );
    }

    proptest! {
        #[test]
        fn whatever_came_before_a_control_byte_counts(bytes: Vec<u8>) {
            let mut decoder = Decoder::default();
            for byte in bytes {
                decoder.push(byte);
            }
            prop_assert_eq!(decoder.push(0x03), Some(Key::GiveUp));
            prop_assert_eq!(decoder.push(b'a'), Some(Key::Character('a')));
        }
    }
}
