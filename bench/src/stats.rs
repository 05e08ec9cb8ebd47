//! What `quarry stats` shows: a guest's reports as they are, or all of them as one JSON document.

use quarry_record::{Measurement, Report, ReportSubject, Run, Stress};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::failure::Failure;
use crate::session::Session;

/// The texts of the reports named. A single one is as the guest wrote it, to the byte; several have their names above
/// them.
///
/// # Errors
///
/// [`Failure::NoReport`] for the first that is not there.
pub(crate) fn texts(session: &Session, names: &[String]) -> Result<String, Failure> {
    let find = |name: &String| {
        let report = session.reports.iter().find(|report| report.name == *name);
        report.ok_or_else(|| Failure::NoReport(name.clone()))
    };
    let reports = names.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    if let [report] = reports[..] {
        return Ok(report.text.clone());
    }
    let with_name = |report: &&Report| format!("==> {} <==\n{}", report.name, report.text);
    Ok(reports.iter().map(with_name).collect::<Vec<_>>().join("\n"))
}

/// Everything as JSON.
#[derive(serde::Serialize)]
struct Document<'s> {
    /// Who ran, and on what.
    run: Option<&'s Run>,
    /// What the stress came to, where that was the work.
    stress: Option<&'s Stress>,
    /// What the suite measured, where that was the work.
    results: &'s [Measurement],
    /// Whether the rows make up all RAM.
    adds_up: bool,
    /// Whether CPUs were at work while the statistics were taken.
    approximate: bool,
    /// By name: `{"slabinfo": {"kmalloc-64": {"active_objs": 3}}, "meminfo": {"MemTotal": 2096760}}`.
    reports: Reports<'s>,
}

/// The document, indented for people, with a newline at its end.
///
/// # Errors
///
/// [`Failure::Nothing`] when the guest gave no report or no statistics.
pub(crate) fn json(session: &Session) -> Result<String, Failure> {
    let statistics = session.statistics.as_ref().ok_or(Failure::Nothing("statistics"))?;
    if session.reports.is_empty() {
        return Err(Failure::Nothing("report"));
    }
    let document = Document {
        run: session.run.as_ref(),
        stress: session.stress.as_ref(),
        results: &session.results,
        adds_up: statistics.adds_up,
        approximate: statistics.approximate,
        reports: Reports(&session.reports),
    };
    let text = serde_json::to_string_pretty(&document).expect("strings, numbers and lists always have a JSON form");
    Ok(text + "\n")
}

/// A map of reports, in the order they came.
struct Reports<'s>(&'s [Report]);

impl Serialize for Reports<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|report| (&report.name, Numbers(&report.subjects))))
    }
}

/// A map of a report's subjects; what is of the whole machine stands beside them.
struct Numbers<'s>(&'s [ReportSubject]);

impl Serialize for Numbers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for ReportSubject { name, values } in self.0 {
            if name.is_empty() {
                values.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
            } else {
                map.serialize_entry(name, &Values(values))?;
            }
        }
        map.end()
    }
}

/// A map of numbers, in their order.
struct Values<'s>(&'s [(String, u64)]);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use quarry_record::Statistics;

    use super::*;

    fn report(name: &str, subjects: &[(&str, &[(&str, u64)])]) -> Report {
        let values = |values: &[(&str, u64)]| values.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        let subject =
            |(name, of): &(&str, &[(&str, u64)])| ReportSubject { name: (*name).to_owned(), values: values(of) };
        let subjects = subjects.iter().map(subject).collect();
        Report { name: name.to_owned(), text: format!("what {name} says\n"), subjects }
    }

    fn session() -> Session {
        let zones: [(&str, &[(&str, u64)]); 2] = [("Node 0, zone DMA", &[("free", 3)]), ("Node 0", &[("slabs", 1)])];
        let mut session = Session::default();
        session.statistics = Some(Statistics { adds_up: true, ..Statistics::default() });
        session.reports =
            vec![report("meminfo", &[("", &[("MemTotal", 4), ("MemFree", 3)])]), report("zoneinfo", &zones)];
        session
    }

    #[test]
    fn one_report_is_shown_as_it_is_and_several_under_their_names() {
        let show = |names: &[&str]| texts(&session(), &names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(show(&["zoneinfo"]).expect("it is there"), "what zoneinfo says\n");
        let both = show(&["zoneinfo", "meminfo"]).expect("they are there");
        assert_eq!(both, "==> zoneinfo <==\nwhat zoneinfo says\n\n==> meminfo <==\nwhat meminfo says\n");
        let missing = show(&["meminfo", "songs"]).expect_err("there is none").to_string();
        assert_eq!(missing, "the guest gave no `songs` report");
    }

    #[test]
    fn everything_is_one_json_document() {
        insta::assert_snapshot!(json(&session()).expect("there are reports"), @r#"
        {
          "run": null,
          "stress": null,
          "results": [],
          "adds_up": true,
          "approximate": false,
          "reports": {
            "meminfo": {
              "MemTotal": 4,
              "MemFree": 3
            },
            "zoneinfo": {
              "Node 0, zone DMA": {
                "free": 3
              },
              "Node 0": {
                "slabs": 1
              }
            }
          }
        }
        "#);
        let nothing = json(&Session::default()).expect_err("there are none").to_string();
        assert_eq!(nothing, "the guest ended well but gave no `statistics` record");
    }
}
