//! The example `flights` on its data: what its README says comes out, and batches and partitions do not change it.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value as Json;

use crate::support::{Folder, Ran, examples, millstream};

const SOURCES: [&str; 4] = ["departures", "arrivals", "weather", "planes"];

/// Runs the example on files of a folder, to the end of all windows.
fn dev(folder: &str, ending: &str, out: &Folder, flags: &[&str]) -> Ran {
    let topology = examples().join("flights/topology.toml").to_str().unwrap().to_owned();
    let feeds = SOURCES.map(|source| format!("{source}={folder}/{source}{ending}"));
    let mut arguments = vec!["dev", &topology, "--until-end", "--out", out.path().to_str().unwrap()];
    arguments.extend(feeds.iter().flat_map(|feed| ["--feed", feed]));
    arguments.extend(flags);
    millstream(&arguments).expect_code(0)
}

/// The last rows of the tables.
fn tables(ran: &Ran) -> &str {
    let tables = ran.stdout.split_once("\nFlights called late").unwrap().1;
    tables.split_once("\nThe records are in").unwrap().0
}

#[test]
fn the_readme_shows_what_comes_out() {
    let example = examples().join("flights");
    let data = example.join("data").to_str().unwrap().to_owned();
    let out = Folder::new();
    let ran = dev(&data, ".csv.gz", &out, &[]);
    let readme = std::fs::read_to_string(example.join("README.md")).unwrap();
    let shown = readme.split("```\n").find(|block| block.contains("Flights called late")).unwrap();
    assert!(shown.lines().count() > 30);
    let mut lines = ran.stdout.lines();
    for line in shown.lines().filter(|line| *line != "  …") {
        assert!(
            lines.any(|found| found == line),
            "`{line}` is not there, or not there in the README's order"
        );
    }

    let four = dev(&data, ".csv.gz", &out, &["--partitions", "4"]);
    assert_eq!(tables(&four), tables(&ran));
}

#[test]
fn going_back_to_the_model_before_is_one_line() {
    let example = examples().join("flights");
    let text = std::fs::read_to_string(example.join("topology.toml")).unwrap();
    let text = text.replace("models/late", example.join("models/late").to_str().unwrap());
    let folder = Folder::new();
    let new = folder.write("new.toml", &text);
    let old = folder.write("old.toml", text.replace("version = \"2\"", "version = \"1\""));
    for (file, version) in [(&new, "model late 2;"), (&old, "model late 1;")] {
        let ran = millstream(&["describe", file]).expect_code(0);
        assert!(ran.stdout.contains(version), "{}", ran.stdout);
    }
    let ran = millstream(&["diff", &new, &old]).expect_code(0);
    assert!(ran.stdout.contains("Processes can be replaced one after the other."), "{}", ran.stdout);
}

#[test]
fn batches_change_no_flight() {
    let data = Folder::new();
    for (source, rows) in SOURCES.into_iter().zip([1_500, 1_400, usize::MAX, usize::MAX]) {
        let file = examples().join("flights/data").join(format!("{source}.csv.gz"));
        let unpacked = Command::new("gzip").arg("-dc").arg(file).output().unwrap();
        let text = String::from_utf8(unpacked.stdout).unwrap();
        let lines: Vec<&str> = text.lines().take(rows.saturating_add(1)).collect();
        data.write(&format!("{source}.csv"), lines.join("\n") + "\n");
    }
    let folder = data.path().to_str().unwrap();
    let (one, many) = (Folder::new(), Folder::new());
    let ran = [dev(folder, ".csv", &one, &["--max-batch-rows", "1"]), dev(folder, ".csv", &many, &[])];
    assert_eq!(tables(&ran[0]), tables(&ran[1]));
    for stream in ["flight-predictions", "flight-features", "flight-days"] {
        let file = format!("{stream}.jsonl");
        assert_eq!(one.read(&file), many.read(&file), "{stream}");
    }
    for table in ["flight-tally", "flight-hours", "flight-calibration", "flight-latest"] {
        let newest = |folder: &Folder| {
            let text = folder.read(&format!("{table}.jsonl"));
            let rows = text.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
            rows.map(|row| (row["key"].to_string(), row)).collect::<BTreeMap<_, _>>()
        };
        assert!(newest(&one).len() >= 3, "{table}");
        assert_eq!(newest(&one), newest(&many), "{table}");
    }
}
