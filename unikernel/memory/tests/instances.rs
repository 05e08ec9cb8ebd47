//! Many hosted services in one process: their number, their ends, and threads that outlive them.

use std::sync::mpsc;
use std::thread;

use quarry_memory::hosted::{Hosted, HostedError, MAX_INSTANCES, ProcessHeap};
use quarry_memory::{Gfp, Order, Topology};

fn leak() -> Result<&'static Hosted, HostedError> {
    Hosted::leak(Topology::builder().node(32 << 20, 2).build().expect("a machine"))
}

/// One test, for the number of instances is the process's.
#[test]
fn instances_come_and_go_and_threads_outlive_them() {
    let (to_thread, instances) = mpsc::channel::<&'static Hosted>();
    let (done, answers) = mpsc::channel();
    let thread = thread::spawn(move || {
        for hosted in instances {
            let service = hosted.service();
            // SAFETY: null may be freed, and the object once.
            unsafe {
                service.kfree(std::ptr::null_mut());
                let object = service.kmalloc(100, Gfp::KERNEL);
                let block = hosted.alloc_pages(Order::ZERO);
                assert!(!object.is_null());
                object.write_bytes(1, 100);
                service.kfree(object);
                hosted.free_pages(block.expect("memory is free"), Order::ZERO);
            }
            done.send(()).expect("the test waits for the answer");
        }
    });
    // Each takes the slot of the one before it, where the thread still has a set of that one.
    for _ in 0..2 * MAX_INSTANCES {
        let hosted = leak().expect("a slot is free");
        let object = hosted.service().kmalloc(100, Gfp::KERNEL);
        to_thread.send(hosted).expect("the thread lives");
        answers.recv().expect("nothing panics in the thread");
        // SAFETY: freed once.
        unsafe { hosted.service().kfree(object) };
        let rows = hosted.service().statistics();
        assert!(rows.adds_up() && rows.slab_in_use + rows.pages_in_use == 0, "{rows:#?}");
        // SAFETY: nobody uses it any more.
        unsafe { hosted.retire() };
        assert_eq!(hosted.start(), Err(HostedError::Ended));
    }
    drop(to_thread);
    thread.join().expect("nothing panics in the thread");
    let all: Vec<_> = (0..MAX_INSTANCES).map(|_| leak().expect("a slot is free")).collect();
    assert_eq!(leak().err(), Some(HostedError::TooManyInstances));
    for hosted in all {
        assert!(hosted.alloc_pages(Order::MAX).is_some());
    }
    // There is a place for it all the same, and it is ended as the others are.
    assert!(ProcessHeap.alloc_pages(Order::MAX).is_some());
    // SAFETY: nobody uses it any more.
    unsafe { ProcessHeap.retire() };
    assert_eq!(ProcessHeap.start(), Err(HostedError::Ended));
    assert_eq!(leak().err(), Some(HostedError::TooManyInstances), "its place is no other's");
}
