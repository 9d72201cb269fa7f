//! Tests of the wire part: the corpora (one row per hostile or proper message), properties over
//! arbitrary splits, and the growth of work with size.

mod corpus;
mod exchanges;
mod failures;
mod properties;
mod rewrite;
mod rig;
