//! The binary under test.

use std::{path::Path, process::Output};

use outrigger_tests::{Folder, Mesh};

const BINARY: &str = env!("CARGO_BIN_EXE_outrigger");

/// Starts `outrigger up` on a folder.
pub(crate) fn up(folder: &Folder, arguments: &[&str]) -> Mesh {
    Mesh::launch(Path::new(BINARY), folder, arguments).unwrap()
}

/// Runs `outrigger up` on a folder to its end.
pub(crate) fn run(folder: &Folder, arguments: &[&str]) -> Output {
    folder.up(Path::new(BINARY), arguments).output().unwrap()
}
