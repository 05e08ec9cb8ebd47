//! The model's memory pools: whoever has fewer elements than the reserve holds always gets another.

use quarry_memory::mempool::Mempool;
use quarry_memory::{Gfp, Order};

use crate::model::Model;

/// A pool of the model's, and what was allocated from it.
pub(crate) struct ModelPool {
    pool: Mempool<'static>,
    minimum: usize,
    /// Bytes of an element.
    size: usize,
    elements: Vec<*mut u8>,
    fill: u8,
}

impl Model {
    /// Bytes in use that are the pools': elements, and what they keep back.
    fn with_pools<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.in_use();
        let result = work(self);
        let after = self.in_use();
        self.pool_objects = self.pool_objects.wrapping_add(after.0).wrapping_sub(before.0);
        self.pool_pages = self.pool_pages.wrapping_add(after.1).wrapping_sub(before.1);
        result
    }

    pub(crate) fn create_pool(&mut self, minimum: usize, size: usize, pages: bool) {
        self.with_pools(|model| {
            let service = model.service();
            let (pool, size) = if pages {
                (service.mempool_create_page_pool(minimum, Order::ZERO), 4096)
            } else {
                (service.mempool_create_kmalloc_pool(minimum, size), size)
            };
            if let Ok(pool) = pool {
                let fill = model.pools.len() as u8 | 0x80;
                model.pools.push(ModelPool { pool, minimum, size, elements: Vec::new(), fill });
            }
        });
    }

    pub(crate) fn use_pool(&mut self, pool: usize, count: usize) {
        if self.pools.is_empty() {
            return;
        }
        let at = pool % self.pools.len();
        self.with_pools(|model| {
            let service = model.service();
            let ModelPool { pool, minimum, size, elements, fill } = &mut model.pools[at];
            for _ in 0..count {
                let element = service.mempool_alloc(pool, Gfp::NOWAIT | Gfp::NOWARN);
                if element.is_null() {
                    assert!(elements.len() >= *minimum, "only {} of {minimum} elements are out", elements.len());
                    break;
                }
                // SAFETY: the element has that many bytes and is the model's.
                unsafe { element.write_bytes(*fill, *size) };
                elements.push(element);
            }
        });
    }

    pub(crate) fn free_to_pool(&mut self, pool: usize, count: usize) {
        if self.pools.is_empty() {
            return;
        }
        let at = pool % self.pools.len();
        self.with_pools(|model| {
            let service = model.service();
            let pool = &mut model.pools[at];
            for element in pool.elements.drain(pool.elements.len().saturating_sub(count)..) {
                // SAFETY: the element has that many bytes, which only the model has written.
                let bytes = unsafe { std::slice::from_raw_parts(element, pool.size) };
                assert!(bytes.iter().all(|&byte| byte == pool.fill), "{element:p} was overwritten");
                // SAFETY: freed once.
                unsafe { service.mempool_free(element, &pool.pool) };
            }
        });
    }

    /// Destroys a pool, after the elements that are out came back if there are any.
    pub(crate) fn destroy_pool(&mut self, pool: usize) {
        if self.pools.is_empty() {
            return;
        }
        let at = pool % self.pools.len();
        self.free_to_pool(at, usize::MAX);
        self.with_pools(|model| {
            let pool = model.pools.swap_remove(at);
            model.service().mempool_destroy(pool.pool).expect("all elements are back");
        });
    }
}
