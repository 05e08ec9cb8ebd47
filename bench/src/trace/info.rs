//! [`Info`]: what is in a trace, for people.

use std::fmt;

use quarry_trace::{Action, Cpu, Trace};

use crate::size::Size;
use crate::words::count;

/// Widest bar of the histogram.
const BAR: u64 = 40;

/// What is in a trace.
#[derive(Clone, Debug, Default)]
pub(super) struct Info {
    /// By kind, in the order of [`KINDS`].
    kinds: [u64; 5],
    cpus: Vec<(Cpu, u64)>,
    nanoseconds: Option<u64>,
    peak_bytes: u64,
    left: u64,
    /// Objects by the power of two their bytes fit in, from 2^0 on.
    sizes: Vec<u64>,
    /// Blocks of pages by order.
    orders: Vec<u64>,
    frees: u64,
    remote_frees: u64,
    /// Of what is freed: events from its first to its last.
    events_lived: Vec<u64>,
    /// The same in nanoseconds, where the trace has times.
    nanoseconds_lived: Vec<u64>,
}

/// Kinds of events.
const KINDS: [(&str, &str); 5] =
    [("a", "allocations"), ("r", "resizes"), ("f", "frees"), ("p", "page allocations"), ("q", "page frees")];

/// When and where an object began.
struct Birth {
    cpu: Cpu,
    event: u64,
    nanoseconds: u64,
}

impl Info {
    pub(super) fn of(trace: &Trace) -> Self {
        let timed = trace.events().iter().skip(1).all(|event| event.after.is_some());
        let mut info = Self {
            peak_bytes: trace.peak_bytes(),
            left: trace.live_count() as u64,
            cpus: trace.cpus().into_iter().map(|cpu| (cpu, 0)).collect(),
            ..Self::default()
        };
        let mut births: Vec<Birth> = Vec::with_capacity(trace.object_count());
        let mut now: u64 = 0;
        for (number, event) in (0..).zip(trace.events()) {
            // The first event's time is since what is not in the trace.
            now = now.saturating_add(event.after.filter(|_| number > 0).unwrap_or(0));
            let letter = event.action.letter().to_string();
            info.kinds[KINDS.iter().position(|(kind, _)| *kind == letter).expect("all are there")] += 1;
            let place = info.cpus.binary_search_by_key(&event.cpu, |(cpu, _)| *cpu).expect("all are there");
            info.cpus[place].1 += 1;
            match event.action {
                Action::Allocate(request) => add(&mut info.sizes, request.size.next_power_of_two().ilog2() as usize),
                Action::AllocatePages(order) => add(&mut info.orders, order.into()),
                Action::Resize(_) | Action::Free | Action::FreePages => {}
            }
            match event.action {
                Action::Allocate(_) | Action::AllocatePages(_) => {
                    births.push(Birth { cpu: event.cpu, event: number, nanoseconds: now });
                }
                Action::Free | Action::FreePages => {
                    let birth = &births[event.object.index()];
                    info.frees += 1;
                    info.remote_frees += u64::from(birth.cpu != event.cpu);
                    info.events_lived.push(number - birth.event);
                    info.nanoseconds_lived.extend(timed.then(|| now - birth.nanoseconds));
                }
                Action::Resize(_) => {}
            }
        }
        info.nanoseconds = timed.then_some(now);
        info.events_lived.sort_unstable();
        info.nanoseconds_lived.sort_unstable();
        info
    }
}

/// Counts one more at a place of a list that grows.
fn add(counts: &mut Vec<u64>, place: usize) {
    if counts.len() <= place {
        counts.resize(place + 1, 0);
    }
    counts[place] += 1;
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "events      {}", self.kinds.iter().sum::<u64>())?;
        for ((_, name), number) in KINDS.iter().zip(self.kinds).filter(|(_, number)| *number > 0) {
            write!(f, ", {name} {number}")?;
        }
        writeln!(f)?;
        if self.cpus.is_empty() {
            return Ok(());
        }
        let events: Vec<String> = self.cpus.iter().map(|(cpu, events)| format!("CPU {} {events}", cpu.0)).collect();
        writeln!(f, "CPUs        {}, with events: {}", self.cpus.len(), events.join(", "))?;
        match self.nanoseconds {
            Some(nanoseconds) => writeln!(f, "time        {}", time(nanoseconds))?,
            None => writeln!(f, "time        not in the trace")?,
        }
        writeln!(f, "peak        {} live at once", Size(self.peak_bytes).for_people())?;
        writeln!(f, "left        {} never freed", count(self.left, "object"))?;
        let share = if self.frees == 0 { 0.0 } else { self.remote_frees as f64 / self.frees as f64 * 100.0 };
        writeln!(f, "remote      {share:.1} % of {} on another CPU than the allocation", count(self.frees, "free"))?;
        lifetimes(f, &self.events_lived, |events| count(events, "event"))?;
        lifetimes(f, &self.nanoseconds_lived, time)?;
        histogram(f, "sizes       objects of up to so many bytes", &self.sizes, |power| Size(1 << power).for_people())?;
        histogram(f, "orders      blocks of 2^n pages", &self.orders, |order| order.to_string())
    }
}

/// How long objects lived: percentiles of a sorted list.
fn lifetimes(f: &mut fmt::Formatter<'_>, lived: &[u64], show: impl Fn(u64) -> String) -> fmt::Result {
    let Some(longest) = lived.last() else { return Ok(()) };
    let percentile = |parts: usize| show(lived[(lived.len() - 1) * parts / 100]);
    writeln!(
        f,
        "lifetimes   median {}, 90 % up to {}, 99 % up to {}, longest {}",
        percentile(50),
        percentile(90),
        percentile(99),
        show(*longest)
    )
}

fn histogram(f: &mut fmt::Formatter<'_>, title: &str, counts: &[u64], name: impl Fn(usize) -> String) -> fmt::Result {
    let Some(most) = counts.iter().max() else { return Ok(()) };
    writeln!(f, "{title}")?;
    let first = counts.iter().position(|count| *count > 0).unwrap_or(0);
    for (place, count) in counts.iter().enumerate().skip(first) {
        let bar = "#".repeat((count * BAR).div_ceil(*most) as usize);
        writeln!(f, "{}", format!("{:>10}  {count:>8}  {bar}", name(place)).trim_end())?;
    }
    Ok(())
}

fn time(nanoseconds: u64) -> String {
    match nanoseconds {
        0..10_000 => format!("{nanoseconds} ns"),
        10_000..10_000_000 => format!("{:.1} us", nanoseconds as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} ms", nanoseconds as f64 / 1e6),
        _ => format!("{:.1} s", nanoseconds as f64 / 1e9),
    }
}
