//! Objects as people write them, read into typed values: the compiler's input.
//!
//! [`read`] takes a document and gives the objects in it (one, or those of a `List`), the kinds
//! that are not used, and diagnostics. What is wrong inside an object stays inside it.

mod key;
mod reading;

pub use key::{Kind, ObjectKey};
pub use reading::{Metadata, NotUsed, Object, Reading, read};
