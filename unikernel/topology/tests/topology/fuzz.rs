//! The fuzz target's function over seeded mutations of real tables: a bounded run of what `fuzz/` does without end.
//!
//! Every run has a seed of its own, printed when it fails. `QUARRY_FUZZ_SEED` sets the first one (without it, a fresh
//! one is drawn) and `QUARRY_FUZZ_RUNS` how many runs there are.

use crate::machines::MACHINES;
use crate::oracle::{Machine, check};
use proptest::prelude::RngExt;
use proptest::test_runner::{RngAlgorithm, TestRng};
use quarry_topology::PhysicalRange;
use std::hash::{BuildHasher, RandomState};

/// A few seconds in a debug build.
const RUNS: u64 = 8000;

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is to be a number, not {value:?}")))
}

/// Tells how to repeat the run it belongs to, if that panics.
struct Run {
    seed: u64,
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("to repeat this run: QUARRY_FUZZ_SEED={} QUARRY_FUZZ_RUNS=1", self.seed);
        }
    }
}

fn rng(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

/// One of the machines, now and then with a table of another.
fn any_machine(rng: &mut TestRng) -> Machine {
    let mut pick = || {
        let known = &MACHINES[rng.random_range(0..MACHINES.len())];
        Machine::new(&known.tables, known.ram, Some(known.boot_apic_id))
    };
    let (mut machine, other) = (pick(), pick());
    if rng.random_ratio(1, 4) {
        let table = rng.random_range(0..4);
        machine.tables[table].clone_from(&other.tables[table]);
    }
    if rng.random_ratio(1, 8) {
        machine.ram = other.ram;
    }
    machine
}

/// A byte that firmware, or a parser, is more likely to stumble over than over others.
fn odd_byte(rng: &mut TestRng) -> u8 {
    match rng.random_range(0..3) {
        0 => [0, 1, 2, 7, 8, 9, 16, 24, 39, 40, 41, 127, 128, 254, 255][rng.random_range(0..15_usize)],
        1 => 1 << rng.random_range(0..8),
        _ => rng.random_range(0..=255),
    }
}

fn mutate_bytes(bytes: &mut Vec<u8>, rng: &mut TestRng) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.random_range(0..bytes.len());
    let length = rng.random_range(0..=(bytes.len() - at).min(64));
    match rng.random_range(0..10) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..at + length)),
        2 => {
            let copy = bytes[at..at + length].to_vec();
            let to = rng.random_range(0..=bytes.len());
            bytes.splice(to..to, copy);
        }
        3 => bytes.resize(bytes.len() + length, 0),
        4 => bytes[at..at + length].fill(odd_byte(rng)),
        5 => bytes[at] ^= 1 << rng.random_range(0..8),
        _ => bytes[at] = odd_byte(rng),
    }
}

fn mutate_ram(ram: &mut Vec<PhysicalRange>, rng: &mut TestRng) {
    let at = rng.random_range(0..=ram.len());
    let address = rng.random::<u64>() >> rng.random_range(0..64);
    match (ram.get_mut(at), rng.random_range(0..4)) {
        (Some(range), 0) => range.start = address,
        (Some(range), 1) => range.end = address,
        (Some(_), 2) => drop(ram.remove(at)),
        // Many small pieces, not all of whole pages, that may touch.
        (_, 3) => ram.extend((0..rng.random_range(0..250_u64)).map(|piece| {
            let start = address.wrapping_add(piece << 13);
            PhysicalRange::new(start, start.saturating_add(rng.random_range(0..=0x2000)))
        })),
        _ => ram.insert(at, PhysicalRange::new(address, address.saturating_add(rng.random_range(0..1 << 34)))),
    }
}

fn mutated_machine(seed: u64) -> Machine {
    let rng = &mut rng(seed);
    let mut machine = any_machine(rng);
    for _ in 0..rng.random_range(0..16) {
        match rng.random_range(0..16) {
            0 => machine.tables[rng.random_range(0..4_usize)] = None,
            1 => machine.boot_apic_id = rng.random_ratio(1, 2).then(|| rng.random_range(0..80)),
            2 => mutate_ram(&mut machine.ram, rng),
            _ => {
                if let Some(table) = &mut machine.tables[rng.random_range(0..4_usize)] {
                    mutate_bytes(table, rng);
                }
            }
        }
    }
    if rng.random_ratio(7, 8) {
        machine.repair();
    }
    machine
}

#[test]
fn mutations_of_real_tables_keep_every_promise() {
    let first = from_environment("QUARRY_FUZZ_SEED").unwrap_or_else(|| RandomState::new().hash_one("first seed"));
    let runs = from_environment("QUARRY_FUZZ_RUNS").unwrap_or(RUNS);
    println!("{runs} runs beginning with QUARRY_FUZZ_SEED={first}");
    let (mut told, mut silent) = (0, 0);
    for seed in (0..runs).map(|run| first.wrapping_add(run)) {
        let run = Run { seed };
        let (_, warnings) = check(&mutated_machine(seed));
        *if warnings.is_empty() { &mut silent } else { &mut told } += 1;
        drop(run);
    }
    println!("{told} runs ended with warnings, {silent} without");
    assert_eq!(told + silent, runs);
}

#[test]
fn a_seed_makes_the_same_machine_every_time() {
    assert_eq!(mutated_machine(7), mutated_machine(7));
    assert_ne!(mutated_machine(7), mutated_machine(8));
}

#[test]
fn a_corpus_entry_is_read_as_the_machine_it_was_written_from() {
    for known in &MACHINES {
        let machine = Machine::new(&known.tables, known.ram, Some(known.boot_apic_id));
        for repair in [false, true] {
            assert_eq!(Machine::from_bytes(&machine.to_bytes(repair)), machine, "{}, repair: {repair}", known.name);
        }
    }
    assert_eq!(Machine::from_bytes(&[]), Machine::default());
}
