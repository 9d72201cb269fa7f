//! The rules of STYLE that a machine can hold: package arrows, file layout, file length.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Lines of one source file without its inline tests: above this it fails.
const LINES_MAX: usize = 600;
/// Above this the module doc gives the reason.
const LINES_WITHOUT_REASON_MAX: usize = 400;

/// `a → b`: a may depend on b. Nothing else may stand in a manifest.
const ARROWS: &[(&str, &[&str])] = &[
    ("outrigger-model", &[]),
    ("outrigger-proto", &["outrigger-model"]),
    ("outrigger-policy", &["outrigger-model"]),
    ("outrigger-compiler", &["outrigger-model"]),
    ("outrigger-ca", &["outrigger-model"]),
    (
        "outrigger-proxy",
        &[
            "outrigger-policy",
            "outrigger-proto",
            "outrigger-redirect",
            "outrigger-model",
        ],
    ),
    ("outrigger-redirect", &["outrigger-model"]),
    (
        "outrigger-controller",
        &[
            "outrigger-compiler",
            "outrigger-ca",
            "outrigger-proto",
            "outrigger-model",
        ],
    ),
    // The one binary carries the sidecar's role and the example's, so that one command shows all.
    (
        "outrigger",
        &[
            "outrigger-controller",
            "outrigger-compiler",
            "outrigger-ca",
            "outrigger-proxy",
            "outrigger-shop",
            "outrigger-model",
            // For its own tests over real processes.
            "outrigger-tests",
        ],
    ),
    ("outrigger-shop", &[]),
    // Knows the mesh from outside alone.
    ("outrigger-e2e", &[]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ has a parent")
        .to_owned()
}

fn metadata() -> serde_json::Value {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

#[test]
fn packages_depend_only_along_the_arrows() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> = ARROWS
        .iter()
        .map(|(from, to)| (*from, to.iter().copied().collect()))
        .collect();
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("name");
        if name == "outrigger-tests" {
            continue;
        }
        let Some(allowed) = allowed.get(name) else {
            wrong.push(format!("{name}: not in the list of arrows"));
            continue;
        };
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        let ours = dependencies
            .iter()
            .filter_map(|dependency| dependency["name"].as_str());
        for dependency in ours.filter(|name| name.starts_with("outrigger")) {
            if !allowed.contains(dependency) {
                wrong.push(format!("{name} → {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that may not be: {wrong:#?}");
}

#[test]
fn versions_stand_in_the_root_manifest_only() {
    let wrong: Vec<String> = manifests()
        .into_iter()
        .flat_map(|path| {
            let text = fs::read_to_string(&path).expect("manifest reads");
            let lines = text.lines().map(str::to_owned).collect::<Vec<_>>();
            lines
                .into_iter()
                .filter(|line| has_version(line))
                .map(move |line| format!("{}: {line}", path.display()))
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "versions outside [workspace.dependencies]: {wrong:#?}"
    );
}

fn has_version(line: &str) -> bool {
    let line = line.trim();
    !line.starts_with('#')
        && !line.starts_with("version.workspace")
        && (line.contains("version = \"")
            || line
                .split_once(" = \"")
                .is_some_and(|(_, value)| value.starts_with(|c: char| c.is_ascii_digit())))
}

fn manifests() -> Vec<PathBuf> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .filter_map(|package| package["manifest_path"].as_str().map(PathBuf::from))
        .collect()
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for manifest in manifests() {
        let folder = manifest.parent().expect("a manifest is in a folder");
        for part in ["src", "tests", "it", "benches"] {
            walk(&folder.join(part), &mut found);
        }
    }
    found.sort();
    found.dedup();
    found
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.map(|entry| entry.expect("folder reads").path()) {
        if entry.is_dir() {
            walk(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// Lines of a file without those of an inline `#[cfg(test)] mod tests { … }`. What stands below
/// one counts, and so does a `mod tests;`.
fn lines_without_tests(text: &str) -> usize {
    let mut lines = text.lines().peekable();
    let mut count = 0;
    while let Some(line) = lines.next() {
        let inline = ["mod tests {", "pub(crate) mod tests {"];
        if line == "#[cfg(test)]" && lines.peek().is_some_and(|next| inline.contains(next)) {
            // rustfmt indents what is inside.
            lines.find(|line| *line == "}");
        } else {
            count += 1;
        }
    }
    count
}

#[test]
fn inline_tests_do_not_count_and_all_else_does() {
    let inline = "fn a() {\n}\n\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\n";
    assert_eq!(lines_without_tests(inline), 3);
    assert_eq!(lines_without_tests(&format!("{inline}fn c() {{}}\n")), 4);
    let beside = "mod a;\n#[cfg(test)]\nmod tests;\n\nfn b() {\n}\n";
    assert_eq!(lines_without_tests(beside), 6);
    let one_item = "#[cfg(test)]\nfn a() {\n}\nfn b() {\n}\n";
    assert_eq!(lines_without_tests(one_item), 5);
}

#[test]
fn modules_are_files_with_a_doc_and_a_bearable_length() {
    let mut wrong = Vec::new();
    for path in sources() {
        let shown = path
            .strip_prefix(root())
            .unwrap_or(&path)
            .display()
            .to_string();
        if path.file_name().is_some_and(|name| name == "mod.rs") {
            wrong.push(format!("{shown}: write foo.rs beside foo/"));
        }
        let text = fs::read_to_string(&path).expect("source reads");
        if !text.starts_with("//!") {
            wrong.push(format!("{shown}: opens without a module doc"));
        }
        let is_test = shown.starts_with("tests/it/")
            || shown.contains("/tests/")
            || shown.ends_with("tests.rs");
        let lines = lines_without_tests(&text);
        let reasoned = text
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .any(|line| line.contains("Longer than most"));
        if !is_test && lines > LINES_MAX {
            wrong.push(format!("{shown}: {lines} lines, at most {LINES_MAX}"));
        } else if !is_test && lines > LINES_WITHOUT_REASON_MAX && !reasoned {
            wrong.push(format!("{shown}: {lines} lines; split it, or say in the module doc `Longer than most, because …`"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
