//! What pages say of the tree is there: files, tests, constants.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("tests/ has a parent").to_owned()
}

/// Every file and folder of the tree, as its path from the root.
fn tree() -> Vec<String> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).expect("folder reads") {
            let path = entry.expect("folder reads").path();
            let own = path.strip_prefix(root).expect("below the root");
            if ["target", ".git"]
                .iter()
                .any(|other| own == Path::new(other))
            {
                continue;
            }
            found.push(own.to_str().expect("names are text").to_owned());
            if path.is_dir() {
                walk(&path, root, found);
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between backticks on one line.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().filter(|line| !line.starts_with("```"));
    lines.flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Words of every Rust source: names of functions, constants, fields.
fn words(tree: &[String]) -> BTreeSet<String> {
    let sources = tree.iter().filter(|path| path.ends_with(".rs"));
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    sources
        .flat_map(|path| {
            let text = read(path);
            let words = text.split(|c| !is_part(c)).map(str::to_owned);
            words.collect::<Vec<_>>()
        })
        .collect()
}

fn is_name(word: &str) -> bool {
    word.contains('_') && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[test]
fn tests_and_constants_of_the_limits_are_there() {
    let words = words(&tree());
    let page = read("docs/limits.md");
    // Reasons of HTTP/2 and gRPC are no names of ours.
    let theirs = ["ENHANCE_YOUR_CALM", "RESOURCE_EXHAUSTED", "WINDOW_UPDATE"];
    let named: Vec<&str> = quoted(&page)
        .filter(|word| is_name(word) && !theirs.contains(word))
        .collect();
    assert!(named.len() > 50, "the page is read: {}", named.len());
    let missing: Vec<&&str> = named
        .iter()
        .filter(|name| !words.contains(**name))
        .collect();
    assert!(missing.is_empty(), "docs/limits.md names {missing:?}");
}

#[test]
fn files_of_the_codemap_are_there() {
    let tree = tree();
    let page = read("ARCHITECTURE.md");
    let is_path = |word: &&str| {
        (word.ends_with(".rs") || word.contains('/'))
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "./_-".contains(c))
    };
    let named: Vec<&str> = quoted(&page).filter(is_path).collect();
    assert!(named.len() > 50, "the page is read: {}", named.len());
    let is_there = |word: &str| {
        let word = word.trim_end_matches('/');
        tree.iter().any(|path| {
            let rest = path.strip_suffix(word);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
        })
    };
    let missing: Vec<_> = named.iter().filter(|word| !is_there(word)).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names {missing:?}");
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    let tree = tree();
    for page in tree.iter().filter(|path| path.ends_with(".md")) {
        let text = read(page);
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            let beside = root().join(page).with_file_name(target);
            if !target.is_empty() && !target.contains("://") && !beside.exists() {
                wrong.push(format!("{page}: {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
