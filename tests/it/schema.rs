//! The JSON Schema of topologies, in the eyes of an editor's own tool: what `check` takes it takes, and what is wrong in form it
//! points at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use millstream::operators::registry::OPERATORS;
use serde_json::Value as Json;

use crate::examples::topologies;
use crate::support::{Folder, millstream};

/// What Tombi finds in the topologies of a folder: by name of the file, messages with their line.
fn lint(folder: &Folder) -> BTreeMap<String, Vec<String>> {
    folder.write("schema.json", millstream(&["schema"]).expect_code(0).stdout);
    folder.write(
        "tombi.toml",
        "toml-version = \"v1.0.0\"\n[[schemas]]\npath = \"schema.json\"\ninclude = [\"topologies/*.toml\"]\n",
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("scripts/tombi"));
    command.args([
        "lint",
        "topologies",
        "--offline",
        "--diagnostics-format",
        "json",
        "--diagnostics-file",
        "found.json",
    ]);
    let output = command.current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code <= 1), "{said}");
    let found: Json = serde_json::from_str(&folder.read("found.json")).unwrap_or_else(|_| panic!("{said}"));
    let mut findings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for finding in found.as_array().unwrap().iter().filter(|finding| finding["level"] == "error") {
        let file = Path::new(finding["path"].as_str().unwrap()).file_stem().unwrap();
        let line = &finding["range"]["start"]["line"];
        let finding = format!("line {line}: {}", finding["message"].as_str().unwrap());
        findings.entry(file.to_str().unwrap().to_owned()).or_default().push(finding);
    }
    findings
}

#[test]
fn tombi_accepts_all_examples() {
    let folder = Folder::new();
    for (number, file) in topologies().iter().enumerate() {
        folder.write(&format!("topologies/{number}.toml"), std::fs::read_to_string(file).unwrap());
    }
    let new = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/new/topology.toml");
    folder.write("topologies/new.toml", std::fs::read_to_string(new).unwrap());
    assert_eq!(lint(&folder), BTreeMap::new());
}

/// Rules about the form of a file, each mistake against which a schema must see.
const FORM: [&str; 4] = ["M0102", "M0103", "M0104", "M0105"];

/// Rules about the words of a file, some of which a schema knows.
const WORDS: [&str; 8] = ["M0106", "M0108", "M0113", "M0114", "M0121", "M0122", "M0303", "M0502"];

#[test]
fn tombi_and_check_agree_on_what_is_wrong_in_form() {
    let folder = Folder::new();
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/tests/diagnostics");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            // What is not TOML at all says nothing about the schema.
            if name != "many" && !name.starts_with("M0101") && !name.starts_with("M0107") {
                folder.write(&format!("topologies/{name}.toml"), std::fs::read_to_string(&path).unwrap());
                names.push(name);
            }
        }
    }
    let found = lint(&folder);
    let mut surprises = Vec::new();
    for name in names {
        let of_form = FORM.iter().any(|code| name.starts_with(code));
        match found.get(&name) {
            None if of_form => surprises.push(format!("{name}: not seen")),
            Some(found) if !of_form && !WORDS.iter().any(|code| name.starts_with(code)) => {
                surprises.push(format!("{name}: {}", found.join("; ")));
            }
            _ => {}
        }
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

const SOURCES: &str = r#"
[app]
id = "shop"

[sources.payments]
topic = "payments"
key   = { card = "string" }
value = { amount = "float64" }

"#;

/// An operator's example passes; with a key that is not known, without one that must be there, or with another type it does not.
#[test]
fn tombi_knows_the_keys_of_every_operator() {
    let folder = Folder::new();
    let mut wrong = Vec::new();
    for spec in OPERATORS {
        let text = format!("{SOURCES}{}\n", spec.example);
        folder.write(&format!("topologies/{}.toml", spec.name), &text);
        let mut is_wrong = |what: String, text: String| {
            folder.write(&format!("topologies/{what}.toml"), text);
            wrong.push(what);
        };
        is_wrong(format!("{}-unknown", spec.name), format!("{text}unknown_key = 1\n"));
        for field in spec.fields {
            let is_key = |line: &&str| line.split([' ', '.', '=']).next() == Some(field.name);
            if !spec.example.lines().any(|line| is_key(&line)) {
                continue;
            }
            let without: String =
                text.lines().filter(|line| !is_key(line)).map(|line| format!("{line}\n")).collect();
            if field.required {
                is_wrong(format!("{}-without-{}", spec.name, field.name), without.clone());
            }
            let mistyped = format!("{without}{} = 1979-05-27\n", field.name);
            is_wrong(format!("{}-mistyped-{}", spec.name, field.name), mistyped);
        }
    }
    let found = lint(&folder);
    let found: Vec<&String> = found.keys().collect();
    wrong.sort();
    assert_eq!(found, wrong.iter().collect::<Vec<_>>());
}
