//! Rust's collections on the service: the global allocator.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use quarry_suite::random::Random;
use quarry_unikernel::memory_service::MAX_SIZE;

use crate::harness::{Outcome, seed};
use crate::team::{another_cpu, check_on_every_cpu, on_cpu, without_loss};
use crate::{check, check_equal, tests};

fn vectors_grow_and_keep_their_contents() -> Outcome {
    without_loss(|| {
        check_on_every_cpu(|_| {
            let mut numbers = Vec::new();
            for number in 0..100_000_u64 {
                numbers.push(number * number);
            }
            check!((0..).zip(&numbers).all(|(index, &number)| number == index * index), "a vector changed as it grew");
            numbers.truncate(10);
            numbers.shrink_to_fit();
            check_equal!(numbers, [0, 1, 4, 9, 16, 25, 36, 49, 64, 81], "a vector that shrank");
            Ok(())
        })
    })
}

fn a_vector_may_be_larger_than_any_kmalloc() -> Outcome {
    without_loss(|| {
        let mut bytes = vec![0_u8; MAX_SIZE + 1];
        check!(bytes.iter().all(|&byte| byte == 0), "zeroes are not zero");
        bytes.fill(7);
        bytes.resize(2 * MAX_SIZE, 8);
        let right = bytes.iter().enumerate().all(|(index, &byte)| byte == if index <= MAX_SIZE { 7 } else { 8 });
        check!(right, "a large vector changed as it grew");
        Ok(())
    })
}

fn a_map_remembers_what_a_list_does() -> Outcome {
    without_loss(|| {
        check_on_every_cpu(|cpu| {
            let mut random = Random::new(seed(), u64::from(cpu.0));
            let mut map = BTreeMap::new();
            let mut list: Vec<Option<String>> = vec![None; 500];
            for step in 0..5000 {
                let key = random.below(list.len() as u64) as usize;
                if random.below(3) == 0 {
                    check_equal!(map.remove(&key), list[key].take(), "what was removed in step {step}");
                } else {
                    let value = format!("{step}{}", "x".repeat(random.below(100) as usize));
                    check_equal!(
                        map.insert(key, value.clone()),
                        list[key].replace(value),
                        "the old value in step {step}"
                    );
                }
            }
            let left = list.iter().enumerate().filter_map(|(key, value)| Some((key, value.as_ref()?)));
            check!(left.eq(map.iter().map(|(&key, value)| (key, value))), "the map and the list differ");
            Ok(())
        })
    })
}

fn boxes_are_aligned_as_their_type_wants() -> Outcome {
    #[repr(align(64))]
    struct CacheLine(u8);
    #[repr(align(4096))]
    struct Page(u8);
    #[repr(align(65536))]
    struct Huge(u8);
    without_loss(|| {
        for number in 0..20 {
            let (line, page, huge) = (Box::new(CacheLine(number)), Box::new(Page(number)), Box::new(Huge(number)));
            check!((&raw const *line).addr().is_multiple_of(64), "a cache line is at {:p}", &raw const *line);
            check!((&raw const *page).addr().is_multiple_of(4096), "a page is at {:p}", &raw const *page);
            check!((&raw const *huge).addr().is_multiple_of(65536), "a huge box is at {:p}", &raw const *huge);
            check_equal!([line.0, page.0, huge.0], [number; 3], "contents");
        }
        Ok(())
    })
}

fn a_shared_value_goes_with_its_last_owner() -> Outcome {
    without_loss(|| {
        let queue: Arc<VecDeque<Box<u64>>> = Arc::new((0..1000).map(Box::new).collect());
        let across = Arc::clone(&queue);
        drop(queue);
        let sum = on_cpu(another_cpu(), move || across.iter().map(|number| **number).sum::<u64>());
        check_equal!(sum, 499_500, "sum of what was shared");
        Ok(())
    })
}

tests! { "heap":
    vectors_grow_and_keep_their_contents,
    a_vector_may_be_larger_than_any_kmalloc,
    a_map_remembers_what_a_list_does,
    boxes_are_aligned_as_their_type_wants,
    a_shared_value_goes_with_its_last_owner,
}
