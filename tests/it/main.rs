//! One integration binary: the rules of the tree, what pages say of it, routes from YAML to the wire,
//! and pairs of sidecars in one process.

#[cfg(test)]
mod docs;
#[cfg(test)]
mod gateway;
#[cfg(test)]
mod pair;
mod tidy;
