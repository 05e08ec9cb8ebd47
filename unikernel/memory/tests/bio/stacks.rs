//! Drivers that stand on others: every byte is where it belongs, and recursion is iteration.

use std::sync::Mutex;

use proptest::prelude::*;
use quarry_memory::Gfp;
use quarry_memory::bio::{
    BioError, BiosetFlags, BlockDevice, Linear, MAX_MEMBERS, Operation, RamDisk, Splitting, StackError, Stripe,
};
use quarry_memory::hosted::HostedMachine;

use crate::cases::cases;
use crate::support::{
    Buffer, Device, End, Ends, SECTOR, TestBio, TestDisk, TestService, aim, assert_nothing_in_use, disk, end_disk,
    exit, service, set, shared_service,
};

type TestLinear = Linear<HostedMachine>;
type TestStripe = Stripe<HostedMachine>;

/// A stripe over two concatenations, each of as many disks as sizes were given.
struct Tower {
    disks: Vec<End<TestDisk>>,
    linears: Vec<End<TestLinear>>,
    stripe: End<TestStripe>,
}

impl Tower {
    fn new(service: &'static TestService, sizes: &[Vec<u64>], chunk: u32, splitting: Splitting) -> Self {
        let parts = || set(service, 2, BiosetFlags::empty());
        let mut disks = Vec::new();
        let mut linears = Vec::new();
        for sizes in sizes {
            let first = disks.len();
            disks.extend(sizes.iter().map(|sectors| disk(service, *sectors)));
            let members: Vec<Device> = disks[first..].iter().map(|disk| disk.get() as Device).collect();
            let linear = Linear::new(service, parts(), &members, splitting);
            linears.push(End::new(linear.unwrap_or_else(|(error, _)| panic!("{error}"))));
        }
        let members: Vec<Device> = linears.iter().map(|linear| linear.get() as Device).collect();
        let stripe = Stripe::new(service, parts(), &members, chunk, splitting);
        Self { disks, linears, stripe: End::new(stripe.unwrap_or_else(|(error, _)| panic!("{error}"))) }
    }

    fn top(&self) -> Device {
        self.stripe.get()
    }

    fn end(self) {
        // SAFETY: no bio for any of them is left.
        unsafe { self.stripe.end() }.end().unwrap_or_else(|error| panic!("{error}"));
        for linear in self.linears {
            // SAFETY: as above.
            unsafe { linear.end() }.end().unwrap_or_else(|error| panic!("{error}"));
        }
        self.disks.into_iter().for_each(end_disk);
    }

    /// Completes what the disks hold, in the order that `choices` say, until there is no more.
    fn serve(&self, choices: &[usize]) {
        let mut choices = choices.iter().copied().cycle();
        let mut choose = || choices.next().expect("there are choices");
        loop {
            let waiting: Vec<_> = self.disks.iter().map(End::get).filter(|disk| disk.waiting() > 0).collect();
            let Some(which) = choose().checked_rem(waiting.len()) else { return };
            assert!(waiting[which].serve(|_| choose()), "a bio waited");
        }
    }
}

/// A transfer: where, how much (both of what there is), whether it writes, and how the memory is cut.
#[derive(Clone, Debug)]
struct Transfer {
    writes: bool,
    start: prop::sample::Index,
    sectors: prop::sample::Index,
    cut: usize,
}

fn transfer() -> impl Strategy<Value = Transfer> {
    (any::<bool>(), any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1usize..6)
        .prop_map(|(writes, start, sectors, cut)| Transfer { writes, start, sectors, cut })
}

/// A bio of the first bytes of a buffer, in pieces that end inside of sectors and do not follow each other.
fn in_pieces(service: &'static TestService, buffer: &Buffer, bytes: usize, cut: usize) -> TestBio {
    let mut bio = service.bio_kmalloc(128, Gfp::KERNEL).expect("memory is free");
    let mut left = bytes;
    let mut at = 0;
    while left > 0 {
        let length = left.min(cut * 300);
        buffer.add_to(&mut bio, at, length);
        left -= length;
        at += length + 8;
    }
    bio
}

/// The bytes of such a bio.
fn of_pieces(buffer: &mut Buffer, bytes: usize, cut: usize) -> Vec<&mut u8> {
    let step = cut * 300 + 8;
    buffer.bytes().chunks_mut(step).flat_map(|piece| piece.iter_mut().take(step - 8)).take(bytes).collect()
}

const MOST_SECTORS: usize = 24;

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn every_byte_is_where_an_array_has_it_whatever_stands_on_what_and_in_whatever_order(
        sizes in prop::collection::vec(prop::collection::vec(1u64..20, 1..4), 1..4),
        chunk in 1u32..9,
        at_once in any::<bool>(),
        transfers in prop::collection::vec(transfer(), 1..20),
        choices in prop::collection::vec(any::<usize>(), 1..20),
    ) {
        let service = shared_service();
        let splitting = if at_once { Splitting::AllAtOnce } else { Splitting::OneByOne };
        let tower = Tower::new(service, &sizes, chunk, splitting);
        let smallest = sizes.iter().map(|sizes| sizes.iter().sum::<u64>() / u64::from(chunk)).min().expect("some");
        let sectors = tower.top().sectors();
        prop_assert_eq!(sectors, smallest * u64::from(chunk) * sizes.len() as u64);
        tower.disks.iter().for_each(|disk| disk.get().hold(true));
        let mut model = vec![0u8; sectors as usize * SECTOR];
        let mut buffer = Buffer::new(service, 3);
        for (fill, transfer) in (1..).zip(transfers) {
            if sectors == 0 {
                break;
            }
            let start = transfer.start.index(sectors as usize);
            let count = 1 + transfer.sectors.index((sectors as usize - start).min(MOST_SECTORS));
            let bytes = count * SECTOR;
            let part = &mut model[start * SECTOR..][..bytes];
            let salt = |index: usize| (index as u8).wrapping_mul(31).wrapping_add((index >> 8) as u8).wrapping_add(fill);
            for (index, byte) in of_pieces(&mut buffer, bytes, transfer.cut).into_iter().enumerate() {
                *byte = salt(index);
            }
            if transfer.writes {
                part.iter_mut().enumerate().for_each(|(index, byte)| *byte = salt(index));
            }
            let operation = if transfer.writes { Operation::Write } else { Operation::Read };
            let bio = in_pieces(service, &buffer, bytes, transfer.cut);
            let mut bio = aim(bio, operation, tower.top(), start as u64);
            let ends = Ends::default();
            ends.note(&mut bio);
            service.submit_bio(bio);
            prop_assert_eq!(ends.count(), 0);
            tower.serve(&choices);
            prop_assert_eq!(ends.count(), 1);
            prop_assert!(ends.succeeded());
            prop_assert!(of_pieces(&mut buffer, bytes, transfer.cut).into_iter().map(|byte| &*byte).eq(part.iter()));
        }
        tower.disks.iter().for_each(|disk| disk.get().hold(false));
        let mut read = Vec::new();
        for start in (0..sectors as usize).step_by(MOST_SECTORS) {
            let bytes = MOST_SECTORS.min(sectors as usize - start) * SECTOR;
            let bio = aim(in_pieces(service, &buffer, bytes, 5), Operation::Read, tower.top(), start as u64);
            prop_assert_eq!(service.submit_and_wait(bio).1, Ok(()));
            read.extend(of_pieces(&mut buffer, bytes, 5).into_iter().map(|byte| *byte));
        }
        prop_assert!(read == model);
        drop(buffer);
        tower.end();
        assert_nothing_in_use(service);
    }

    #[test]
    fn a_bio_fails_once_if_any_part_does_and_else_succeeds(
        broken in 0u64..12, which in 0usize..4, start in 0u64..40, count in 1usize..9, at_once in any::<bool>(),
        choices in prop::collection::vec(any::<usize>(), 1..20),
    ) {
        let service = shared_service();
        let splitting = if at_once { Splitting::AllAtOnce } else { Splitting::OneByOne };
        let tower = Tower::new(service, &[vec![12, 12], vec![12, 12]], 3, splitting);
        tower.disks.iter().for_each(|disk| disk.get().hold(true));
        tower.disks[which].get().break_sectors(broken..broken + 1);
        let buffer = Buffer::new(service, 3);
        let bio = in_pieces(service, &buffer, count * SECTOR, 3);
        let mut bio = aim(bio, Operation::Write, tower.top(), start);
        let ends = Ends::default();
        ends.note(&mut bio);
        service.submit_bio(bio);
        tower.serve(&choices);
        // Sector s is in chunk s / 3, of concatenation s / 3 % 2, and there at this place.
        let is_hit = (start..start + count as u64).any(|sector| {
            let at = sector / 6 * 3 + sector % 3;
            (sector / 3 % 2 * 2 + at / 12) as usize == which && at % 12 == broken
        });
        prop_assert_eq!(ends.count(), 1);
        prop_assert_eq!(ends.failed_with(BioError::Io), is_hit);
        prop_assert_eq!(ends.succeeded(), !is_hit);
        drop(buffer);
        tower.end();
        assert_nothing_in_use(service);
    }
}

#[test]
fn a_flush_reaches_every_disk_once() {
    for splitting in [Splitting::OneByOne, Splitting::AllAtOnce] {
        let service = service();
        let tower = Tower::new(service, &[vec![4, 4, 4], vec![4], vec![4, 4]], 2, splitting);
        let bio = service.bio_kmalloc(0, Gfp::KERNEL).expect("memory is free");
        // Where it points to does not matter.
        let bio = aim(bio, Operation::Flush, tower.top(), 2);
        assert_eq!(service.submit_and_wait(bio).1, Ok(()));
        assert_eq!(tower.disks.iter().map(|disk| disk.get().flushes()).collect::<Vec<_>>(), [1; 6]);
        tower.end();
        assert_nothing_in_use(service);
    }
}

/// Notes the sectors it is asked for, and passes them on to the same disk.
struct Noting {
    service: &'static TestService,
    below: Device,
    name: u64,
    notes: &'static Mutex<Vec<(u64, u64)>>,
}

impl BlockDevice<HostedMachine> for Noting {
    fn make_request(&self, mut bio: TestBio) {
        self.notes.lock().expect("no test panics inside").push((self.name, bio.sector()));
        bio.set_device(self.below);
        self.service.submit_bio(bio);
    }

    fn sectors(&self) -> u64 {
        self.below.sectors()
    }
}

#[test]
fn what_a_driver_submits_is_done_before_its_rest_and_before_what_waited_already() {
    for splitting in [Splitting::OneByOne, Splitting::AllAtOnce] {
        let service = service();
        let notes: &'static Mutex<Vec<(u64, u64)>> = Box::leak(Box::default());
        let disks: Vec<_> = (0..4).map(|_| disk(service, 8)).collect();
        let noting: Vec<_> = (0..)
            .zip(&disks)
            .map(|(name, disk)| End::new(Noting { service, below: disk.get(), name, notes }))
            .collect();
        let linears: Vec<_> = noting
            .chunks(2)
            .map(|pair| {
                let members: [Device; 2] = [pair[0].get(), pair[1].get()];
                let linear = Linear::new(service, set(service, 1, BiosetFlags::empty()), &members, splitting);
                End::new(linear.unwrap_or_else(|(error, _)| panic!("{error}")))
            })
            .collect();
        let members: [Device; 2] = [linears[0].get(), linears[1].get()];
        let stripe = Stripe::new(service, set(service, 1, BiosetFlags::empty()), &members, 16, splitting);
        let stripe = End::new(stripe.unwrap_or_else(|(error, _)| panic!("{error}")));
        let buffer = Buffer::new(service, 2);
        let mut bio =
            aim(service.bio_kmalloc(0, Gfp::KERNEL).expect("memory is free"), Operation::Read, stripe.get(), 4);
        buffer.add_to(&mut bio, 0, 24 * SECTOR);
        assert_eq!(service.submit_and_wait(bio).1, Ok(()));
        let order = notes.lock().expect("no test panics inside").clone();
        assert_eq!(order, [(0, 4), (1, 0), (2, 0), (3, 0)], "depth first, in the order of the parts");
        drop(buffer);
        // SAFETY: no bio for any of them is left.
        unsafe { stripe.end() }.end().unwrap_or_else(|error| panic!("{error}"));
        for linear in linears {
            // SAFETY: as above.
            unsafe { linear.end() }.end().unwrap_or_else(|error| panic!("{error}"));
        }
        for noting in noting {
            // SAFETY: as above.
            let _ = unsafe { noting.end() };
        }
        disks.into_iter().for_each(end_disk);
        assert_nothing_in_use(service);
    }
}

#[test]
fn a_tower_higher_than_any_stack_is_gone_through_step_by_step() {
    const STOREYS: u64 = 50_000;
    let service = service();
    let notes: &'static Mutex<Vec<(u64, u64)>> = Box::leak(Box::default());
    let disk = disk(service, 8);
    let mut top: Device = disk.get();
    for name in 0..STOREYS {
        top = Box::leak(Box::new(Noting { service, below: top, name, notes }));
    }
    let mut bio = service.bio_kmalloc(0, Gfp::KERNEL).expect("memory is free");
    // Each would ask the one below how many sectors it has.
    bio.set_operation(Operation::Flush);
    bio.set_device(top);
    let (bio, result) = service.submit_and_wait(bio);
    assert_eq!((result, disk.get().flushes()), (Ok(()), 1));
    let order: Vec<_> = notes.lock().expect("no test panics inside").iter().map(|(name, _)| *name).collect();
    assert!(order.into_iter().eq((0..STOREYS).rev()));
    drop(bio);
    end_disk(disk);
    assert_nothing_in_use(service);
}

/// Waits for a bio where it must not.
struct Waiting {
    service: &'static TestService,
    below: Device,
}

impl BlockDevice<HostedMachine> for Waiting {
    fn make_request(&self, mut bio: TestBio) {
        bio.set_device(self.below);
        drop(self.service.submit_and_wait(bio));
    }

    fn sectors(&self) -> u64 {
        self.below.sectors()
    }
}

#[test]
#[should_panic(expected = "inside make_request would wait for ever")]
fn a_driver_that_waits_for_a_bio_is_told() {
    let service = service();
    let disk = disk(service, 8);
    let waiting = End::new(Waiting { service, below: disk.get() });
    let bio = service.bio_kmalloc(0, Gfp::KERNEL).expect("memory is free");
    service.submit_bio(aim(bio, Operation::Flush, waiting.get(), 0));
}

#[test]
fn what_cannot_be_a_stack_is_refused_and_the_set_given_back() {
    let service = service();
    let disk = disk(service, 8);
    let parts = set(service, 1, BiosetFlags::empty());
    let device: Device = disk.get();
    let many = [device; MAX_MEMBERS + 1];
    let Err((error, parts)) = Linear::new(service, parts, &many, Splitting::OneByOne) else { panic!("it is refused") };
    assert_eq!(error, StackError::Members);
    let Err((error, parts)) = Linear::new(service, parts, &[], Splitting::OneByOne) else { panic!("it is refused") };
    assert_eq!(error, StackError::Members);
    let Err((error, parts)) = Stripe::new(service, parts, &[device], 0, Splitting::OneByOne) else {
        panic!("it is refused")
    };
    assert_eq!(error, StackError::NoChunk);
    exit(service, parts);
    end_disk(disk);
    assert!(RamDisk::new(service, 1 << 30).is_none(), "there is not that much memory");
    assert_nothing_in_use(service);
}
