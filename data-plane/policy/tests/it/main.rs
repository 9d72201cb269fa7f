//! Model-based tests of the decisions: seeded random events against naive references, through the
//! public interface alone.

#[cfg(test)]
mod outlier;
