//! [`reports`]: the memory service's state in every format it has, as records of one moment.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt::Write;

use quarry_record::{Report, ReportSubject};
use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::statistics::{
    self, Buddyinfo, Hardware, Malloctypes, Meminfo, MetadataParts, Numastat, Pagetypeinfo, Rows, Slabinfo, Vmstat,
    Zoneinfo,
};
use quarry_unikernel::topology;

/// Room a text is given to become longer than it was at first.
const SPARE_BYTES: usize = 1024;

/// All reports there are. They agree with each other as long as no other CPU is at work: the records are themselves
/// objects of the service, so they are made first and filled in again when all of them are there, with nothing allocated
/// in between.
pub fn reports() -> Vec<Report> {
    let service = service();
    let hardware = Hardware { service, topology: topology() };
    let all: [&dyn statistics::Report; 11] = [
        &Rows(service),
        &MetadataParts(service),
        &Slabinfo(service),
        &Buddyinfo(service),
        &Pagetypeinfo(service),
        &Zoneinfo(service),
        &Meminfo(service),
        &Vmstat(service),
        &Malloctypes(service),
        &Numastat(service),
        &hardware,
    ];
    let mut drafts: Vec<Draft> = all.into_iter().map(Draft::new).collect();
    drafts.iter_mut().for_each(Draft::fill);
    drafts.into_iter().map(|draft| draft.record).collect()
}

/// A record and the report it is made of.
struct Draft<'r> {
    report: &'r dyn statistics::Report,
    record: Report,
    /// Where each number the report gives stands in the record: subject, value.
    places: Vec<(usize, usize)>,
}

impl<'r> Draft<'r> {
    /// Makes the record, with room for what the report may say later.
    fn new(report: &'r dyn statistics::Report) -> Self {
        let mut text = report.to_string();
        text.reserve(SPARE_BYTES);
        let (mut subjects, mut places) = (Vec::<ReportSubject>::new(), Vec::new());
        report.for_each_value(&mut |of, name, value| {
            let of = of.to_string();
            let subject = subjects.iter().position(|subject| subject.name == of).unwrap_or(subjects.len());
            if subject == subjects.len() {
                subjects.push(ReportSubject { name: of, values: Vec::new() });
            }
            places.push((subject, subjects[subject].values.len()));
            subjects[subject].values.push((name.to_string(), value));
        });
        Self { report, record: Report { name: report.name().to_string(), text, subjects }, places }
    }

    /// Writes what the report says now into the record. Allocates nothing.
    fn fill(&mut self) {
        self.record.text.clear();
        write!(self.record.text, "{}", self.report).expect("a string takes whatever is written to it");
        let mut places = self.places.iter();
        self.report.for_each_value(&mut |_, _, value| {
            // Caches and zones neither come nor go while only the caller runs.
            if let Some(&(subject, at)) = places.next() {
                self.record.subjects[subject].values[at].1 = value;
            }
        });
    }
}
