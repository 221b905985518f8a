//! Every example is checked, and its tests pass, with restarts too.

use std::path::PathBuf;

use crate::support::{Folder, examples, millstream};

/// All of them.
pub fn topologies() -> Vec<PathBuf> {
    let inside = |folder: PathBuf| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    // Nexmark has a file for each of its queries.
    let queries =
        inside(examples().join("nexmark")).filter(|file| file.extension().is_some_and(|end| end == "toml"));
    let topologies =
        inside(examples()).map(|folder| folder.join("topology.toml")).filter(|file| file.exists());
    let mut files: Vec<PathBuf> = topologies.chain(queries).collect();
    files.sort();
    assert!(files.len() > 25, "{files:?}");
    files
}

#[test]
fn examples_are_without_findings() {
    for file in topologies() {
        let ran = millstream(&["check", "--deny-warnings", file.to_str().unwrap()]).expect_code(0);
        assert!(ran.stdout.contains(": ok, "), "{}", ran.stdout);
        assert_eq!(ran.stderr, "");
    }
}

#[test]
fn tests_of_examples_pass() {
    for file in topologies() {
        let ran = millstream(&["test", file.to_str().unwrap()]).expect_code(0);
        assert!(ran.stdout.lines().count() > 1 && ran.stdout.ends_with(" 0 failed\n"), "{}", ran.stdout);
    }
}

#[test]
fn tests_of_examples_pass_with_restarts() {
    for file in topologies() {
        millstream(&["test", "--restart", file.to_str().unwrap()]).expect_code(0);
    }
}

#[test]
fn examples_can_be_described_in_every_form() {
    for file in topologies() {
        for format in ["text", "json", "dot", "mermaid"] {
            let ran =
                millstream(&["describe", file.to_str().unwrap(), "--format", format, "--partitions", "3"])
                    .expect_code(0);
            assert!(ran.stdout.contains("3 tasks") || format == "json", "{}", ran.stdout);
        }
    }
}

#[test]
fn the_topology_of_the_readme_is_right() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let toml = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = Folder::new();
    let file = folder.write("topology.toml", toml);
    let ran = millstream(&["check", "--deny-warnings", &file]).expect_code(0);
    assert_eq!(ran.stderr, "");
    millstream(&["test", &file]).expect_code(0);
}
