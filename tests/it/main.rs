//! One integration binary: the rules of the tree, and the mesh over real processes.

#[cfg(test)]
mod gateway;
#[cfg(test)]
mod pair;
mod tidy;
