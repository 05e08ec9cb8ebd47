use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};

use proptest::prelude::*;

use super::*;

const PROMPT: &str = "> ";

struct Words;

impl Complete for Words {
    fn candidates(&self, before: &str, found: &mut dyn FnMut(&str)) {
        match before.trim() {
            "" => ["bench", "buddyinfo", "numa", "numastat"].into_iter().for_each(found),
            "bench" => ["pair", "page"].into_iter().for_each(found),
            _ => {}
        }
    }
}

/// As much of a terminal as the editor uses. It panics where the editor would leave the row of its line by writing.
struct Terminal {
    columns: usize,
    /// Rows that were left, without blanks at their ends.
    above: Vec<String>,
    row: Vec<char>,
    cursor: usize,
    bells: usize,
    sequence: String,
}

impl Terminal {
    fn new(columns: usize) -> Self {
        Self { columns, above: vec![], row: vec![' '; columns], cursor: 0, bells: 0, sequence: String::new() }
    }

    fn take(&mut self, text: &str) {
        for character in text.chars() {
            if !self.sequence.is_empty() {
                self.sequence.push(character);
                if character.is_ascii_alphabetic() {
                    let sequence = core::mem::take(&mut self.sequence);
                    self.obey(&sequence);
                }
                continue;
            }
            match character {
                '\r' => self.cursor = 0,
                '\n' => {
                    self.above.push(self.text());
                    self.row = vec![' '; self.columns];
                    self.cursor = 0;
                }
                '\x07' => self.bells += 1,
                '\x1b' => self.sequence.push(character),
                _ => {
                    assert!(!character.is_control(), "{character:?}");
                    if self.cursor + 1 == self.columns {
                        assert!(!self.text().starts_with(PROMPT), "the row overflows");
                        self.take("\n");
                    }
                    self.row[self.cursor] = character;
                    self.cursor += 1;
                }
            }
        }
    }

    fn obey(&mut self, sequence: &str) {
        match sequence {
            "\x1b[K" => self.row[self.cursor..].fill(' '),
            "\x1b[H" => self.cursor = 0,
            "\x1b[2J" => self.row.fill(' '),
            _ => {
                let columns = sequence.strip_prefix("\x1b[").and_then(|rest| rest.strip_suffix('C'));
                let columns: usize = columns.expect("a sequence that is known").parse().expect("a number");
                assert!(columns > 0, "terminals take 0 for 1");
                self.cursor += columns;
                assert!(self.cursor < self.columns, "the cursor leaves the row");
            }
        }
    }

    fn text(&self) -> String {
        self.row.iter().collect::<String>().trim_end().to_string()
    }
}

/// Somebody at a terminal.
struct Person {
    editor: Editor,
    terminal: Terminal,
    inputs: Vec<Input>,
}

impl Person {
    fn new(columns: usize) -> Self {
        let (editor, mut terminal) = (Editor::new(PROMPT, columns), Terminal::new(columns));
        editor.draw(&mut |text| terminal.take(&text.to_string()));
        Self { editor, terminal, inputs: vec![] }
    }

    fn types(&mut self, bytes: &[u8]) -> &mut Self {
        let Self { editor, terminal, inputs } = self;
        for byte in bytes {
            if let Some(input) = editor.feed(*byte, &Words, &mut |text| terminal.take(&text.to_string())) {
                inputs.push(input);
                editor.draw(&mut |text| terminal.take(&text.to_string()));
            }
        }
        self
    }

    /// The row, with a bar where the cursor is.
    fn sees(&self) -> String {
        let row: String = self.terminal.row[..self.terminal.cursor].iter().collect();
        let rest: String = self.terminal.row[self.terminal.cursor..].iter().collect();
        format!("{row}|{}", rest.trim_end())
    }

    fn lines(&self) -> Vec<&str> {
        let lines = self
            .inputs
            .iter()
            .filter_map(|input| if let Input::Line(line) = input { Some(line.as_str()) } else { None });
        lines.collect()
    }
}

fn person() -> Person {
    Person::new(40)
}

#[test]
fn a_line_is_edited_where_the_cursor_is() {
    let mut person = person();
    assert_eq!(person.types(b"bnch pair\x01\x1b[C").sees(), "> b|nch pair");
    assert_eq!(person.types(b"e").sees(), "> be|nch pair");
    assert_eq!(person.types(b"\x05 64\x7f\x7f").sees(), "> bench pair |");
    assert_eq!(person.types(b"\x1b[D\x1b[D\x1b[3~").sees(), "> bench pai|");
    assert_eq!(person.types(b"r\r").lines(), ["bench pair "]);
    assert_eq!(person.sees(), "> |");
}

#[test]
fn parts_are_cut() {
    assert_eq!(person().types(b"one two  \x17").sees(), "> one |");
    assert_eq!(person().types(b"one two\x1bb\x15").sees(), "> |two");
    assert_eq!(person().types(b"one two\x1bb\x0b").sees(), "> one |");
    assert_eq!(person().types(b"one two\x01\x1bf\x0b").sees(), "> one|");
}

#[test]
fn history_keeps_what_was_being_typed() {
    let mut person = person();
    person.types(b"one\rtwo\rtwo\r  \rhalf");
    assert_eq!(person.types(b"\x1b[A").sees(), "> two|");
    assert_eq!(person.types(b"\x1b[A").sees(), "> one|");
    assert_eq!(person.types(b"\x1b[A").sees(), "> one|");
    assert_eq!(person.terminal.bells, 1, "there is nothing before the first line");
    assert_eq!(person.types(b"\x1b[B\x1b[B").sees(), "> half|");
    assert_eq!(person.types(b"\x10!\r").lines().last(), Some(&"two!"));
    assert_eq!(person.types(b"\x10\x10").sees(), "> two|", "a remembered line is not changed by editing it");
}

#[test]
fn history_forgets_the_oldest() {
    let mut person = person();
    for number in 0..HISTORY + 2 {
        person.types(format!("{number}\r").as_bytes());
    }
    person.types(&b"\x10".repeat(HISTORY + 5));
    assert_eq!(person.sees(), "> 2|");
}

#[test]
fn one_way_to_go_on_is_written() {
    assert_eq!(person().types(b"be\t").sees(), "> bench |");
    assert_eq!(person().types(b"bench pai\t").sees(), "> bench pair |");
    assert_eq!(person().types(b"be pair\x01\x06\x06\t").sees(), "> bench | pair");
}

#[test]
fn several_ways_are_written_as_far_as_they_agree_and_then_listed() {
    let mut person = person();
    assert_eq!(person.types(b"nu\t").sees(), "> numa|");
    person.types(b"\t\t");
    assert_eq!(person.sees(), "> numa|");
    assert_eq!(person.terminal.above, ["> numa", "numa  numastat", "> numa", "numa  numastat"]);
}

#[test]
fn no_way_to_go_on_rings() {
    let mut person = person();
    assert_eq!(person.types(b"x\tnuma \t").sees(), "> xnuma |");
    assert_eq!(person.terminal.bells, 2);
}

#[test]
fn a_line_can_be_given_up_and_all_input_ended() {
    let mut person = person();
    person.types(b"half\x03\x04");
    assert_eq!(person.inputs, [Input::GivenUp, Input::Closed]);
    assert_eq!(person.terminal.above, ["> half^C", ">"]);
    assert_eq!(person.types(b"ab\x02\x04").sees(), "> a|", "on a line that is not empty it deletes");
}

#[test]
fn a_long_line_moves_with_the_cursor() {
    let mut person = Person::new(15);
    assert_eq!(person.types(b"0123456789").sees(), "> 0123456789|");
    assert_eq!(person.types(b"ab").sees(), "> 23456789ab|");
    assert_eq!(person.types(b"\x01").sees(), "> |0123456789");
}

#[test]
fn a_line_given_up_at_the_end_of_its_row_stays_on_it() {
    let mut person = Person::new(15);
    person.types(b"0123456789\x03");
    assert_eq!(person.terminal.above, ["> 0123456789^C"]);
}

#[test]
fn a_full_line_rings() {
    let mut person = person();
    person.types(&[b'a'; LONGEST_LINE + 3]).types(b"\r");
    assert_eq!(person.terminal.bells, 3);
    assert_eq!(person.lines(), ["a".repeat(LONGEST_LINE)]);
}

/// The same by another way: what stands before the cursor and what behind it.
#[derive(Debug, Default)]
struct Model {
    before: String,
    behind: String,
}

impl Model {
    fn press(&mut self, key: &[u8]) {
        let Self { before, behind } = self;
        match key {
            b"\x02" => behind.insert_str(0, &before.pop().map_or(String::new(), String::from)),
            b"\x06" if !behind.is_empty() => before.push(behind.remove(0)),
            b"\x01" => *behind = core::mem::take(before) + behind,
            b"\x05" => before.push_str(&core::mem::take(behind)),
            b"\x7f" => drop(before.pop()),
            b"\x1b[3~" if !behind.is_empty() => drop(behind.remove(0)),
            b"\x15" => before.clear(),
            b"\x0b" => behind.clear(),
            b"\x17" => {
                while before.ends_with(' ') {
                    before.pop();
                }
                while !before.is_empty() && !before.ends_with(' ') {
                    before.pop();
                }
            }
            [character @ b' '..=b'~'] if before.len() + behind.len() < LONGEST_LINE => {
                before.push(char::from(*character));
            }
            _ => {}
        }
    }
}

const KEYS: [&[u8]; 12] =
    [b"a", b"b", b" ", b"\x02", b"\x06", b"\x01", b"\x05", b"\x7f", b"\x1b[3~", b"\x15", b"\x0b", b"\x17"];

/// Whether the row shows the line around its cursor.
fn shows_the_line(person: &Person) -> Result<(), TestCaseError> {
    let Person { editor, terminal, .. } = person;
    let row: String = terminal.row.iter().collect();
    prop_assert!(row.starts_with(PROMPT));
    let (before, behind) = editor.line.split_at(editor.cursor);
    let left = &row[PROMPT.len()..terminal.cursor];
    let right = row[terminal.cursor..].trim_end();
    prop_assert!(before.ends_with(left), "{:?} {:?}", before, left);
    prop_assert!(behind.starts_with(right), "{:?} {:?}", behind, right);
    if editor.line.len() <= editor.room {
        prop_assert_eq!(left, before);
        prop_assert_eq!(right, behind.trim_end());
    } else {
        prop_assert!(left.len() + right.len() > 0);
    }
    Ok(())
}

proptest! {
    #[test]
    fn editing_does_what_the_model_does(keys in prop::collection::vec(0..KEYS.len(), 0..400), columns in 0_usize..90) {
        let mut person = Person::new(columns.max(LEAST_ROOM + PROMPT.len() + GIVEN_UP.len() + 1));
        let mut model = Model::default();
        for key in keys {
            person.types(KEYS[key]);
            model.press(KEYS[key]);
            prop_assert_eq!(person.editor.line.as_str(), model.before.clone() + &model.behind);
            prop_assert_eq!(person.editor.cursor, model.before.len());
            shows_the_line(&person)?;
        }
    }

    #[test]
    fn whatever_is_sent_the_row_shows_the_line(bytes: Vec<u8>, columns in 20_usize..90) {
        let mut person = Person::new(columns);
        for byte in bytes {
            person.types(&[byte]);
            // In the middle of a list of words the row is another.
            shows_the_line(&person)?;
        }
    }
}
