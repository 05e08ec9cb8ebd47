//! The model's caches: made, used one object at a time and in bulk, and destroyed, also with objects in use.

use quarry_memory::{Gfp, KmemCache, SlabFlags};

use crate::model::{Kind, Model};

/// What the constructor leaves in an object's first byte.
const MADE: u8 = 0xc7;

/// A cache of the model's.
pub(crate) struct ModelCache {
    /// Tells its objects from those of others.
    number: usize,
    handle: KmemCache,
    constructed: bool,
    /// Bytes that an object adds to objects in use.
    stride: u64,
}

fn constructor(object: *mut u8) {
    // SAFETY: objects have at least a byte.
    unsafe { object.write(MADE) };
}

impl Model {
    pub(crate) fn create_cache(&mut self, size: usize, align: usize, constructed: bool) {
        let (service, before) = (self.service(), self.objects_in_use());
        let made = constructed.then_some(constructor as fn(*mut u8));
        let Ok(handle) = service.kmem_cache_create("model", size, align, SlabFlags::NO_MERGE, made) else { return };
        let object = service.kmem_cache_alloc(&handle, Gfp::KERNEL | Gfp::NOWARN);
        let stride = self.objects_in_use() - before;
        // SAFETY: freed once, or null.
        unsafe { service.kmem_cache_free(&handle, object) };
        if object.is_null() {
            service.kmem_cache_destroy(handle).expect("it has no object");
        } else {
            assert!(stride as usize >= size && stride.is_multiple_of(align as u64), "{stride} for {size}, {align}");
            self.caches_made += 1;
            self.caches.push(ModelCache { number: self.caches_made, handle, constructed, stride });
        }
    }

    pub(crate) fn use_cache(&mut self, cache: usize, node: Option<usize>, count: usize, bulk: bool) {
        if self.caches.is_empty() {
            return;
        }
        let (service, node) = (self.service(), self.node(node));
        let at = cache % self.caches.len();
        let (number, constructed, stride) = {
            let cache = &self.caches[at];
            (cache.number, cache.constructed, cache.stride)
        };
        let handle = &self.caches[at].handle;
        let size = service.kmem_cache_size(handle);
        let gfp = Gfp::NOWAIT | Gfp::NOWARN;
        let mut objects = vec![std::ptr::null_mut(); count];
        if bulk {
            let got = service.kmem_cache_alloc_bulk(handle, gfp, &mut objects);
            assert!(got == count || got == 0);
            objects.truncate(got);
        } else {
            for object in &mut objects {
                *object = match node {
                    Some(node) => service.kmem_cache_alloc_node(handle, gfp, node),
                    None => service.kmem_cache_alloc(handle, gfp),
                };
            }
            objects.retain(|object| !object.is_null());
        }
        for object in objects {
            // SAFETY: the object is the model's and has at least a byte.
            assert!(!constructed || unsafe { object.read() } == MADE, "{object:p} is not as it was made");
            self.hold(Kind::CacheObject(number), vec![object], size, stride, 0);
        }
    }

    /// Frees an object of a cache, by `kmem_cache_free` or, every other time, `kfree`.
    pub(crate) fn free_to_cache(&mut self, number: usize, object: *mut u8) {
        let service = self.service();
        let cache = self.caches.iter().find(|cache| cache.number == number).expect("a cache outlives its objects");
        // SAFETY: freed once, and left as constructed.
        unsafe {
            if cache.constructed {
                object.write(MADE);
            }
            if (object.addr() / 64).is_multiple_of(2) {
                service.kmem_cache_free(&cache.handle, object);
            } else {
                service.kfree(object);
            }
            let again = service.try_kmem_cache_free(&cache.handle, object);
            assert!(again.is_err(), "{object:p} was freed twice");
        }
    }

    pub(crate) fn destroy_cache(&mut self, cache: usize) {
        if self.caches.is_empty() {
            return;
        }
        let cache = self.caches.swap_remove(cache % self.caches.len());
        let number = cache.number;
        let held = self.held.iter().filter(|held| matches!(held.kind, Kind::CacheObject(of) if of == number)).count();
        match self.service().kmem_cache_destroy(cache.handle) {
            Ok(()) => assert_eq!(held, 0, "it had objects in use"),
            Err(remain) => {
                assert_eq!(remain.objects, held as u64);
                self.caches.push(ModelCache { handle: remain.cache, ..cache });
            }
        }
    }
}
