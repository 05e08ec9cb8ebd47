//! `xmalloc` and `producers`: blocks that one CPU allocates and another one frees, batch by batch.
//!
//! `xmalloc`: Lever and Boreham, "`malloc()` Performance in a Multithreaded Linux Environment", USENIX 2000 (FREENIX),
//! as mimalloc-bench runs it (xmalloc-test): half of the threads allocate objects of 64 bytes, write to them and put
//! them in batches on a list; the other half take batches and free what is in them. No object is ever freed where it
//! was allocated. Here CPUs form pairs with a short queue each (the original: one list of up to 100 batches of 4096 for
//! all); a CPU without a partner does both in turn.
//!
//! `producers`: the other extreme of the producer and consumer benchmark in Michael, "Scalable Lock-Free Dynamic Memory
//! Allocation", PLDI 2004, which has one producer and many consumers: all CPUs but the first allocate, and that one
//! frees everything.
//!
//! Every call counts as an operation, allocation or free, whoever does it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;

use super::allocate_and_touch;
use crate::dimensions::{HANDOFF_BATCH as BATCH, HANDOFF_BATCHES as BATCHES};
use crate::exchange::Channel;
use crate::measure::{Run, Samples};
use crate::platform::Platform;
use crate::subject::Subject;
use crate::workloads::Body;

const WRITES: u32 = 1;

/// CPUs in teams of one that frees and `producers` that allocate.
pub(super) fn sample<P: Platform, S: Subject>(run: Run<P>, subject: &S, size: usize, producers: usize) -> Samples {
    let (platform, cpus) = (run.platform, run.case.cpus);
    let length = run.blocks(BATCH * BATCHES, size).div_ceil(BATCHES);
    let channels: Arc<Vec<_>> = Arc::new((0..cpus).map(|_| Channel::new(BATCHES, length)).collect());
    run.sample(subject, move |subject, cpu| Handoff {
        subject,
        platform,
        size,
        length,
        team: Team::of(cpu, cpus, producers),
        batch: Vec::with_capacity(length),
        channels: channels.clone(),
    })
}

/// A CPU that frees and those that allocate for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Team {
    role: Role,
    producers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Allocates and frees, for there is nobody else.
    Alone,
    /// Allocates, for this channel.
    Producer(usize),
    /// Frees, from the team's channels, of which this is the first.
    Consumer(usize),
}

impl Team {
    /// The first CPU of a team frees; the last team may be smaller. The channel of a producer has its CPU's number.
    fn of(cpu: usize, cpus: usize, producers: usize) -> Self {
        let first = cpu - cpu % (producers + 1);
        let producers = producers.min(cpus - first - 1);
        let role = match cpu - first {
            _ if producers == 0 => Role::Alone,
            0 => Role::Consumer(first + 1),
            _ => Role::Producer(cpu),
        };
        Self { role, producers }
    }

    /// Allocations of each producer, when the team's CPUs make so many calls each on the mean.
    fn share(self, operations: u64) -> u64 {
        let calls = operations * (self.producers as u64 + 1);
        (calls / 2 / self.producers.max(1) as u64).max(1)
    }
}

struct Handoff<S: Subject, P> {
    subject: S,
    platform: P,
    size: usize,
    /// Objects in a batch.
    length: usize,
    team: Team,
    /// Of one that is alone.
    batch: Vec<Option<S::Block>>,
    channels: Arc<Vec<Channel<Option<S::Block>>>>,
}

impl<S: Subject, P: Platform> Handoff<S, P> {
    /// Adds so many objects to a batch. Returns how many there were none of.
    #[inline(always)]
    fn fill(&self, subject: &S, batch: &mut Vec<Option<S::Block>>, count: u64) -> u64 {
        let size = black_box(self.size);
        let mut failures = 0;
        for _ in 0..count {
            let block = allocate_and_touch(subject, size, WRITES);
            failures += u64::from(block.is_none());
            batch.push(block);
        }
        failures
    }

    #[inline(never)]
    fn alone(&mut self, count: u64) -> u64 {
        let subject = self.subject.clone();
        let mut batch = core::mem::take(&mut self.batch);
        let mut left = count;
        let mut failures = 0;
        while left > 0 {
            let now = left.min(self.length as u64);
            failures += self.fill(&subject, &mut batch, now);
            empty(&subject, &mut batch);
            left -= now;
        }
        self.batch = batch;
        failures
    }

    #[inline(never)]
    fn produce(&self, channel: usize, count: u64) -> u64 {
        let (subject, channel) = (self.subject.clone(), &self.channels[channel]);
        let mut left = count;
        let mut failures = 0;
        while left > 0 {
            let now = left.min(self.length as u64);
            let mut batch = channel.begin(self.platform);
            failures += self.fill(&subject, &mut batch, now);
            channel.send(batch);
            left -= now;
        }
        failures
    }

    #[inline(never)]
    fn consume(&self, first: usize, count: u64) {
        let (subject, channels) = (self.subject.clone(), &self.channels[first..][..self.team.producers]);
        let mut left = count;
        while left > 0 {
            let before = left;
            for channel in channels {
                if let Some(mut batch) = channel.receive() {
                    left -= batch.len() as u64;
                    empty(&subject, &mut batch);
                    channel.end(batch);
                }
            }
            if left == before {
                self.platform.relax();
            }
        }
    }
}

#[inline(always)]
fn empty<S: Subject>(subject: &S, batch: &mut Vec<Option<S::Block>>) {
    for block in batch.drain(..).flatten() {
        subject.free(block);
    }
}

impl<S: Subject, P: Platform> Body for Handoff<S, P> {
    #[inline(always)]
    fn run(&mut self, _phase: usize, operations: u64) -> u64 {
        let share = self.team.share(operations);
        match self.team.role {
            Role::Alone => self.alone(share),
            Role::Producer(channel) => self.produce(channel, share),
            Role::Consumer(first) => {
                self.consume(first, share * self.team.producers as u64);
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn roles(cpus: usize, producers: usize) -> Vec<Role> {
        (0..cpus).map(|cpu| Team::of(cpu, cpus, producers).role).collect()
    }

    #[test]
    fn cpus_pair_up_and_the_odd_one_works_alone() {
        use Role::{Alone, Consumer, Producer};
        assert_eq!(roles(1, 1), [Alone]);
        assert_eq!(roles(3, 1), [Consumer(1), Producer(1), Alone]);
        assert_eq!(roles(4, 1), [Consumer(1), Producer(1), Consumer(3), Producer(3)]);
    }

    #[test]
    fn all_but_the_first_produce() {
        use Role::{Consumer, Producer};
        assert_eq!(roles(4, 3), [Consumer(1), Producer(1), Producer(2), Producer(3)]);
    }

    proptest! {
        #[test]
        fn a_team_frees_what_it_allocates_and_makes_the_calls_it_counts(
            cpus in 1_usize..16, producers in 1_usize..16, operations in 16_u64..1_000_000
        ) {
            let teams = (0..cpus).map(|cpu| Team::of(cpu, cpus, producers));
            let (mut allocated, mut freed) = (0, 0);
            for team in teams {
                let share = team.share(operations);
                match team.role {
                    Role::Alone => { allocated += share; freed += share; }
                    Role::Producer(_) => allocated += share,
                    Role::Consumer(first) => {
                        prop_assert!(first + team.producers <= cpus);
                        freed += share * team.producers as u64;
                    }
                }
            }
            prop_assert_eq!(allocated, freed);
            // Each share is rounded down, by less than one.
            let counted = operations * cpus as u64;
            prop_assert!(allocated + freed <= counted && allocated + freed + 2 * cpus as u64 > counted);
        }
    }
}
