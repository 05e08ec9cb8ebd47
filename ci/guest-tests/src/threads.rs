//! CPUs and threads: every CPU runs, threads run where they should, wait, sleep and end without a trace.

use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use quarry_unikernel::memory::service;
use quarry_unikernel::memory_service::{CpuId, Machine};
use quarry_unikernel::thread::{self, JoinHandle, SpawnError, WaitQueue};
use quarry_unikernel::topology_model::MAX_CPUS;
use quarry_unikernel::{cpus, time, topology};

use crate::harness::Outcome;
use crate::team::{
    Gate, InUse, another_cpu, check_on_every_cpu, eventually, on_cpu, on_every_cpu, spawn, without_loss,
};
use crate::{check, check_equal, tests};

fn every_cpu_of_the_topology_runs() -> Outcome {
    let online: Vec<_> = cpus::online().collect();
    let expected: Vec<_> = (0..topology().cpus().len()).map(|id| CpuId(id as u16)).collect();
    check_equal!(online, expected, "CPUs that run");
    check_equal!(service().cpu_count(), expected.len(), "CPUs of the memory service");
    Ok(())
}

fn a_thread_runs_on_the_cpu_asked_for() -> Outcome {
    check_on_every_cpu(|cpu| {
        for _ in 0..10 {
            check_equal!(cpus::current(), cpu, "the thread's CPU");
            check_equal!(service().machine().cpu(), cpu, "the CPU as the memory service sees it");
            let node = topology().cpus()[cpu.index()].node;
            check_equal!(cpus::current_node(), node, "its node");
            check_equal!(service().cpu_to_node(cpu), node, "its node as the memory service sees it");
            thread::yield_now();
        }
        Ok(())
    })
}

fn join_returns_what_the_thread_returned() -> Outcome {
    let squares = on_every_cpu(|cpu| (0..1000).map(|number| number * u64::from(cpu.0)).collect::<Vec<u64>>());
    for (cpu, squares) in squares.iter().enumerate() {
        let right = squares.iter().zip(0..1000).all(|(&found, number)| found == number * cpu as u64);
        check!(right && squares.len() == 1000, "the result of cpu {cpu} is {squares:?}");
    }
    // Of a thread that ended long ago, and of one that has not begun.
    let thread = spawn(another_cpu(), || "early".to_string());
    eventually("the thread has ended", || thread.is_finished())?;
    check_equal!(thread.join(), "early", "the result");
    check_equal!(on_cpu(cpus::current(), || 7), 7, "the result of a thread on the same CPU");
    Ok(())
}

fn a_thread_nobody_joins_runs_all_the_same() -> Outcome {
    // The CPU keeps two stacks from here on: below, the second thread may be made before the first one's stack is back.
    let both = Arc::new(Gate::new(2));
    let pass = || {
        let both = Arc::clone(&both);
        spawn(another_cpu(), move || both.pass())
    };
    [pass(), pass()].into_iter().for_each(thread::JoinHandle::join);
    without_loss(|| {
        let ended = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&ended);
        drop(spawn(another_cpu(), move || seen.fetch_add(1, Ordering::Release)));
        eventually("it has run", || ended.load(Ordering::Acquire) == 1)?;
        // Its closure and its own reference go a moment later.
        eventually("it has gone", || Arc::strong_count(&ended) == 1)?;
        // So has the thread, once another that began after it on its CPU has ended.
        on_cpu(another_cpu(), || ());
        Ok(())
    })
}

fn threads_of_a_cpu_take_turns() -> Outcome {
    const TURNS: usize = 100;
    check_on_every_cpu(|cpu| {
        let turns = Arc::new((Gate::new(2), AtomicUsize::new(0)));
        let take_turns = || {
            let turns = Arc::clone(&turns);
            spawn(cpu, move || {
                let (gate, counter) = &*turns;
                gate.pass();
                let turn = |_| {
                    let number = counter.fetch_add(1, Ordering::Relaxed);
                    thread::yield_now();
                    number
                };
                (0..TURNS).map(turn).collect::<Vec<usize>>()
            })
        };
        let (first, second) = (take_turns(), take_turns());
        let (numbers, others) = (first.join(), second.join());
        let apart = |numbers: &[usize]| numbers.windows(2).all(|pair| pair[1] == pair[0] + 2);
        check!(apart(&numbers) && apart(&others), "the turns were {numbers:?} and {others:?}");
        Ok(())
    })
}

fn a_sleep_is_no_shorter_than_asked() -> Outcome {
    check_on_every_cpu(|_| {
        for microseconds in [0, 1, 50, 1000, 3000] {
            let duration = Duration::from_micros(microseconds);
            let start = time::ticks();
            thread::sleep(duration);
            let slept = time::ticks() - start;
            check!(slept >= time::ticks_in(duration), "{duration:?} took {slept} ticks");
        }
        Ok(())
    })
}

fn others_run_while_a_thread_sleeps() -> Outcome {
    check_on_every_cpu(|cpu| {
        let sleepers: Vec<_> =
            (1..=8).map(|number| spawn(cpu, move || thread::sleep(Duration::from_millis(number)))).collect();
        let mut turns = 0_u64;
        eventually("all have slept", || {
            turns += 1;
            sleepers.iter().all(JoinHandle::is_finished)
        })?;
        check!(turns > 1, "nobody ran meanwhile");
        sleepers.into_iter().for_each(JoinHandle::join);
        Ok(())
    })
}

/// Two threads that pass a number to and fro.
struct Table {
    number: AtomicU64,
    changed: WaitQueue,
}

fn a_wake_reaches_a_thread_of_any_cpu() -> Outcome {
    const PASSES: u64 = 200;
    fn play(table: &Table, parity: u64) {
        for number in (0..PASSES).filter(|number| number % 2 == parity) {
            // Acquire and Release: pair with each other.
            table.changed.wait_until(|| table.number.load(Ordering::Acquire) == number);
            table.number.store(number + 1, Ordering::Release);
            table.changed.wake_all();
        }
    }
    for partner in cpus::online() {
        let table = Arc::new(Table { number: AtomicU64::new(0), changed: WaitQueue::new() });
        let across = Arc::clone(&table);
        let thread = spawn(partner, move || play(&across, 1));
        play(&table, 0);
        thread.join();
        check_equal!(table.number.load(Ordering::Acquire), PASSES, "passes with {partner}");
    }
    Ok(())
}

fn wake_one_wakes_one_and_wake_all_the_rest() -> Outcome {
    struct Room {
        tickets: AtomicUsize,
        queue: WaitQueue,
        passed: AtomicUsize,
    }
    fn take(tickets: &AtomicUsize) -> bool {
        tickets.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| count.checked_sub(1)).is_ok()
    }
    let room = Arc::new(Room { tickets: AtomicUsize::new(0), queue: WaitQueue::new(), passed: AtomicUsize::new(0) });
    let wait = |cpu| {
        let room = Arc::clone(&room);
        spawn(cpu, move || {
            room.queue.wait_until(|| take(&room.tickets));
            room.passed.fetch_add(1, Ordering::Release);
        })
    };
    let threads: Vec<_> = cpus::online().flat_map(|cpu| [cpu; 3]).map(wait).collect();
    for one in 1..=3 {
        room.tickets.fetch_add(1, Ordering::Release);
        room.queue.wake_one();
        eventually("one has passed", || room.passed.load(Ordering::Acquire) == one)?;
    }
    room.tickets.fetch_add(threads.len() - 3, Ordering::Release);
    room.queue.wake_all();
    let total = threads.len();
    threads.into_iter().for_each(JoinHandle::join);
    check_equal!(room.passed.load(Ordering::Acquire), total, "threads that passed");
    Ok(())
}

fn thousands_of_threads_leave_nothing_behind() -> Outcome {
    const AT_ONCE: usize = 8;
    const BATCHES: u64 = 30;
    // All alive at once, so that no later batch needs a stack more.
    let gate = Arc::new(Gate::new(AT_ONCE * cpus::online().count()));
    let meet = |cpu| {
        let gate = Arc::clone(&gate);
        spawn(cpu, move || gate.pass())
    };
    let threads: Vec<_> = cpus::online().flat_map(|cpu| [cpu; AT_ONCE]).map(meet).collect();
    threads.into_iter().for_each(JoinHandle::join);
    without_loss(|| {
        for batch in 0..BATCHES {
            let start = |cpu: CpuId| spawn(cpu, move || batch * u64::from(cpu.0));
            let threads: Vec<_> = cpus::online().flat_map(|cpu| [cpu; AT_ONCE]).map(start).collect();
            let sum: u64 = threads.into_iter().map(JoinHandle::join).sum();
            let expected: u64 = cpus::online().map(|cpu| AT_ONCE as u64 * batch * u64::from(cpu.0)).sum();
            check_equal!(sum, expected, "sum of the results");
        }
        Ok(())
    })
}

fn threads_start_threads_on_all_cpus() -> Outcome {
    without_loss(|| {
        let sums = on_every_cpu(|cpu| {
            let children: Vec<_> =
                cpus::online().map(|other| spawn(other, move || u64::from(other.0) + u64::from(cpu.0))).collect();
            children.into_iter().map(JoinHandle::join).sum::<u64>()
        });
        let count = cpus::online().count() as u64;
        let expected = count * count * (count - 1);
        check_equal!(sums.iter().sum::<u64>(), expected, "sum over all pairs of CPUs");
        Ok(())
    })
}

fn a_cpu_that_is_not_there_is_an_error() -> Outcome {
    for missing in [topology().cpus().len(), MAX_CPUS, usize::from(u16::MAX)] {
        let cpu = CpuId(missing as u16);
        let error = thread::spawn_on(cpu, "nowhere", || ()).err();
        check_equal!(error, Some(SpawnError::NoSuchCpu(cpu)), "a thread on cpu {missing}");
    }
    Ok(())
}

fn a_stack_without_end_is_an_error() -> Outcome {
    let before = InUse::now();
    for bytes in [100 << 30, 1 << 40, u64::MAX - 4096, u64::MAX] {
        let error = thread::spawn_with_stack(CpuId(0), "giant", bytes, || ()).err();
        check_equal!(error, Some(SpawnError::NoMemory), "a stack of {bytes:#x} bytes");
    }
    check_equal!(InUse::now(), before, "in use");
    // What was refused has not used up the room for stacks.
    check_equal!(on_cpu(CpuId(0), || 1), 1, "the result of a thread with an ordinary stack");
    let spawned = thread::spawn_with_stack(CpuId(0), "odd", 4096 * 11 + 1, || 1).map(JoinHandle::join);
    check_equal!(spawned, Ok(1), "a thread with a stack of a size nobody has given back");
    Ok(())
}

fn a_thread_knows_its_name_and_number() -> Outcome {
    check_equal!(thread::current_name(), Some("main"), "name of main's thread");
    let named = thread::spawn_on(another_cpu(), "baker", || (thread::current_name(), thread::current_id()));
    let (name, first) = named.map_err(|error| format!("{error}"))?.join();
    check_equal!(name, Some("baker"), "name of the thread");
    let mut numbers = on_every_cpu(|_| thread::current_id());
    numbers.extend([first, thread::current_id()]);
    let count = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    check_equal!(numbers.len(), count, "different numbers");
    Ok(())
}

tests! { "threads":
    every_cpu_of_the_topology_runs,
    a_thread_runs_on_the_cpu_asked_for,
    join_returns_what_the_thread_returned,
    a_thread_nobody_joins_runs_all_the_same,
    threads_of_a_cpu_take_turns,
    a_sleep_is_no_shorter_than_asked,
    others_run_while_a_thread_sleeps,
    a_wake_reaches_a_thread_of_any_cpu,
    wake_one_wakes_one_and_wake_all_the_rest,
    thousands_of_threads_leave_nothing_behind,
    threads_start_threads_on_all_cpus,
    a_cpu_that_is_not_there_is_an_error,
    a_stack_without_end_is_an_error,
    a_thread_knows_its_name_and_number,
}
