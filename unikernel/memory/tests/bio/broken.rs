//! Disks whose n-th transfer fails, for every n, under drivers that stand on others: each bio completes once, with the error of
//! its part, every other byte is where it belongs, and pages that could not be written stay dirty and are written later.

use std::ops::Range;
use std::sync::Mutex;

use quarry_memory::Gfp;
use quarry_memory::NodeId;
use quarry_memory::bio::{
    BioError, BiosetFlags, BlockDevice, DiskPager, Linear, Operation, PAGE_SECTORS, Splitting, Stripe,
};
use quarry_memory::events::Event;
use quarry_memory::hosted::HostedMachine;
use quarry_memory::vm::VmObject;

use crate::support::{
    AllMemory, Buffer, Device, End, Ends, SECTOR, TestBio, TestDisk, TestService, aim, assert_nothing_in_use, disk,
    end_disk, hosted, service, set,
};

/// What all disks of a tower count together.
#[derive(Default)]
struct Transfers {
    count: u32,
    /// The number of the one that fails.
    failing: u32,
    /// What failed: the disk, and the sectors.
    failed: Option<(usize, Range<u64>)>,
}

/// Passes transfers on to a disk, but for the one that fails.
struct Failing {
    service: &'static TestService,
    below: Device,
    name: usize,
    transfers: &'static Mutex<Transfers>,
}

impl BlockDevice<HostedMachine> for Failing {
    fn make_request(&self, mut bio: TestBio) {
        let mut transfers = self.transfers.lock().expect("nobody panics with it");
        transfers.count += 1;
        if transfers.count == transfers.failing {
            transfers.failed = Some((self.name, bio.sector()..bio.sector() + u64::from(bio.sectors())));
            drop(transfers);
            return bio.endio(Err(BioError::Io));
        }
        drop(transfers);
        bio.set_device(self.below);
        self.service.submit_bio(bio);
    }

    fn sectors(&self) -> u64 {
        self.below.sectors()
    }
}

const CHUNK: u32 = 3;
const MEMBER_SECTORS: u64 = 12;

/// A stripe over two concatenations of two disks each.
struct Tower {
    disks: Vec<End<TestDisk>>,
    failing: Vec<End<Failing>>,
    linears: Vec<End<Linear<HostedMachine>>>,
    stripe: End<Stripe<HostedMachine>>,
    transfers: &'static Mutex<Transfers>,
}

impl Tower {
    fn new(service: &'static TestService, sectors: u64, splitting: Splitting) -> Self {
        let parts = || set(service, 2, BiosetFlags::empty());
        let transfers: &'static Mutex<Transfers> = Box::leak(Box::default());
        let disks: Vec<_> = (0..4).map(|_| disk(service, sectors)).collect();
        let failing: Vec<_> = (0..)
            .zip(&disks)
            .map(|(name, disk)| End::new(Failing { service, below: disk.get(), name, transfers }))
            .collect();
        let linears: Vec<_> = failing
            .chunks(2)
            .map(|pair| {
                let members: [Device; 2] = [pair[0].get(), pair[1].get()];
                let linear = Linear::new(service, parts(), &members, splitting);
                End::new(linear.unwrap_or_else(|(error, _)| panic!("{error}")))
            })
            .collect();
        let members: [Device; 2] = [linears[0].get(), linears[1].get()];
        let stripe = Stripe::new(service, parts(), &members, CHUNK, splitting);
        let stripe = End::new(stripe.unwrap_or_else(|(error, _)| panic!("{error}")));
        Self { disks, failing, linears, stripe, transfers }
    }

    fn fail(&self, number: u32) {
        *self.transfers.lock().expect("nobody panics with it") = Transfers { failing: number, ..Transfers::default() };
    }

    fn failed(&self) -> Option<(usize, Range<u64>)> {
        self.transfers.lock().expect("nobody panics with it").failed.clone()
    }

    /// Whether a sector of the whole was in the transfer that failed.
    fn has_failed(&self, sector: u64) -> bool {
        let (chunk, members) = (u64::from(CHUNK), MEMBER_SECTORS);
        let at = sector / (2 * chunk) * chunk + sector % chunk;
        let disk = (sector / chunk % 2 * 2 + at / members) as usize;
        self.failed().is_some_and(|(failed, sectors)| failed == disk && sectors.contains(&(at % members)))
    }

    fn end(self) {
        // SAFETY: no bio for any of them is left.
        unsafe { self.stripe.end() }.end().unwrap_or_else(|error| panic!("{error}"));
        for linear in self.linears {
            // SAFETY: as above.
            unsafe { linear.end() }.end().unwrap_or_else(|error| panic!("{error}"));
        }
        for failing in self.failing {
            // SAFETY: as above.
            let _ = unsafe { failing.end() };
        }
        self.disks.into_iter().for_each(end_disk);
    }
}

/// Byte of a sector in a round: no two sectors or rounds that follow each other have the same.
fn byte(sector: u64, round: u8) -> u8 {
    (sector as u8).wrapping_mul(7).wrapping_add(round.wrapping_mul(101))
}

const START: u64 = 2;
const COUNT: u64 = 40;

/// Reads or writes the sectors from `START` on; returns what the bio completed with, which it did once.
fn transfer(
    service: &'static TestService,
    tower: &Tower,
    buffer: &Buffer,
    operation: Operation,
    hold: bool,
) -> Result<(), BioError> {
    let bio = service.bio_kmalloc(1, Gfp::KERNEL).expect("memory is free");
    let mut bio = aim(bio, operation, tower.stripe.get(), START);
    buffer.add_to(&mut bio, 0, COUNT as usize * SECTOR);
    let ends = Ends::default();
    ends.note(&mut bio);
    tower.disks.iter().for_each(|disk| disk.get().hold(hold));
    service.submit_bio(bio);
    while tower.disks.iter().rev().any(|disk| disk.get().serve(|count| count - 1)) {}
    assert_eq!(ends.count(), 1, "a bio completes once");
    if ends.succeeded() {
        return Ok(());
    }
    assert!(ends.failed_with(BioError::Io), "with the error of the disk");
    Err(BioError::Io)
}

/// Writes twice, the second time with a transfer that fails, reads back, and tries again; how many transfers a write has.
fn whichever_transfer_fails(splitting: Splitting, hold: bool) -> u32 {
    let service = service();
    let tower = Tower::new(service, MEMBER_SECTORS, splitting);
    let mut buffer = Buffer::new(service, 3);
    let sectors = |buffer: &mut Buffer| {
        let bytes = &buffer.bytes()[..COUNT as usize * SECTOR];
        bytes.chunks(SECTOR).map(|sector| (sector[0], sector.iter().all(|&byte| byte == sector[0]))).collect::<Vec<_>>()
    };
    let fill = |buffer: &mut Buffer, round: u8| {
        for (sector, bytes) in (START..).zip(buffer.bytes().chunks_mut(SECTOR)) {
            bytes.fill(byte(sector, round));
        }
    };
    for failing in 1.. {
        tower.fail(0);
        fill(&mut buffer, 1);
        assert_eq!(transfer(service, &tower, &buffer, Operation::Write, hold), Ok(()));
        fill(&mut buffer, 2);
        tower.fail(failing);
        let written = transfer(service, &tower, &buffer, Operation::Write, hold);
        assert_eq!(written.is_err(), tower.failed().is_some(), "the {failing}th fails");
        buffer.bytes().fill(0);
        let failed = tower.failed();
        let is_old: Vec<_> = (START..START + COUNT).map(|sector| tower.has_failed(sector)).collect();
        tower.fail(0);
        assert_eq!(transfer(service, &tower, &buffer, Operation::Read, hold), Ok(()));
        for ((sector, is_old), read) in (START..).zip(is_old).zip(sectors(&mut buffer)) {
            let round = if is_old { 1 } else { 2 };
            assert_eq!(read, (byte(sector, round), true), "sector {sector} after {failed:?} failed");
        }
        // And a read: what did not fail is there.
        buffer.bytes().fill(0);
        tower.fail(failing);
        let result = transfer(service, &tower, &buffer, Operation::Read, hold);
        assert_eq!(result.is_err(), tower.failed().is_some(), "the {failing}th fails");
        let written_last = if written.is_ok() { Some(2) } else { None };
        for (sector, read) in (START..).zip(sectors(&mut buffer)) {
            let unread = tower.has_failed(sector);
            let as_written = written_last.is_none_or(|round| read.0 == byte(sector, round));
            assert!(if unread { read == (0, true) } else { read.1 && as_written }, "sector {sector}");
        }
        tower.fail(0);
        fill(&mut buffer, 3);
        assert_eq!(transfer(service, &tower, &buffer, Operation::Write, hold), Ok(()), "the disk is whole again");
        buffer.bytes().fill(0);
        assert_eq!(transfer(service, &tower, &buffer, Operation::Read, hold), Ok(()));
        let is_new = (START..).zip(sectors(&mut buffer)).all(|(sector, read)| read == (byte(sector, 3), true));
        assert!(is_new, "after the {failing}th failed");
        if written.is_ok() {
            drop(buffer);
            tower.end();
            assert_nothing_in_use(service);
            return failing - 1;
        }
    }
    unreachable!("a write has so many transfers")
}

#[test]
fn whichever_transfer_of_a_stack_fails_its_bio_fails_once_and_the_rest_is_where_it_belongs() {
    for splitting in [Splitting::OneByOne, Splitting::AllAtOnce] {
        let transfers = [false, true].map(|hold| whichever_transfer_fails(splitting, hold));
        assert!(transfers.iter().all(|&count| count > 12), "{transfers:?} transfers");
    }
}

const NODES: [NodeId; 2] = [NodeId(0), NodeId(1)];
const PAGES: u64 = 40;

fn label(page: &mut [u8; 4096], number: u64) {
    page.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&number.to_le_bytes()));
}

fn has_label(page: &[u8; 4096], number: u64) -> bool {
    page.chunks_exact(8).all(|word| word == number.to_le_bytes())
}

/// Makes memory short, takes all there is, and balances the nodes.
fn launder(service: &'static TestService, object: &VmObject<HostedMachine>) {
    let mut locked = object.lock();
    for index in 0..PAGES {
        if let Some(mut page) = locked.page(index) {
            page.deactivate();
        }
    }
    drop(locked);
    let memory = AllMemory::take(service);
    for node in NODES {
        service.balance(node);
    }
    drop(memory);
}

/// Pages out and in with one transfer that fails; returns whether there was such a transfer.
fn pages_go_and_come_while_a_transfer_fails(failing: u32) -> bool {
    let hosted = hosted();
    let service = hosted.service();
    let tower = Tower::new(service, PAGES * PAGE_SECTORS / 4 + 3, Splitting::OneByOne);
    let pager = DiskPager::new(service, tower.stripe.get(), 1, PAGES, 2).unwrap_or_else(|error| panic!("{error}"));
    let pager = End::new(pager);
    let object = service.vm_object(Some(pager.get())).expect("memory is free");
    tower.fail(failing);
    for round in 0..2 {
        for index in 0..PAGES {
            let page = object.fault(index).or_else(|_| object.fault(index));
            let mut page = page.expect("a transfer fails once");
            assert!(round == 0 || has_label(&page, index + round - 1), "page {index}, written in round {round}");
            label(&mut page, index + round);
        }
        launder(service, &object);
        if service.event_count(Event::VmLaunderFailed) > 0 {
            launder(service, &object);
        }
        assert!(NODES.iter().all(|&node| service.vm_pages(node).laundering == 0), "no write is under way");
    }
    let failed = tower.failed().is_some();
    let told = service.event_count(Event::VmLaunderFailed) > 0;
    for index in 0..PAGES {
        let page = object.fault(index).or_else(|_| object.fault(index)).expect("a transfer fails once");
        assert!(has_label(&page, index + 1), "page {index}, after {:?} failed, told of: {told}", tower.failed());
    }
    drop(object);
    // SAFETY: its object is gone.
    unsafe { pager.end() }.end().unwrap_or_else(|error| panic!("{error}"));
    tower.end();
    assert_nothing_in_use(service);
    hosted.leave();
    // SAFETY: nobody uses the instance any more.
    unsafe { hosted.retire() };
    failed
}

#[test]
fn whichever_transfer_of_a_disk_pager_fails_no_page_is_lost() {
    let mut failing = 1;
    while pages_go_and_come_while_a_transfer_fails(failing) {
        failing += if failing < 20 { 1 } else { 13 };
    }
    assert!(failing > 40, "there are {failing} transfers");
}
