//! [`Record`]: any of the records, and a record as a line of text.

use alloc::string::{String, ToString};
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::{Alive, Edge, End, Measurement, Report, Run, SCHEMA_VERSION, Statistics, Stress, Test, TracePiece};

/// One line of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "nearly every record of a run is a result, the largest")]
pub enum Record {
    /// Who runs here and on what.
    Run(Run),
    /// One row of results.
    Result(Measurement),
    /// Where all memory is.
    Statistics(Statistics),
    /// The same in the format of a file of Linux's.
    Report(Report),
    /// What came of a stress.
    Stress(Stress),
    /// What came of a run at the edge.
    Edge(Edge),
    /// It works still.
    Alive(Alive),
    /// A piece of what was recorded.
    Trace(TracePiece),
    /// How far a test has come.
    Test(Test),
    /// The verdict.
    End(End),
}

impl Record {
    /// The record as one line, without the newline. Numbers that are not finite become `null`, which no reader takes.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists always have a JSON form")
    }

    /// Reads a line.
    ///
    /// # Errors
    ///
    /// [`RecordError`] when the line is no record, or a `run` record of another schema version.
    pub fn from_line(line: &str) -> Result<Self, RecordError> {
        let record = serde_json::from_str(line);
        // A record of another version most likely lacks a field; its version says more than that.
        if let Some(found) = schema(line).filter(|&found| found != SCHEMA_VERSION) {
            return Err(RecordError::Schema { found });
        }
        record.map_err(|problem| RecordError::Malformed { problem: problem.to_string() })
    }

    /// Whether a line of a guest's output is meant to be a record.
    pub fn is_record(line: &str) -> bool {
        line.starts_with('{')
    }
}

/// The schema version a line claims, when it is one that says so.
fn schema(line: &str) -> Option<u32> {
    #[derive(Deserialize)]
    struct Versioned {
        schema: u32,
    }

    serde_json::from_str::<Versioned>(line).ok().map(|versioned| versioned.schema)
}

/// Why a line is no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Not JSON, or a field is missing or of another type.
    Malformed {
        /// What, and where in the line.
        problem: String,
    },
    /// Written by another version.
    Schema {
        /// Which.
        found: u32,
    },
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { problem } => write!(f, "not a record: {problem}"),
            Self::Schema { found } => {
                write!(f, "records of schema version {found}, but this program reads version {SCHEMA_VERSION}")
            }
        }
    }
}

impl core::error::Error for RecordError {}
