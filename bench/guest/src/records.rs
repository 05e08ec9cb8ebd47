//! What the image has found out, as records: the fingerprint of the run, rows, statistics.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use quarry_record::{Cpu, Measurement, Node, Run, SCHEMA_VERSION, Statistics, StatisticsRow, Summary, Topology};
use quarry_suite::{Extent, Options, Placement, Row, StressReport, Subject};
use quarry_unikernel::topology_model::NodeSource;
use quarry_unikernel::{boot_duration, command_line, cpus, memory, time, topology, topology_warnings};
use raw_cpuid::{CpuId, Hypervisor};

use crate::kernel::Kernel;

const NANOSECONDS_PER_SECOND: f64 = 1e9;

/// Who runs here, on what, and how many rows will follow.
pub(crate) fn run(options: &Options, rows: u64) -> Run {
    Run {
        schema: SCHEMA_VERSION,
        git: options.git.clone(),
        image: "bench".to_string(),
        cpu: cpu_brand(),
        hypervisor: hypervisor(),
        accelerator: options.accelerator.clone(),
        icount: options.icount,
        tsc_hz: time::ticks_per_second(),
        tsc_method: time::method().to_string(),
        command_line: command_line().to_string(),
        topology: machine(),
        warnings: topology_warnings(),
        cpus_online: cpus::online().count() as u32,
        boot_microseconds: boot_duration().as_micros() as u64,
        seed: options.settings.seed,
        rows,
    }
}

/// A row of the suite. With `counts_instructions` a virtual nanosecond is an instruction.
pub(crate) fn measurement(row: &Row, counts_instructions: bool) -> Measurement {
    let nanoseconds_per_tick = NANOSECONDS_PER_SECOND / time::ticks_per_second() as f64;
    let nanoseconds = summary(row.ticks.scaled(nanoseconds_per_tick));
    Measurement {
        workload: row.case.workload.name().to_string(),
        allocator: Kernel::NAME.to_string(),
        size: match row.case.extent {
            Extent::Size(size) => Some(size as u64),
            Extent::Order(_) | Extent::Mixed => None,
        },
        order: match row.case.extent {
            Extent::Order(order) => Some(order),
            Extent::Size(_) | Extent::Mixed => None,
        },
        placement: row.case.placement.map(|placement| {
            let name = match placement {
                Placement::Local => "local",
                Placement::Remote => "remote",
                Placement::Alternating => "alternating",
            };
            name.to_string()
        }),
        // Where the placement is the only phase it is told already.
        phase: row.phase.filter(|_| row.case.placement.is_none()).map(ToString::to_string),
        cpus: row.case.cpus as u32,
        ops: row.operations,
        instructions_per_op: counts_instructions.then_some(nanoseconds),
        ns_per_op: nanoseconds,
        cycles_per_op: summary(row.ticks),
        empty_ns_per_op: row.empty_ticks * nanoseconds_per_tick,
        empty_cycles_per_op: row.empty_ticks,
        samples: row.samples.clone(),
        errors: row.errors,
    }
}

/// Where all memory is.
pub(crate) fn statistics() -> Statistics {
    let statistics = memory::service().statistics();
    let row = |(name, bytes): (&str, u64)| StatisticsRow { name: name.to_string(), bytes };
    Statistics {
        total: statistics.total,
        rows: statistics.rows().into_iter().map(row).collect(),
        adds_up: statistics.adds_up(),
    }
}

/// What came of a stress.
pub(crate) fn stress(report: &StressReport, cpus: u32, seconds: u64) -> quarry_record::Stress {
    quarry_record::Stress {
        seconds,
        cpus,
        operations: report.operations,
        handed_on: report.handed_on,
        errors: report.errors,
        failed_allocations: report.failed_allocations,
        lost_bytes: report.lost_bytes,
        passed: report.passed(),
    }
}

fn summary(summary: quarry_suite::Summary) -> Summary {
    Summary { min: summary.min, median: summary.median, p99: summary.p99, max: None, spread: summary.spread }
}

fn machine() -> Topology {
    let topology = topology();
    let node = |id| Node {
        id: u32::from(id),
        domain: (topology.node_source() == NodeSource::Srat)
            .then(|| topology.proximity_domain(quarry_topology::NodeId(id))),
        memory_bytes: topology.memory_bytes(quarry_topology::NodeId(id)),
        memory: topology
            .memory_of(quarry_topology::NodeId(id))
            .map(|memory| [memory.range.start, memory.range.end])
            .collect(),
        cpus: topology
            .cpus_of(quarry_topology::NodeId(id))
            .map(|cpu| Cpu { id: u32::from(cpu.0), apic_id: topology.cpus()[cpu.index()].apic_id })
            .collect(),
    };
    let distances = |from| topology.nodes().map(|to| topology.distance(from, to)).collect::<Vec<u8>>();
    Topology {
        nodes: topology.nodes().map(|id| node(id.0)).collect(),
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
    let info = CpuId::new().get_hypervisor_info();
    info.map_or_else(
        || "none".to_string(),
        |info| match info.identify() {
            Hypervisor::QEMU => "TCG".to_string(),
            other => alloc::format!("{other:?}"),
        },
    )
}
