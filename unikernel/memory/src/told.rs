//! The one hook at the entry of every call that hands out, resizes or takes back an object.
//!
//! Used by [`kmalloc`](crate::kmalloc), [`kmem_cache`](crate::kmem_cache) and [`bulk`](crate::Sheaf): each call is told
//! once, by the function that callers call, whatever it does inside. With the feature `trace` the calls are written
//! down ([`trace`](crate::trace)); without it all of this is nothing, and the fast paths are the same to the
//! instruction.

use quarry_topology::NodeId;

use crate::gfp::Gfp;
use crate::machine::Machine;
use crate::service::Service;

impl<M: Machine> Service<M> {
    /// The object was handed out, if it is one; gives it back as it is.
    #[inline(always)]
    pub(crate) fn handed_out(&self, object: *mut u8, size: usize, node: Option<NodeId>, gfp: Gfp) -> *mut u8 {
        self.trace_allocation(object, size, node, gfp);
        object
    }

    /// The same of the first `count` of many, all of one size.
    #[inline(always)]
    pub(crate) fn handed_out_all(&self, objects: &[*mut u8], count: usize, size: usize, gfp: Gfp) {
        for &object in objects.iter().take(count) {
            self.trace_allocation(object, size, None, gfp);
        }
    }

    /// An object has another size now; where it moves, its old place is given back after this.
    #[inline(always)]
    pub(crate) fn resized(&self, from: *mut u8, to: *mut u8, size: usize) {
        self.trace_resize(from, to, size);
    }

    /// The object is about to be taken back, if it is one.
    #[inline(always)]
    pub(crate) fn taking_back(&self, object: *mut u8) {
        self.trace_free(object);
    }

    /// The same of many.
    #[inline(always)]
    pub(crate) fn taking_back_all(&self, objects: &[*mut u8]) {
        for &object in objects {
            self.trace_free(object);
        }
    }
}

/// Nothing is written down.
#[cfg(not(feature = "trace"))]
#[expect(clippy::unused_self, reason = "with the feature they are methods that need it")]
impl<M: Machine> Service<M> {
    #[inline(always)]
    fn trace_allocation(&self, _object: *mut u8, _size: usize, _node: Option<NodeId>, _gfp: Gfp) {}

    #[inline(always)]
    fn trace_resize(&self, _from: *mut u8, _to: *mut u8, _size: usize) {}

    #[inline(always)]
    fn trace_free(&self, _object: *mut u8) {}
}
