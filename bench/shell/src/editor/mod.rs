//! [`Editor`]: a line that is typed at a terminal: cursor, cutting, history, completion.
//!
//! Used by the guest's prompt. It is a state machine: a byte goes in, the echo comes out, and now and then a line. The
//! crates there are for this either complete no words (`noline`) or know few keys (`embedded-cli`, `ushell`), and all of
//! them want to read and write themselves.
//!
//! # Theory
//!
//! Lines are ASCII, so a byte is a character is a column; whatever else is typed rings the bell. The echo knows no more
//! of the terminal than how wide it is: the line stays on one row of the screen, and where it is longer than that, the
//! part around the cursor is shown. So every change can be drawn by going back to the first column and writing the row
//! anew; only a character at the end of a line that fits is written alone. Of the terminal's own words just three are
//! used: erase to the end of the row, go right, clear the screen.

use core::fmt;

use heapless::Deque;

use crate::keys::{Decoder, Key};
use crate::{Input, LONGEST_LINE, Line};

/// Lines that are remembered.
const HISTORY: usize = 32;

/// Columns of a line at least, however narrow a terminal claims to be.
const LEAST_ROOM: usize = 8;

/// What is shown behind a line that was given up.
const GIVEN_UP: &str = "^C";

/// Takes what is to be shown. A line feed in it means the start of the next row.
pub type Echo<'a> = &'a mut dyn FnMut(fmt::Arguments<'_>);

/// Whoever knows how words go on.
pub trait Complete {
    /// Gives `found` every word that may stand behind `before`, which is the start of a line up to the word in question.
    /// The editor picks those that go on as the word begins.
    fn candidates(&self, before: &str, found: &mut dyn FnMut(&str));
}

/// A line that is being typed, and those before it.
pub struct Editor {
    prompt: &'static str,
    /// Characters of the line that fit on the row.
    room: usize,
    decoder: Decoder,
    line: Line,
    /// Where the next character goes: 0 to the length of the line.
    cursor: usize,
    /// Lines that were entered, the oldest first.
    history: Deque<Line, HISTORY>,
    /// The remembered line that is shown instead of what was typed, and what was typed.
    browsing: Option<(usize, Line)>,
}

impl Editor {
    /// An empty one. `columns` is how wide the terminal is.
    pub fn new(prompt: &'static str, columns: usize) -> Self {
        // The last column is for the cursor: what is written there may start a new row.
        let taken = prompt.len() + GIVEN_UP.len() + 1;
        let room = columns.saturating_sub(taken).clamp(LEAST_ROOM, LONGEST_LINE);
        Self {
            prompt,
            room,
            decoder: Decoder::default(),
            line: Line::new(),
            cursor: 0,
            history: Deque::new(),
            browsing: None,
        }
    }

    /// Shows the prompt and the line so far. To be called at the start of a row, before the first byte and whenever
    /// [`Self::feed`] gave something.
    pub fn draw(&self, echo: Echo<'_>) {
        let start = self.cursor.saturating_sub(self.room);
        let end = self.line.len().min(start + self.room);
        echo(format_args!("\r{}{}\x1b[K", self.prompt, &self.line[start..end]));
        let column = self.prompt.len() + self.cursor - start;
        if self.cursor < end && column > 0 {
            echo(format_args!("\r\x1b[{column}C"));
        } else if self.cursor < end {
            echo(format_args!("\r"));
        }
    }

    /// Takes a byte of the terminal; what it completes.
    pub fn feed(&mut self, byte: u8, words: &dyn Complete, echo: Echo<'_>) -> Option<Input> {
        let key = self.decoder.push(byte)?;
        match key {
            Key::Enter => {
                echo(format_args!("\n"));
                return Some(Input::Line(self.enter()));
            }
            Key::GiveUp => {
                echo(format_args!("{GIVEN_UP}\n"));
                self.clear();
                return Some(Input::GivenUp);
            }
            Key::EndOfInput if self.line.is_empty() => {
                echo(format_args!("\n"));
                return Some(Input::Closed);
            }
            Key::Character(character) => self.insert(character, echo),
            Key::Tab => self.complete(words, echo),
            Key::Clear => {
                echo(format_args!("\x1b[H\x1b[2J"));
                self.draw(echo);
            }
            _ if self.apply(key) => self.draw(echo),
            _ => ring(echo),
        }
        None
    }

    /// Moves, cuts and looks back; whether there was something to do.
    fn apply(&mut self, key: Key) -> bool {
        let (cursor, length) = (self.cursor, self.line.len());
        match key {
            Key::Left if cursor > 0 => self.cursor -= 1,
            Key::Right if cursor < length => self.cursor += 1,
            Key::WordLeft => self.cursor = self.word_start(),
            Key::WordRight => self.cursor = self.word_end(),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = length,
            Key::Backspace if cursor > 0 => self.cut(cursor - 1, cursor),
            Key::Delete | Key::EndOfInput if cursor < length => self.cut(cursor, cursor + 1),
            Key::CutToStart => self.cut(0, cursor),
            Key::CutToEnd => self.cut(cursor, length),
            Key::CutWord => self.cut(self.word_start(), cursor),
            Key::Up => return self.look_back(),
            Key::Down => return self.look_forward(),
            _ => return false,
        }
        true
    }

    fn insert(&mut self, character: char, echo: Echo<'_>) {
        if self.line.insert(self.cursor, character).is_err() {
            ring(echo);
            return;
        }
        self.cursor += 1;
        if self.cursor == self.line.len() && self.cursor <= self.room {
            echo(format_args!("{character}"));
        } else {
            self.draw(echo);
        }
    }

    fn cut(&mut self, from: usize, to: usize) {
        self.line.drain(from..to);
        self.cursor = from;
    }

    /// Where the word before the cursor begins.
    fn word_start(&self) -> usize {
        let text = self.line[..self.cursor].trim_end_matches(' ');
        text.rfind(' ').map_or(0, |space| space + 1)
    }

    /// Where the word behind the cursor ends.
    fn word_end(&self) -> usize {
        let rest = &self.line[self.cursor..];
        let spaces = rest.len() - rest.trim_start_matches(' ').len();
        self.cursor + rest[spaces..].find(' ').map_or(rest.len(), |length| spaces + length)
    }

    fn clear(&mut self) {
        self.line.clear();
        self.cursor = 0;
        self.browsing = None;
    }

    /// Takes the line, and remembers it unless it is blank or the same as the last one.
    fn enter(&mut self) -> Line {
        let line = core::mem::take(&mut self.line);
        self.clear();
        if !line.trim().is_empty() && self.history.back() != Some(&line) {
            if self.history.is_full() {
                self.history.pop_front();
            }
            self.history.push_back(line.clone()).expect("the oldest line made room");
        }
        line
    }

    fn look_back(&mut self) -> bool {
        let before = self.browsing.as_ref().map_or(self.history.len(), |(index, _)| *index);
        let Some(index) = before.checked_sub(1) else { return false };
        let typed = match self.browsing.take() {
            Some((_, typed)) => typed,
            None => self.line.clone(),
        };
        self.browsing = Some((index, typed));
        self.show(self.history.get(index).expect("the index is below the length").clone());
        true
    }

    fn look_forward(&mut self) -> bool {
        let Some((index, typed)) = self.browsing.take() else { return false };
        match self.history.get(index + 1).cloned() {
            Some(line) => {
                self.browsing = Some((index + 1, typed));
                self.show(line);
            }
            None => self.show(typed),
        }
        true
    }

    fn show(&mut self, line: Line) {
        self.cursor = line.len();
        self.line = line;
    }

    /// Writes on the word before the cursor as far as there is one way; else lists the ways.
    fn complete(&mut self, words: &dyn Complete, echo: Echo<'_>) {
        let start = self.line[..self.cursor].rfind(' ').map_or(0, |space| space + 1);
        let (before, word) = (&self.line[..start], &self.line[start..self.cursor]);
        let mut common = Line::new();
        let mut ways = 0;
        words.candidates(before, &mut |candidate| {
            let Some(rest) = candidate.strip_prefix(word) else { return };
            if ways == 0 {
                // What is too long for a line cannot be written on.
                common = Line::try_from(rest).unwrap_or_default();
            } else {
                common.truncate(common.bytes().zip(rest.bytes()).take_while(|(one, other)| one == other).count());
            }
            ways += 1;
        });
        match ways {
            0 => ring(echo),
            1 => {
                for character in common.chars().chain([' ']) {
                    self.insert(character, echo);
                }
            }
            _ if !common.is_empty() => {
                for character in common.chars() {
                    self.insert(character, echo);
                }
            }
            _ => {
                words.candidates(before, &mut |candidate| {
                    if candidate.starts_with(word) {
                        echo(format_args!("{}{candidate}", if ways > 0 { "\n" } else { "  " }));
                        ways = 0;
                    }
                });
                echo(format_args!("\n"));
                self.draw(echo);
            }
        }
    }
}

fn ring(echo: Echo<'_>) {
    echo(format_args!("\x07"));
}

#[cfg(test)]
mod tests;
