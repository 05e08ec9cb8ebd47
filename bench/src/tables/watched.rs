//! What workloads watch beside their own cost: how each quantity began and ended. `quarry report` draws all of it.

use quarry_record::{Measurement, Series};
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Modify};

use super::{Subject, figure, lines_below};

/// What a workload itself watches is told against this; memory, which is watched of all, against calls.
const OVER: &str = "operations";

/// A table of that, in the order the results came; `None` where nothing was watched.
pub(super) fn watched(results: &[&Measurement], with_allocators: bool) -> Option<String> {
    if !results.iter().any(|result| result.series.iter().any(is_watched)) {
        return None;
    }
    let with_parts = results.iter().any(|result| !Subject::from(*result).part().is_empty());
    let mut builder = Builder::new();
    let mut titles = vec!["watched", "size"];
    titles.extend(with_parts.then_some("part"));
    titles.extend(with_allocators.then_some("allocator"));
    let labels = titles.len();
    builder.push_record(titles.into_iter().chain(["CPUs", "at first", "in the end", "unit"]));
    for result in results {
        let subject = Subject::from(*result);
        for series in result.series.iter().filter(|series| is_watched(series)) {
            let mut record = vec![series.name.clone(), subject.extent()];
            record.extend(with_parts.then(|| subject.part()));
            record.extend(with_allocators.then(|| subject.allocator.to_owned()));
            record.push(result.cpus.to_string());
            let ends = [series.points.first(), series.points.last()];
            record.extend(ends.into_iter().flatten().map(|(_, quantity)| figure(*quantity)));
            record.push(series.unit.clone());
            builder.push_record(record);
        }
    }
    let mut table = builder.build();
    table.with(lines_below(1)).with(Alignment::right());
    table.with(Modify::new(Columns::new(..labels)).with(Alignment::left()));
    table.with(Modify::new(Columns::last()).with(Alignment::left()));
    Some(table.to_string())
}

fn is_watched(series: &Series) -> bool {
    series.over == OVER && !series.points.is_empty()
}
