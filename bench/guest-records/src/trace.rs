//! Traces as records: those of workloads, and in an image with the feature `trace` everything the memory service was
//! asked for since its start.

use alloc::string::String;
use core::fmt::Write;

use quarry_record::{Record, TracePiece};
use quarry_trace::Trace;

use crate::emit;

/// Lines in a record.
const LINES: usize = 500;

/// Writes a trace, and how many events it lacks.
pub fn emit_trace(trace: &Trace, dropped: u64) {
    emit(&Record::Trace(TracePiece { text: alloc::format!("{}\n", Trace::header()), dropped: None }));
    for events in trace.events().chunks(LINES) {
        let mut text = String::new();
        for event in events {
            writeln!(text, "{event}").expect("a string takes everything");
        }
        emit(&Record::Trace(TracePiece { text, dropped: None }));
    }
    emit(&Record::Trace(TracePiece { text: String::new(), dropped: Some(dropped) }));
}

/// Whether everything the memory service is asked for is written down in this run.
pub fn is_traced() -> bool {
    cfg!(feature = "trace") && quarry_unikernel::option("trace").is_some()
}

/// Ends that and writes it, where it is so. Called once, before the last record.
pub fn emit_whole_trace() {
    #[cfg(feature = "trace")]
    if is_traced() {
        let (trace, dropped) = whole::trace();
        emit_trace(&trace, dropped);
    }
}

#[cfg(feature = "trace")]
mod whole {
    use quarry_trace::{Assembly, Cpu, Flags, Moment, Node, Place, Request, Trace};
    use quarry_unikernel::memory::service;
    use quarry_unikernel::memory_service::trace::{Action, Call};

    /// What the service was asked for, and how many calls there was no room for.
    pub(super) fn trace() -> (Trace, u64) {
        service().stop_trace();
        let mut assembly = Assembly::default();
        service().traced_calls().for_each(|call| take(&mut assembly, call));
        (assembly.into_trace(), service().untraced_calls())
    }

    /// Of what has no size, or was never seen, nothing comes; the service itself complains about such calls.
    fn take(assembly: &mut Assembly, call: Call) {
        let at = Moment { nanoseconds: call.time.as_nanos() as u64, cpu: Cpu(call.cpu.0) };
        match call.action {
            Action::Allocate { address, size, node, zeroed, atomic } => {
                let (size, node) = (size as u32, node.map(|node| Node(node.0.into())));
                assembly.allocate(at, address as u64, Request { size, node, flags: Flags { zeroed, atomic } });
            }
            Action::Resize { from, to, size } => {
                assembly.resize(at, from as u64, to as u64, size as u32);
            }
            Action::Free { address } => {
                assembly.free(at, Place::Object(address as u64));
            }
        }
    }
}
