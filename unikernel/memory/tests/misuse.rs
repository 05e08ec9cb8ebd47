//! Misuse is caught at the call, in every build, and the panic says what was wrong.

use quarry_memory::hosted::{Hosted, HostedMachine};
use quarry_memory::{CpuId, Gfp, Machine, NodeId, Order, Service, Topology};

fn service() -> &'static Service<HostedMachine> {
    let topology = Topology::builder().node(64 << 20, 2).node(64 << 20, 2).build().expect("a machine");
    Hosted::leak(topology).expect("there is address space").service()
}

#[test]
#[should_panic(expected = "is free already: a double free")]
fn a_double_free_panics() {
    let service = service();
    let object = service.kmalloc(64, Gfp::KERNEL);
    // SAFETY: the second free is what is tested; it frees nothing.
    unsafe {
        service.kfree(object);
        service.kfree(object);
    }
}

#[test]
#[should_panic(expected = "is free already: a double free")]
fn a_double_free_from_another_node_panics() {
    let service = service();
    let object = service.kmalloc_node(64, Gfp::KERNEL, NodeId(1));
    // SAFETY: the second free is what is tested; it frees nothing.
    unsafe {
        service.kfree(object);
        service.kfree(object);
    }
}

#[test]
#[should_panic(expected = "is free already: a double free")]
fn a_double_free_in_two_threads_panics() {
    let service = service();
    let object = service.kmalloc(64, Gfp::KERNEL).expose_provenance();
    // SAFETY: the second free is what is tested; it frees nothing.
    let free = move || unsafe { service.kfree(std::ptr::with_exposed_provenance_mut(object)) };
    std::thread::spawn(free).join().expect("the first free is sound");
    free();
}

#[test]
#[should_panic(expected = "which is no object")]
fn a_double_free_of_pages_of_kmalloc_panics() {
    let service = service();
    let object = service.kmalloc(100_000, Gfp::KERNEL);
    // SAFETY: the second free is what is tested; it frees nothing.
    unsafe {
        service.kfree(object);
        service.kfree(object);
    }
}

#[test]
#[should_panic(expected = "lies inside an object")]
fn a_free_inside_an_object_panics() {
    let service = service();
    // SAFETY: the free is what is tested; it frees nothing.
    unsafe { service.kfree(service.kmalloc(64, Gfp::KERNEL).add(8)) };
}

#[test]
#[should_panic(expected = "which is no object")]
fn a_free_of_foreign_memory_panics() {
    let mut foreign = 0u64;
    // SAFETY: the free is what is tested; it frees nothing.
    unsafe { service().kfree((&raw mut foreign).cast()) };
}

/// What a free of memory that is none of the service's is told, on a CPU of each node.
fn foreign_free_is_told(hosted: &'static Hosted) {
    for cpu in [CpuId(0), CpuId(2)] {
        assert!(hosted.run_on(cpu));
        let mut foreign = [0u64; 64];
        for place in &mut foreign {
            let pointer = (&raw mut *place).expose_provenance();
            // SAFETY: the free is what is tested; it frees nothing.
            let free = || unsafe { hosted.service().kfree(std::ptr::with_exposed_provenance_mut(pointer)) };
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(free)).expect_err("it is no object");
            let told = told.downcast_ref::<String>().expect("a panic with a message");
            assert!(told.contains("which is no object"), "{told}");
        }
    }
}

#[test]
fn a_free_of_foreign_memory_panics_on_each_node_whatever_objects_of_others_it_holds_or_held() {
    let topology = Topology::builder().node(64 << 20, 2).node(64 << 20, 2).build().expect("a machine");
    let hosted = Hosted::leak(topology).expect("there is address space");
    let service = hosted.service();
    foreign_free_is_told(hosted);
    for (cpu, other) in [(CpuId(0), NodeId(1)), (CpuId(2), NodeId(0))] {
        assert!(hosted.run_on(cpu));
        for size in (8..=256).step_by(8) {
            // SAFETY: freed once.
            unsafe { service.kfree(service.kmalloc_node(size, Gfp::KERNEL, other)) };
        }
    }
    foreign_free_is_told(hosted);
    for cpu in [CpuId(0), CpuId(2)] {
        assert!(hosted.run_on(cpu));
        service.drain_local();
    }
    foreign_free_is_told(hosted);
}

#[test]
#[should_panic(expected = "which is no object")]
fn a_kfree_of_pages_panics() {
    let service = service();
    // SAFETY: the free is what is tested; it frees nothing.
    unsafe { service.kfree(service.get_free_pages(Gfp::KERNEL, Order::ZERO)) };
}

#[test]
#[should_panic(expected = "not the start of an object")]
fn a_ksize_inside_an_object_panics() {
    let service = service();
    service.ksize(service.kmalloc(64, Gfp::KERNEL).wrapping_add(8));
}

#[test]
#[should_panic(expected = "was written to: somebody used it after kfree")]
fn a_write_after_free_panics_when_the_object_is_handed_out() {
    let service = service();
    let object = service.kmalloc(2000, Gfp::KERNEL);
    // The slab stays one while it has an object in use.
    service.kmalloc(2000, Gfp::KERNEL);
    // SAFETY: the write after the free is what is tested; nobody else has the object meanwhile.
    unsafe {
        service.kfree(object);
        service.drain_local();
        service.shrink_depots();
        object.cast::<u64>().write(1);
    }
    for _ in 0..100 {
        service.kmalloc(2000, Gfp::KERNEL);
    }
}

#[test]
#[should_panic(expected = "but it was allocated with order 3")]
fn a_free_of_pages_with_another_order_panics() {
    let service = service();
    let order = Order::new(3).expect("an order");
    service.__free_pages(service.alloc_pages(Gfp::KERNEL, order).expect("memory is free"), Order::ZERO);
}

#[test]
#[should_panic(expected = "which heads no allocated block")]
fn a_double_free_of_pages_panics() {
    let service = service();
    let block = service.alloc_pages(Gfp::KERNEL, Order::MAX).expect("memory is free");
    service.__free_pages(block, Order::MAX);
    service.__free_pages(block, Order::MAX);
}

#[test]
#[should_panic(expected = "which heads no allocated block")]
fn a_free_inside_a_block_of_pages_panics() {
    let service = service();
    let order = Order::new(3).expect("an order");
    service.__free_pages(service.alloc_pages(Gfp::KERNEL, order).expect("memory is free").offset(1), Order::ZERO);
}

#[test]
#[should_panic(expected = "which heads no allocated block")]
fn a_free_of_an_objects_page_panics() {
    let service = service();
    let frame = service.virt_to_page(service.kmalloc(64, Gfp::KERNEL)).expect("an object is in RAM");
    service.__free_pages(frame, Order::ZERO);
}

#[test]
#[should_panic(expected = "which heads no allocated block")]
fn a_reference_too_many_given_up_panics() {
    let service = service();
    let block = service.alloc_pages(Gfp::KERNEL, Order::ZERO).expect("memory is free");
    service.put_page(block);
    service.put_page(block);
}

#[test]
#[should_panic(expected = "not the address of a frame")]
fn a_free_of_pages_at_no_frame_panics() {
    let service = service();
    service.free_pages(service.get_free_pages(Gfp::KERNEL, Order::ZERO).wrapping_add(1), Order::ZERO);
}

#[test]
fn nothing_before_or_behind_the_machines_memory_is_freed_nor_before_its_start() {
    static UNSTARTED: Hosted = Hosted::new();
    let refused = |free: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(free)).is_err();
    let service = service();
    let page = service.get_free_pages(Gfp::KERNEL, Order::ZERO);
    let base = service.machine().direct_map();
    // Around the tables, which lie in front of the memory, the memory's 128 MiB, and what there could be of it.
    for distance in [-(17i64 << 30), -(16 << 30), -(3 << 30), -4096, 128 << 20, 1 << 40, (4 << 40) - 4096, 4 << 40] {
        let address = std::ptr::with_exposed_provenance_mut::<u8>(base.wrapping_add_signed(distance as isize));
        assert!(refused(&|| service.free_pages(address, Order::ZERO)), "free_pages of {distance:#x}");
        // SAFETY: nothing is freed: that is what is tested.
        assert!(unsafe { service.try_kfree(address) }.is_err(), "kfree of {distance:#x}");
        assert!(refused(&|| UNSTARTED.service().free_pages(address, Order::ZERO)), "{distance:#x}, not started");
        // SAFETY: as above.
        assert!(unsafe { UNSTARTED.service().try_kfree(address) }.is_err(), "{distance:#x}, not started");
    }
    service.free_pages(page, Order::ZERO);
}

#[test]
#[should_panic(expected = "not the start of a vmalloc allocation")]
fn a_vfree_inside_an_allocation_panics() {
    let service = service();
    // SAFETY: the free is what is tested; it frees nothing.
    unsafe { service.vfree(service.vmalloc(10_000, Gfp::KERNEL).add(4096)) };
}
