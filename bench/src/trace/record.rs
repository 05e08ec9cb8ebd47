//! `quarry trace record`: workloads or tests run in a guest, and what they, or everybody there, ask of its allocator as
//! a trace.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use quarry_trace::Trace;

use super::write;
use crate::cli::{HostOptions, MachineOptions};
use crate::failure::Failure;
use crate::guest::Guest;
use crate::images::Image;
use crate::list;
use crate::progress::Progress;
use crate::size::Size;
use crate::words::count;

#[derive(Debug, Args)]
pub(crate) struct RecordCommand {
    /// Workloads, recorded one after another. `quarry list` has them.
    #[arg(long, value_name = "LIST", value_delimiter = ',', required_unless_present = "test", value_parser = list::workloads())]
    workload: Vec<String>,
    /// Record every call of the guest, whatever code makes it, from the boot to the end: kmalloc and its family,
    /// caches, and so all that Rust collections take. Builds an image that writes them down.
    #[arg(long)]
    whole: bool,
    /// With --whole: record the guest that runs the tests whose name contains this, in place of workloads.
    #[arg(long, value_name = "NAME", requires = "whole", conflicts_with_all = ["workload", "size", "order", "operations", "blocks"])]
    test: Option<String>,
    /// Where to write the trace [default: standard output].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Sizes of blocks in bytes, `K` and `M` understood [default: 8 to 8K].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    size: Vec<Size>,
    /// Orders of page blocks [default: 0 to 9].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    order: Vec<u32>,
    /// Operations of each CPU in each case, where the workload does not decide.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    operations: u64,
    /// Events to keep at most. What comes then is counted and left out.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    events: u64,
    /// Blocks a CPU holds at most, where a workload would hold more; at least 2.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    blocks: Option<u64>,
    /// Where random numbers start.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    machine: MachineOptions,
    #[command(flatten)]
    host: HostOptions,
}

impl RecordCommand {
    fn image(&self) -> Image {
        match (self.whole, &self.test) {
            (false, _) => Image::Bench,
            (true, None) => Image::TracedBench,
            (true, Some(_)) => Image::TracedGuestTests,
        }
    }

    /// As the guest reads it.
    fn guest_words(&self, cpus: u32) -> Vec<String> {
        fn list<T: ToString>(key: &str, values: impl Iterator<Item = T>) -> Option<String> {
            let values: Vec<String> = values.map(|value| value.to_string()).collect();
            (!values.is_empty()).then(|| format!("{key}={}", values.join(",")))
        }
        if let Some(test) = &self.test {
            return vec![format!("test={test}"), format!("trace={}", self.events), format!("seed={}", self.seed)];
        }
        let lists = [
            Some("mode=record".to_owned()),
            self.whole.then(|| format!("trace={}", self.events)),
            list("workloads", self.workload.iter()),
            list("sizes", self.size.iter().map(|size| size.0)),
            list("orders", self.order.iter()),
            list("blocks", self.blocks.iter()),
        ];
        let numbers = [
            format!("cpus={cpus}"),
            "samples=1".to_owned(),
            format!("operations={}", self.operations),
            format!("events={}", self.events),
            format!("seed={}", self.seed),
        ];
        lists.into_iter().flatten().chain(numbers).collect()
    }
}

/// Records. Standard output has the trace alone, where it has no file.
pub(super) fn execute(command: &RecordCommand) -> Result<()> {
    let words = command.guest_words(command.machine.machine()?.cpus());
    let guest = Guest::prepare(command.image(), "record", &command.machine, &command.host, words)?;
    eprintln!("{}", guest.boot.line());
    let ended = guest.watch(Duration::ZERO, &mut Progress::new(command.host.verbose));
    ended.verdict.map_err(|failure| guest.explain(failure))?;
    let Some(dropped) = ended.session.trace_dropped else { return Err(guest.explain(Failure::Nothing("trace"))) };
    let trace = Trace::parse(&ended.session.trace).context("the guest recorded what is no trace")?;
    eprintln!("{} on {}", count(trace.events().len() as u64, "event"), count(trace.cpus().len() as u64, "CPU"));
    if dropped > 0 {
        let fewer = if command.test.is_some() { "" } else { ", or for fewer by --operations" };
        eprintln!("{} more had no room; ask for more by --events{fewer}", count(dropped, "event"));
    }
    write(&trace, command.output.as_deref())
}
