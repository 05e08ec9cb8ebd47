//! Contiguous memory: the manual's example, every range, alignment, boundary and size against a model, and room that is
//! made for it.

mod calls;
mod large;
mod model;
mod room;
mod support;
