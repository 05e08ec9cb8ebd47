//! The model's memory pools: whoever has fewer elements than the reserve holds always gets another.

use quarry_memory::mempool::Mempool;
use quarry_memory::{Gfp, Order};

use crate::model::Model;

/// A pool of the model's, and what was allocated from it.
pub(crate) struct ModelPool {
    pool: Mempool<'static>,
    minimum: usize,
    /// Elements kept back.
    reserve: usize,
    /// Bytes of an element that are written.
    size: usize,
    /// Bytes an element takes up.
    stride: usize,
    pages: bool,
    elements: Vec<*mut u8>,
    fill: u8,
}

impl ModelPool {
    /// Bytes it keeps back.
    fn kept(&self) -> u64 {
        (self.reserve * self.stride) as u64
    }
}

impl Model {
    /// Bytes of objects and of pages that pools keep back.
    pub(crate) fn kept(&self) -> (u64, u64) {
        let of_kind = |pages| self.pools.iter().filter(|pool| pool.pages == pages).map(ModelPool::kept).sum();
        (of_kind(false), of_kind(true))
    }

    /// Bytes handed out, whether pools keep them back or not.
    fn handed_out(&self) -> (u64, u64) {
        let ((objects, pages), kept) = (self.in_use(), self.service().pool_bytes());
        (objects + kept.objects + kept.large, pages + kept.pages)
    }

    /// Notes the bytes that come into or leave the pools: elements, and what they keep back. Returns how many came.
    fn with_pools(&mut self, work: impl FnOnce(&mut Self)) -> i64 {
        let before = self.handed_out();
        work(self);
        let after = self.handed_out();
        self.pool_objects = self.pool_objects.wrapping_add(after.0).wrapping_sub(before.0);
        self.pool_pages = self.pool_pages.wrapping_add(after.1).wrapping_sub(before.1);
        (after.0 + after.1).cast_signed() - (before.0 + before.1).cast_signed()
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
                let element = service.mempool_alloc_preallocated(&pool);
                let stride = if pages { size } else { service.ksize(element) };
                // SAFETY: freed once.
                unsafe { service.mempool_free(element, &pool) };
                let elements = Vec::new();
                model.pools.push(ModelPool { pool, minimum, reserve: minimum, size, stride, pages, elements, fill });
            }
        });
    }

    pub(crate) fn use_pool(&mut self, pool: usize, count: usize) {
        if self.pools.is_empty() {
            return;
        }
        let at = pool % self.pools.len();
        let before = self.pools[at].elements.len();
        let bytes = self.with_pools(|model| {
            let service = model.service();
            let ModelPool { pool, minimum, size, elements, fill, .. } = &mut model.pools[at];
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
        let pool = &mut self.pools[at];
        // What did not come from elsewhere was in the reserve.
        let elsewhere = usize::try_from(bytes).expect("nothing goes home meanwhile") / pool.stride;
        pool.reserve -= pool.elements.len() - before - elsewhere;
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
                pool.reserve = pool.minimum.min(pool.reserve + 1);
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
