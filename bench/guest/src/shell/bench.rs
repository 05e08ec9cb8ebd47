//! The command `bench`: one case of the suite with few samples, as a small table.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use quarry_record::Measurement;
use quarry_shell::Bench;
use quarry_suite::{Case, Extent, ORDERS, Options, Platform, SIZES, Settings, UnknownWorkload, Workload, plan};
use quarry_unikernel::{println, time};

use crate::machine::Machine;
use crate::peers::{CONTESTANTS, Contestant};

/// Bytes of a block, and order of pages, when nobody says otherwise.
const USUAL_SIZE: usize = 64;
const USUAL_ORDER: u32 = 0;

/// Measures and prints.
///
/// # Errors
///
/// A sentence on what cannot be measured, or that there were errors.
pub(super) fn run(machine: Machine, options: &Options, task: &Bench<'_>) -> Result<(), String> {
    let allocator = task.allocator.unwrap_or(CONTESTANTS[0].name);
    let contestant = CONTESTANTS.iter().find(|contestant| contestant.name == allocator);
    let contestant = contestant.ok_or_else(|| {
        let names: Vec<&str> = CONTESTANTS.iter().map(|contestant| contestant.name).collect();
        alloc::format!("there is no allocator `{allocator}`; choose from {}", names.join(", "))
    })?;
    let settings = settings(machine, options, task, contestant)?;
    let cases = plan(machine, contestant.features, &settings);
    let first = cases.first().ok_or_else(|| nothing(machine, &settings, contestant))?;
    let unit = if options.icount { "instr." } else { "ns" };
    // Its variants are rows.
    println!("{}, {allocator}: {} samples", Case { variant: None, ..*first }, settings.samples);
    println!(
        "{:20}{:>12}{:>12}{:>14}{:>12}{:>8}",
        "",
        alloc::format!("{unit}, median"),
        alloc::format!("{unit}, p99"),
        "call ns, p99",
        "Mops/s",
        "errors"
    );
    let mut errors = 0;
    (contestant.run)(machine, &settings, &mut |row| {
        errors += row.errors;
        print_row(&row.measurement(allocator, time::ticks_per_second(), options.icount));
    });
    if errors > 0 { Err(alloc::format!("there were {errors} errors")) } else { Ok(()) }
}

fn print_row(row: &Measurement) {
    let parts: Vec<&str> = [row.variant.as_deref(), row.phase.as_deref()].into_iter().flatten().collect();
    let name = if parts.is_empty() { row.workload.clone() } else { parts.join(", ") };
    let cost = row.instructions_per_op.unwrap_or(row.ns_per_op);
    let or_none = |number: Option<f64>| number.map_or_else(|| "-".to_string(), |number| alloc::format!("{number:.1}"));
    let call = or_none(row.latency.as_ref().map(|latency| latency.p99));
    let speed = or_none(row.ops_per_second.map(|speed| speed.median / 1e6));
    println!("{name:20}{:>12.1}{:>12.1}{call:>14}{speed:>12}{:>8}", cost.median, cost.p99, row.errors);
}

/// A quick look at what is asked for.
fn settings(
    machine: Machine,
    options: &Options,
    task: &Bench<'_>,
    contestant: &Contestant,
) -> Result<Settings, String> {
    let workload: Workload =
        task.workload.parse().map_err(|error: UnknownWorkload| alloc::format!("{}: {error}", task.workload))?;
    let most = machine.cpu_count();
    let cpus = task.cpus.unwrap_or(most);
    if cpus > most {
        return Err(alloc::format!("the guest has {most} CPUs, not {cpus}"));
    }
    let usual = Settings {
        workloads: [workload].into(),
        sizes: [USUAL_SIZE].into(),
        orders: [USUAL_ORDER].into(),
        cpus: [cpus].into(),
        effort: if options.icount { options.settings.effort } else { Settings::quick().effort },
        seed: options.settings.seed,
        ..Settings::quick()
    };
    let Some(size) = task.size else { return Ok(usual) };
    match plan(machine, contestant.features, &usual).first().map(|case: &Case| case.extent) {
        Some(Extent::Order(_)) => {
            let order = u32::try_from(size).ok().filter(|order| ORDERS.contains(order));
            let order = order.ok_or_else(|| {
                alloc::format!("{workload} takes an order from {} to {}, not {size}", ORDERS.start(), ORDERS.end())
            })?;
            Ok(Settings { orders: [order].into(), ..usual })
        }
        Some(Extent::Size(_)) if !(1..=Options::MAX_SIZE).contains(&size) => {
            Err(alloc::format!("{workload} takes sizes from 1 to {}, not {size}", Options::MAX_SIZE))
        }
        Some(Extent::Mixed) => {
            Err(alloc::format!("{workload} draws its sizes itself: give `-` in the place of {size}"))
        }
        _ => Ok(Settings { sizes: [size].into(), ..usual }),
    }
}

/// Why the plan is empty.
fn nothing(machine: Machine, settings: &Settings, contestant: &Contestant) -> String {
    let workload = settings.workloads[0];
    let anything = Settings { sizes: Vec::new(), orders: Vec::new(), ..settings.clone() };
    if plan(machine, contestant.features, &anything).is_empty() {
        let cpus = settings.cpus[0];
        alloc::format!("{workload} cannot be measured over {} on {cpus} CPUs", contestant.name)
    } else {
        let sizes: Vec<String> = SIZES.iter().map(ToString::to_string).collect();
        alloc::format!("{workload} has no code for that size; choose from {}", sizes.join(", "))
    }
}
