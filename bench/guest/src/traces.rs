//! Traces: the one QEMU hands the guest, and what is recorded of workloads.
//!
//! Used by `main`. A trace comes as the file [`FILE`] of QEMU's `fw_cfg` device and leaves as records.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;

use quarry_guest_records::{emit_trace, is_traced};
use quarry_suite::{Mode, Options, Platform, Workload, perform, record as record_workloads};
use quarry_trace::{MOST_TEXT, Trace};
use quarry_unikernel::fw_cfg;

use crate::kernel::Kernel;
use crate::machine::Machine;

/// What the `quarry` command, or a person, calls the trace by `-fw_cfg name=...`.
const FILE: &str = "opt/quarry/trace";

/// The trace `replay` is to replay, where there is one and somebody wants it.
pub(crate) fn given(machine: Machine, options: &Options) -> Result<Option<Arc<Trace>>, String> {
    let workloads = &options.settings.workloads;
    let wanted = workloads.is_empty() || workloads.contains(&Workload::Replay);
    if !wanted || !matches!(options.mode, Mode::Run | Mode::Record | Mode::Shell) {
        return Ok(None);
    }
    let Some(bytes) = fw_cfg::file(FILE, MOST_TEXT).map_err(|error| error.to_string())? else { return Ok(None) };
    let text = core::str::from_utf8(&bytes).map_err(|error| format!("it is no text: {error}"))?;
    let trace = Trace::parse(text).map_err(|error| error.to_string())?;
    let (peak, most) = (trace.peak_bytes(), machine.memory());
    if peak > most {
        return Err(format!(
            "at its peak {} KiB live, and workloads have {} KiB here; give the guest {} times the memory",
            peak >> 10,
            most >> 10,
            peak.div_ceil(most.max(1)),
        ));
    }
    Ok(Some(Arc::new(trace)))
}

/// Has workloads run, and records what they do; where the whole guest is recorded, that is in it already. Returns how many
/// allocations failed.
pub(crate) fn record(machine: Machine, options: &Options) -> u64 {
    machine.warm_up();
    if is_traced() {
        return perform(machine, &Kernel, &options.settings, options.extract);
    }
    let recording = record_workloads(machine, &Kernel, &options.settings, options.extract);
    emit_trace(&recording.trace, recording.dropped);
    recording.failures
}
