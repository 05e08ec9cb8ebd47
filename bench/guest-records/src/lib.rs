//! What every image tells of its machine, as records on the serial line: the fingerprint of the run, where all memory
//! is, the reports of the memory service, and traces.
//!
//! Used by the bench image and the guest tests. It is the one place that knows both the unikernel and the records.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod reports;
mod trace;

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use quarry_record::{Cpu, Node, Record, Run, SCHEMA_VERSION, Statistics, StatisticsRow, Topology};
use quarry_topology::{NodeId, NodeSource};
use quarry_unikernel::{boot_duration, command_line, cpus, memory, option, println, time, topology, topology_warnings};
use raw_cpuid::{CpuId, Hypervisor};

pub use reports::reports;
pub use trace::{emit_trace, emit_whole_trace, is_traced};

/// Writes a record on the serial line.
pub fn emit(record: &Record) {
    println!("{}", record.to_line());
}

/// Who runs here and on what. `image` is its name, `seed` where its random numbers start, `rows` how many results will
/// follow. What only the host knows (`git=`, `accel=`, `icount=`) it has put on the command line.
pub fn fingerprint(image: &str, seed: u64, rows: u64) -> Run {
    let word = |key| option(key).unwrap_or("unknown").to_string();
    Run {
        schema: SCHEMA_VERSION,
        git: word("git"),
        image: image.to_string(),
        cpu: cpu_brand(),
        hypervisor: hypervisor(),
        accelerator: word("accel"),
        icount: option("icount") == Some("1"),
        tsc_hz: time::ticks_per_second(),
        tsc_method: time::method().to_string(),
        command_line: command_line().to_string(),
        topology: machine(),
        warnings: topology_warnings(),
        cpus_online: cpus::online().count() as u32,
        boot_microseconds: boot_duration().as_micros() as u64,
        seed,
        rows,
    }
}

/// Where all memory is.
pub fn statistics() -> Statistics {
    let statistics = memory::service().statistics();
    let row = |(name, bytes): (&str, u64)| StatisticsRow { name: name.to_string(), bytes };
    Statistics {
        total: statistics.total,
        rows: statistics.rows().into_iter().map(row).collect(),
        adds_up: statistics.adds_up(),
        approximate: statistics.approximate,
    }
}

fn machine() -> Topology {
    let topology = topology();
    let from_firmware = topology.node_source() == NodeSource::Srat;
    let cpus_of =
        |id| topology.cpus_of(id).map(|cpu| Cpu { id: cpu.0.into(), apic_id: topology.cpus()[cpu.index()].apic_id });
    let node = |id: NodeId| Node {
        id: id.0.into(),
        domain: from_firmware.then(|| topology.proximity_domain(id)),
        memory_bytes: topology.memory_bytes(id),
        memory: topology.memory_of(id).map(|memory| [memory.range.start, memory.range.end]).collect(),
        cpus: cpus_of(id).collect(),
    };
    let distances = |from| topology.nodes().map(|to| topology.distance(from, to)).collect::<Vec<u8>>();
    Topology {
        nodes: topology.nodes().map(node).collect(),
        distances: topology.nodes().map(distances).collect(),
        source: topology.node_source().to_string(),
        distance_source: topology.distance_source().to_string(),
    }
}

fn cpu_brand() -> String {
    let brand = CpuId::new().get_processor_brand_string();
    brand.map_or_else(|| "unknown".to_string(), |brand| brand.as_str().trim().to_string())
}

fn hypervisor() -> String {
    match CpuId::new().get_hypervisor_info().map(|info| info.identify()) {
        None => "none".to_string(),
        Some(Hypervisor::QEMU) => "TCG".to_string(),
        Some(other) => alloc::format!("{other:?}"),
    }
}
