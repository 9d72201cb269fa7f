//! One integration binary: the rules of the tree, and the mesh over real processes.

#[cfg(test)]
mod pair;
mod tidy;
