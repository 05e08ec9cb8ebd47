//! Tables in, topology out: real tables, tables that lie, random ones, and machines described and read back.

mod builder;
mod distances;
mod entries;
mod fuzz;
mod headers;
mod machines;
mod madt;
mod oracle;
mod performance;
mod properties;
mod real;
mod srat_cpus;
mod srat_memory;
mod support;
mod tables;
