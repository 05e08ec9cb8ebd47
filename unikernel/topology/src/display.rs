//! A topology as people read it: what `numactl -H` prints, and with `{:#}` also where everything is and who said so.

use crate::{DistanceSource, MemoryPerformance, MemoryRange, NodeId, NodeSource, Topology};
use core::fmt;

impl fmt::Display for NodeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Assumed => "assumed",
            Self::Srat => "SRAT",
            Self::Simulated => "simulated",
        })
    }
}

impl fmt::Display for DistanceSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Assumed => "assumed",
            Self::Slit => "SLIT",
            Self::Hmat => "HMAT",
            Self::Simulated => "simulated",
        })
    }
}

/// The lines of `numactl -H`, without those on free memory, which a topology does not know. The alternate form (`{:#}`)
/// adds the sources, proximity domains, APIC ids and addresses.
impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_hardware(f, None)
    }
}

impl Topology {
    /// All lines of `numactl -H`; `free_bytes` says how much of a node is free.
    pub fn hardware(&self, free_bytes: impl Fn(NodeId) -> u64) -> impl fmt::Display {
        fmt::from_fn(move |f| self.fmt_hardware(f, Some(&free_bytes)))
    }

    fn fmt_hardware(&self, f: &mut fmt::Formatter<'_>, free_bytes: Option<&dyn Fn(NodeId) -> u64>) -> fmt::Result {
        match self.node_count {
            0 => return f.write_str("available: 0 nodes\n"),
            1 => writeln!(f, "available: 1 nodes (0)")?,
            count => writeln!(f, "available: {count} nodes (0-{})", count - 1)?,
        }
        if f.alternate() {
            writeln!(f, "nodes from: {}", self.node_source)?;
            writeln!(f, "distances from: {}", self.distance_source)?;
            writeln!(f, "local APICs at: {}", self.local_apic_address())?;
        }
        for node in self.nodes() {
            write!(f, "{node} cpus:")?;
            for cpu in self.cpus_of(node) {
                write!(f, " {}", cpu.0)?;
            }
            writeln!(f)?;
            writeln!(f, "{node} size: {} MB", self.memory_bytes(node) >> 20)?;
            if let Some(free_bytes) = free_bytes {
                writeln!(f, "{node} free: {} MB", free_bytes(node) >> 20)?;
            }
            if f.alternate() {
                self.fmt_details(f, node)?;
            }
        }
        if f.alternate() {
            for absent in self.absent_memory() {
                write!(f, "proximity domain {} absent: {}", absent.proximity_domain, absent.range)?;
                fmt_flags(f, absent.hot_pluggable, absent.non_volatile)?;
            }
        }
        self.fmt_distances(f)?;
        if f.alternate() { self.fmt_performance(f) } else { Ok(()) }
    }

    fn fmt_details(&self, f: &mut fmt::Formatter<'_>, node: NodeId) -> fmt::Result {
        writeln!(f, "{node} proximity domain: {}", self.proximity_domain(node))?;
        write!(f, "{node} APIC ids:")?;
        for cpu in self.cpus_of(node) {
            write!(f, " {}", self.cpus()[cpu.index()].apic_id)?;
        }
        writeln!(f)?;
        for MemoryRange { range, hot_pluggable, non_volatile, .. } in self.memory_of(node) {
            write!(f, "{node} memory: {range}")?;
            fmt_flags(f, *hot_pluggable, *non_volatile)?;
        }
        Ok(())
    }

    fn fmt_distances(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "node distances:")?;
        write!(f, "node")?;
        for to in self.nodes() {
            write!(f, " {:>3}", to.0)?;
        }
        writeln!(f)?;
        for from in self.nodes() {
            write!(f, "{:>3}:", from.0)?;
            for to in self.nodes() {
                write!(f, " {:>3}", self.distance(from, to))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn fmt_performance(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for from in self.nodes() {
            for to in self.nodes() {
                let performance = self.performance(from, to);
                if performance == MemoryPerformance::UNKNOWN {
                    continue;
                }
                let values = [
                    ("read latency", performance.read_latency_ps, "ps"),
                    ("write latency", performance.write_latency_ps, "ps"),
                    ("read bandwidth", performance.read_bandwidth_mbps, "MB/s"),
                    ("write bandwidth", performance.write_bandwidth_mbps, "MB/s"),
                ];
                write!(f, "{from} to {to}:")?;
                let known = values.into_iter().filter_map(|(what, value, unit)| Some((what, value?, unit)));
                for (index, (what, value, unit)) in known.enumerate() {
                    write!(f, "{} {what} {value} {unit}", if index > 0 { "," } else { "" })?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// Ends the line of a memory range.
fn fmt_flags(f: &mut fmt::Formatter<'_>, hot_pluggable: bool, non_volatile: bool) -> fmt::Result {
    if hot_pluggable {
        f.write_str(" hot-pluggable")?;
    }
    if non_volatile {
        f.write_str(" non-volatile")?;
    }
    writeln!(f)
}
