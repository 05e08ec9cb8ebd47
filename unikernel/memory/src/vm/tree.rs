//! [`Tree`]: the pages of an object by index: a radix tree with compressed paths.
//!
//! Used by [`object`](super::object), under the object's lock.
//!
//! # Theory
//!
//! An inner node tells indices apart by four of their bits; levels at which there is nothing to tell apart have no node.
//! So each node has at least two children, a tree of `n` pages has fewer than `n` nodes however sparse its indices are, and
//! an insertion needs one node at most: its caller brings it, and the tree allocates nothing. Sixteen pages side by
//! side share a node, nine bytes a page.
//!
//! A slot is a word: 0 where there is nothing, the address of a leaf, or that of an inner node plus one.

use core::marker::PhantomData;
use core::ptr::NonNull;

/// Bits of an index that a node tells apart.
const BITS: u32 = 4;
const SLOTS: usize = 1 << BITS;
/// In a slot: it holds an inner node.
const INNER: usize = 1;

/// What is in a tree: it knows its index, which does not change while it is there.
pub(crate) trait Leaf {
    fn index(&self) -> u64;
}

/// An inner node. All zero bytes are a valid one.
pub(crate) struct Inner {
    /// What the indices below have in common: the bits above those that the node tells apart.
    prefix: u64,
    /// The lowest bit that it tells apart.
    shift: u32,
    /// Slots that are not empty.
    count: u32,
    slots: [usize; SLOTS],
}

/// Leaves by index.
pub(crate) struct Tree<T> {
    root: usize,
    leaves: PhantomData<*const T>,
}

// SAFETY: a tree is a set of pointers; who follows them answers for it.
unsafe impl<T> Send for Tree<T> {}

/// What a slot holds.
enum Held<T> {
    Nothing,
    Leaf(NonNull<T>),
    Inner(NonNull<Inner>),
}

fn held<T>(slot: usize) -> Held<T> {
    let inner = NonNull::new(core::ptr::with_exposed_provenance_mut::<Inner>(slot & !INNER));
    match NonNull::new(core::ptr::with_exposed_provenance_mut::<T>(slot)) {
        None => Held::Nothing,
        Some(leaf) if slot & INNER == 0 => Held::Leaf(leaf),
        Some(_) => Held::Inner(inner.expect("a node is not at address 0")),
    }
}

/// The bits of an index above those that a node of that shift tells apart.
fn above(index: u64, shift: u32) -> u64 {
    index.unbounded_shr(shift + BITS)
}

fn digit(index: u64, shift: u32) -> usize {
    (index >> shift) as usize % SLOTS
}

impl<T: Leaf> Tree<T> {
    pub(crate) const fn new() -> Self {
        Self { root: 0, leaves: PhantomData }
    }

    /// The leaf with that index.
    pub(crate) fn get(&self, index: u64) -> Option<NonNull<T>> {
        let mut slot = self.root;
        loop {
            match held::<T>(slot) {
                Held::Nothing => return None,
                // SAFETY: leaves live as long as they are in the tree.
                Held::Leaf(leaf) => return (unsafe { leaf.as_ref() }.index() == index).then_some(leaf),
                Held::Inner(node) => {
                    // SAFETY: nodes in the tree live, and are reached through it alone.
                    let node = unsafe { node.as_ref() };
                    if above(index, node.shift) != node.prefix {
                        return None;
                    }
                    slot = node.slots[digit(index, node.shift)];
                }
            }
        }
    }

    /// The leaf with the lowest index that is at least `from`.
    pub(crate) fn at_least(&self, from: u64) -> Option<NonNull<T>> {
        Self::search(self.root, from)
    }

    fn search(slot: usize, from: u64) -> Option<NonNull<T>> {
        match held::<T>(slot) {
            Held::Nothing => None,
            // SAFETY: as in `get`.
            Held::Leaf(leaf) => (unsafe { leaf.as_ref() }.index() >= from).then_some(leaf),
            Held::Inner(node) => {
                // SAFETY: as in `get`.
                let node = unsafe { node.as_ref() };
                let wanted = above(from, node.shift);
                if node.prefix < wanted {
                    return None;
                }
                let first = if node.prefix == wanted { digit(from, node.shift) } else { 0 };
                node.slots[first..].iter().find_map(|&slot| Self::search(slot, from))
            }
        }
    }

    /// Adds a leaf whose index is not there yet. Takes a node with `spare` if it needs one; `false`, and nothing changed,
    /// when it needs one and there is none.
    ///
    /// # Safety
    ///
    /// The leaf and the node live, where they are, until they are taken out; the node is nobody else's.
    pub(crate) unsafe fn insert(&mut self, leaf: NonNull<T>, spare: impl FnOnce() -> Option<NonNull<Inner>>) -> bool {
        // SAFETY: the caller's promise.
        let index = unsafe { leaf.as_ref() }.index();
        let new = leaf.as_ptr().expose_provenance();
        let mut slot: *mut usize = &raw mut self.root;
        loop {
            // SAFETY: `slot` is the root or in a node of the tree, which the caller has exclusively.
            let there = unsafe { *slot };
            let other = match held::<T>(there) {
                Held::Nothing => {
                    // SAFETY: as above. (Only the root's slot is reached empty here: others are counted below.)
                    unsafe { *slot = new };
                    return true;
                }
                // SAFETY: as in `get`.
                Held::Leaf(leaf) => unsafe { leaf.as_ref() }.index(),
                Held::Inner(mut node) => {
                    // SAFETY: as in `get`; the tree is borrowed exclusively.
                    let node = unsafe { node.as_mut() };
                    if above(index, node.shift) == node.prefix {
                        let next = &mut node.slots[digit(index, node.shift)];
                        if *next == 0 {
                            *next = new;
                            node.count += 1;
                            return true;
                        }
                        slot = next;
                        continue;
                    }
                    // Not shifted out whole: a node of all indices has every prefix.
                    node.prefix << (node.shift + BITS)
                }
            };
            assert_ne!(index, other, "an index is in the tree once");
            let Some(node) = spare() else { return false };
            let shift = (u64::BITS - 1 - (index ^ other).leading_zeros()) / BITS * BITS;
            let mut slots = [0; SLOTS];
            slots[digit(index, shift)] = new;
            slots[digit(other, shift)] = there;
            // SAFETY: the node is the caller's to give; the slot as above.
            unsafe {
                node.write(Inner { prefix: above(index, shift), shift, count: 2, slots });
                *slot = node.as_ptr().expose_provenance() | INNER;
            }
            return true;
        }
    }

    /// Takes a leaf out, and the node that is not needed any more, if there is one.
    pub(crate) fn remove(&mut self, index: u64) -> Option<(NonNull<T>, Option<NonNull<Inner>>)> {
        let mut slot: *mut usize = &raw mut self.root;
        let mut parent: Option<(NonNull<Inner>, *mut usize)> = None;
        loop {
            // SAFETY: `slot` is the root or in a node of the tree, which is borrowed exclusively.
            match held::<T>(unsafe { *slot }) {
                Held::Nothing => return None,
                Held::Leaf(leaf) => {
                    // SAFETY: as in `get`.
                    if unsafe { leaf.as_ref() }.index() != index {
                        return None;
                    }
                    // SAFETY: as above.
                    unsafe { *slot = 0 };
                    return Some((leaf, parent.and_then(|(node, above)| Self::collapse(node, above))));
                }
                Held::Inner(mut node) => {
                    // SAFETY: as in `get`; the tree is borrowed exclusively.
                    let inner = unsafe { node.as_mut() };
                    if above(index, inner.shift) != inner.prefix {
                        return None;
                    }
                    parent = Some((node, slot));
                    slot = &raw mut inner.slots[digit(index, inner.shift)];
                }
            }
        }
    }

    /// A node has lost a child: if one is left, it takes the node's place in the slot `place`.
    fn collapse(mut node: NonNull<Inner>, place: *mut usize) -> Option<NonNull<Inner>> {
        // SAFETY: as in `remove`, which calls this while it has the tree exclusively.
        let inner = unsafe { node.as_mut() };
        inner.count -= 1;
        if inner.count > 1 {
            return None;
        }
        let left = inner.slots.iter().copied().find(|&slot| slot != 0).expect("a node has two children or more");
        // SAFETY: as above.
        unsafe { *place = left };
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    struct Number(u64);

    impl Leaf for Number {
        fn index(&self) -> u64 {
            self.0
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        InsertWithoutMemory(u64),
        Remove(u64),
        AtLeast(u64),
    }

    fn index() -> impl Strategy<Value = u64> {
        // Dense, sparse, and at both ends.
        prop_oneof![4 => 0u64..80, 2 => any::<u64>(), 1 => (0u64..40).prop_map(|back| u64::MAX - back),
            1 => (0u64..20, 0u32..64).prop_map(|(low, shift)| low << shift)]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => index().prop_map(Step::Insert),
            1 => index().prop_map(Step::InsertWithoutMemory),
            3 => index().prop_map(Step::Remove),
            1 => index().prop_map(Step::AtLeast),
        ]
    }

    fn new_node() -> NonNull<Inner> {
        NonNull::from(Box::leak(Box::new(Inner { prefix: 0, shift: 0, count: 0, slots: [0; SLOTS] })))
    }

    proptest! {
        #[test]
        fn a_tree_is_a_map_and_has_fewer_nodes_than_leaves(steps in prop::collection::vec(step(), 1..200)) {
            let mut tree = Tree::<Number>::new();
            let mut model = BTreeMap::new();
            let mut nodes = 0usize;
            for step in steps {
                match step {
                    Step::Insert(index) if !model.contains_key(&index) => {
                        let leaf = NonNull::from(Box::leak(Box::new(Number(index))));
                        // SAFETY: both are leaked until they are taken out.
                        let inserted = unsafe { tree.insert(leaf, || { nodes += 1; Some(new_node()) }) };
                        prop_assert!(inserted);
                        model.insert(index, leaf);
                    }
                    Step::InsertWithoutMemory(index) if !model.contains_key(&index) => {
                        let leaf = NonNull::from(Box::leak(Box::new(Number(index))));
                        // SAFETY: as above.
                        if unsafe { tree.insert(leaf, || None) } {
                            model.insert(index, leaf);
                        } else {
                            // SAFETY: it was not put into the tree.
                            drop(unsafe { Box::from_raw(leaf.as_ptr()) });
                        }
                    }
                    Step::Remove(index) => {
                        let removed = tree.remove(index);
                        prop_assert_eq!(removed.map(|(leaf, _)| leaf), model.remove(&index));
                        if let Some((leaf, node)) = removed {
                            nodes -= usize::from(node.is_some());
                            // SAFETY: taken out of the tree, and made by `Box`.
                            unsafe {
                                drop(Box::from_raw(leaf.as_ptr()));
                                node.map(|node| Box::from_raw(node.as_ptr()));
                            }
                        }
                    }
                    Step::AtLeast(from) => {
                        prop_assert_eq!(tree.at_least(from), model.range(from..).next().map(|(_, &leaf)| leaf));
                    }
                    Step::Insert(index) | Step::InsertWithoutMemory(index) => {
                        prop_assert_eq!(tree.get(index), model.get(&index).copied());
                    }
                }
                prop_assert!(nodes < model.len().max(1));
            }
            while let Some(leaf) = tree.at_least(0) {
                // SAFETY: in the tree, so it lives.
                let index = unsafe { leaf.as_ref() }.0;
                let (first, _) = model.pop_first().expect("the model has as many");
                prop_assert_eq!(index, first);
                let (leaf, node) = tree.remove(index).expect("it was there");
                // SAFETY: as above.
                unsafe {
                    drop(Box::from_raw(leaf.as_ptr()));
                    node.map(|node| Box::from_raw(node.as_ptr()));
                }
            }
            prop_assert!(model.is_empty() && tree.root == 0);
        }
    }
}
