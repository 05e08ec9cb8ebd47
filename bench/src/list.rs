//! What can be measured, in words: `quarry list`.
//!
//! All of it is from the catalogue of `quarry-record`, which the suite and the guest are tested against.

use std::fmt::Write;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};
use quarry_record::catalogue::{self, ALLOCATORS, Allocator, Group, WORKLOADS, Workload};

/// The column of the summaries starts so far behind the names.
const GAP: usize = 2;

#[derive(Debug, Args)]
pub(crate) struct ListCommand {
    /// Tell all of this workload or allocator alone.
    #[arg(value_parser = names())]
    name: Option<String>,
    /// Also tell what each workload stresses and who made it known.
    #[arg(long)]
    details: bool,
}

fn names() -> PossibleValuesParser {
    let workloads = WORKLOADS.iter().map(|workload| workload.name);
    PossibleValuesParser::new(workloads.chain(ALLOCATORS.iter().map(|allocator| allocator.name)))
}

/// The workloads, as `--workload` takes them.
pub(crate) fn workloads() -> PossibleValuesParser {
    let value = |workload: &Workload| PossibleValue::new(workload.name).help(workload.summary);
    PossibleValuesParser::new(WORKLOADS.iter().map(value))
}

/// The allocators, as `--allocator` takes them.
pub(crate) fn allocators() -> PossibleValuesParser {
    let value = |allocator: &Allocator| PossibleValue::new(allocator.name).help(allocator.summary);
    PossibleValuesParser::new(ALLOCATORS.iter().map(value).chain([PossibleValue::new("all").help("all of these")]))
}

/// Prints what was asked for.
pub(crate) fn execute(command: &ListCommand) {
    print!("{}", text(command));
}

fn text(command: &ListCommand) -> String {
    let Some(name) = &command.name else { return all(WORKLOADS, ALLOCATORS, command.details) };
    let of_workload = catalogue::workload(name).map(detailed);
    let of_allocator =
        ALLOCATORS.iter().find(|allocator| allocator.name == name).map(|it| format!("{}\n  {}\n", it.name, it.summary));
    of_workload.or(of_allocator).expect("clap takes no name but theirs")
}

/// Workloads by group, then allocators.
fn all(workloads: &[Workload], allocators: &[Allocator], details: bool) -> String {
    let names = workloads.iter().map(|it| it.name).chain(allocators.iter().map(|it| it.name));
    let width = names.map(str::len).max().unwrap_or(0) + GAP;
    let mut text = String::new();
    for group in Group::ALL {
        let of_group: Vec<&Workload> = workloads.iter().filter(|workload| workload.group == group).collect();
        if of_group.is_empty() {
            continue;
        }
        text.push_str(&heading(&format!("{} workloads (--workload)", group.name()), &text));
        for workload in of_group {
            if details {
                text.push_str(&detailed(workload));
            } else {
                text.push_str(&line(workload.name, width, workload.summary));
            }
        }
    }
    text.push_str(&heading("allocators (--allocator)", &text));
    for allocator in allocators {
        text.push_str(&line(allocator.name, width, allocator.summary));
    }
    text
}

/// A heading, with a blank line before it where something comes before.
fn heading(title: &str, before: &str) -> String {
    format!("{}{title}\n", if before.is_empty() { "" } else { "\n" })
}

fn line(name: &str, width: usize, summary: &str) -> String {
    format!("  {name:<width$}{summary}\n")
}

/// A workload with all that is known of it.
fn detailed(workload: &Workload) -> String {
    let mut text = String::new();
    let told = [("does", workload.summary), ("stresses", workload.stresses), ("is known from", workload.origin)];
    writeln!(text, "  {}", workload.name).expect("a string takes whatever is written to it");
    for (what, told) in told {
        writeln!(text, "    {what:<15}{told}").expect("a string takes whatever is written to it");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: [Workload; 2] = [
        Workload {
            name: "pair",
            group: Group::Slab,
            summary: "one kmalloc and its kfree",
            stresses: "the fast path",
            origin: "slab_test",
        },
        Workload {
            name: "page-walk",
            group: Group::Page,
            summary: "all pages, one after the other",
            stresses: "the table of frames",
            origin: "page_bench06_walk_all",
        },
    ];

    const ONE: [Allocator; 1] = [Allocator { name: "quarry", summary: "the kernel's own" }];

    #[test]
    fn the_list_is_by_group() {
        insta::assert_snapshot!(all(&TWO, &ONE, false), @r"
        slab workloads (--workload)
          pair       one kmalloc and its kfree

        page workloads (--workload)
          page-walk  all pages, one after the other

        allocators (--allocator)
          quarry     the kernel's own
        ");
    }

    #[test]
    fn details_tell_what_is_stressed_and_by_whom_it_is_known() {
        insta::assert_snapshot!(all(&TWO, &ONE, true), @r"
        slab workloads (--workload)
          pair
            does           one kmalloc and its kfree
            stresses       the fast path
            is known from  slab_test

        page workloads (--workload)
          page-walk
            does           all pages, one after the other
            stresses       the table of frames
            is known from  page_bench06_walk_all

        allocators (--allocator)
          quarry     the kernel's own
        ");
    }

    #[test]
    fn everything_of_the_catalogue_is_listed_and_has_a_text_of_its_own() {
        let of = |name: Option<&str>| text(&ListCommand { name: name.map(str::to_owned), details: false });
        for workload in WORKLOADS {
            assert!(of(None).contains(workload.summary), "{}", workload.name);
            assert!(of(Some(workload.name)).contains(workload.origin), "{}", workload.name);
        }
        for allocator in ALLOCATORS {
            assert!(of(None).contains(allocator.summary) && of(Some(allocator.name)).contains(allocator.summary));
        }
    }
}
