//! [`Cache`]: a cache of values of one type, whose boxes return themselves.
//!
//! Users: Rust code that would use `Box`, and wants a cache's locality, its name in the statistics, its flags, or an
//! allocation that tells when it fails.
//!
//! ```
//! use quarry_memory::hosted::Hosted;
//! use quarry_memory::{Cache, Gfp};
//!
//! static MEMORY: Hosted = Hosted::new();
//!
//! let points = Cache::new(MEMORY.service(), "points").expect("there is memory");
//! let mut point = points.alloc([1, 2], Gfp::KERNEL).expect("there is memory");
//! point[0] = 3;
//! assert_eq!(*point, [3, 2]);
//! ```

use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use crate::gfp::Gfp;
use crate::kmem_cache::{CacheError, KmemCache, SlabFlags};
use crate::machine::Machine;
use crate::service::Service;

/// A cache of values of type `T`. Dropping it destroys the cache.
pub struct Cache<'s, T, M: Machine> {
    service: &'s Service<M>,
    /// Taken when the cache is dropped, and only then.
    handle: ManuallyDrop<KmemCache>,
    values: PhantomData<fn() -> T>,
}

/// A value in a [`Cache`]. Dropping it drops the value and frees its memory.
pub struct CacheBox<'c, T, M: Machine> {
    cache: &'c Cache<'c, T, M>,
    value: NonNull<T>,
    owned: PhantomData<T>,
}

/// There was no memory for a value; it is given back.
pub struct AllocError<T>(pub T);

impl<'s, T, M: Machine> Cache<'s, T, M> {
    /// A cache for values of the type.
    ///
    /// # Errors
    ///
    /// [`CacheError`], of which those about size and alignment depend on the type alone.
    pub fn new(service: &'s Service<M>, name: &'static str) -> Result<Self, CacheError> {
        Self::with_flags(service, name, SlabFlags::empty())
    }

    /// As [`Self::new`], with flags.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn with_flags(service: &'s Service<M>, name: &'static str, flags: SlabFlags) -> Result<Self, CacheError> {
        // A value of no bytes has an address all the same.
        let handle = service.kmem_cache_create(name, size_of::<T>().max(1), align_of::<T>(), flags, None)?;
        Ok(Self { service, handle: ManuallyDrop::new(handle), values: PhantomData })
    }

    /// Puts a value into memory of the cache. May sleep as the flags say.
    ///
    /// # Errors
    ///
    /// [`AllocError`] with the value, when there is no memory.
    #[inline]
    pub fn alloc(&self, value: T, gfp: Gfp) -> Result<CacheBox<'_, T, M>, AllocError<T>> {
        let object = self.service.kmem_cache_alloc(&self.handle, gfp.difference(Gfp::ZERO));
        let Some(memory) = NonNull::new(object.cast::<T>()) else { return Err(AllocError(value)) };
        // SAFETY: an object of the cache is large enough for a `T`, aligned for it, and new.
        unsafe { memory.write(value) };
        Ok(CacheBox { cache: self, value: memory, owned: PhantomData })
    }

    /// The cache without its type, for what has no typed counterpart here.
    pub fn as_untyped(&self) -> &KmemCache {
        &self.handle
    }
}

impl<T, M: Machine> Drop for Cache<'_, T, M> {
    fn drop(&mut self) {
        // SAFETY: the handle is taken here alone, and nothing uses it after a drop.
        let handle = unsafe { ManuallyDrop::take(&mut self.handle) };
        // Boxes borrow the cache, so an object in use is one of a box that was forgotten. It was reported; its memory
        // stays, and the cache with it.
        drop(self.service.kmem_cache_destroy(handle));
    }
}

impl<T, M: Machine> fmt::Debug for Cache<'_, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({})", self.handle.name())
    }
}

impl<T, M: Machine> CacheBox<'_, T, M> {
    /// The value, whose memory is freed.
    pub fn into_inner(self) -> T {
        let boxed = ManuallyDrop::new(self);
        // SAFETY: the box owns a value, and is not dropped, so the value is moved out of it once.
        let value = unsafe { boxed.value.read() };
        boxed.free();
        value
    }

    #[inline]
    fn free(&self) {
        // SAFETY: the box's memory is an object of the cache, and whoever calls this gives the box up.
        unsafe { self.cache.service.kmem_cache_free(&self.cache.handle, self.value.as_ptr().cast()) };
    }
}

impl<T, M: Machine> Drop for CacheBox<'_, T, M> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the box owns the value, and goes.
        unsafe { self.value.drop_in_place() };
        self.free();
    }
}

// SAFETY: a box owns its value, as `Box` does; memory of the service is not bound to a thread.
unsafe impl<T: Send, M: Machine> Send for CacheBox<'_, T, M> {}
// SAFETY: a shared box gives out shared references to the value alone.
unsafe impl<T: Sync, M: Machine> Sync for CacheBox<'_, T, M> {}

impl<T, M: Machine> Deref for CacheBox<'_, T, M> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the box owns a value there.
        unsafe { self.value.as_ref() }
    }
}

impl<T, M: Machine> DerefMut for CacheBox<'_, T, M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the box owns a value there.
        unsafe { self.value.as_mut() }
    }
}

impl<T: fmt::Debug, M: Machine> fmt::Debug for CacheBox<'_, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> fmt::Debug for AllocError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AllocError")
    }
}

impl<T> fmt::Display for AllocError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no memory for a value in its cache")
    }
}

impl<T> core::error::Error for AllocError<T> {}
