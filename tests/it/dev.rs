//! `dev`, on small files.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::support::{Folder, PAYMENTS, Ran, command, millstream, run};

/// A folder with the topology and `rows` payments of one card each 10 seconds.
fn folder(rows: usize) -> Folder {
    let folder = Folder::new();
    folder.write("topology.toml", PAYMENTS);
    let mut csv = "card,at,amount\n".to_owned();
    for row in 0..rows {
        let _ = writeln!(csv, "c{},{},{}", row % 3, 1_767_225_600_000_i64 + row as i64 * 10_000, row * 10);
    }
    folder.write("payments.csv", csv);
    folder
}

fn dev(folder: &Folder, flags: &[&str]) -> Ran {
    let (file, feed, out) =
        (folder.at("topology.toml"), format!("payments={}", folder.at("payments.csv")), folder.at("out"));
    let mut arguments = vec!["dev", &file, "--feed", &feed, "--out", &out];
    arguments.extend(flags);
    millstream(&arguments)
}

fn lines(folder: &Folder, topic: &str) -> Vec<Json> {
    folder
        .read(&format!("out/{topic}.jsonl"))
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_file_goes_through_and_the_account_adds_up() {
    let folder = folder(30);
    let ran = dev(&folder, &[]).expect_code(0);
    assert_eq!(ran.stderr, "");
    for part in [
        "cards done: 30 records",
        "event time 2026-01-01 00:00:00 to 2026-01-01 00:04:50 UTC",
        "What each card has spent",
        "cards.jsonl",
    ] {
        assert!(ran.stdout.contains(part), "`{part}` is not in\n{}", ran.stdout);
    }
    let row = |name: &str| {
        let line = ran.stdout.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("payments ")[..2], ["payments", "30"]);
    assert_eq!(row("large ")[..3], ["large", "30", "20"]);
    assert_eq!(row("  c2"), ["c2", "10", "1550.0"]);
    assert_eq!(lines(&folder, "large_payments").len(), 20);
    // The last minute is open.
    assert_eq!(lines(&folder, "minutes").len(), 4 * 3);
    let ran = dev(&folder, &["--until-end"]).expect_code(0);
    assert_eq!(lines(&folder, "minutes").len(), 5 * 3, "{}", ran.stdout);
}

#[test]
fn batches_partitions_and_state_on_disk_change_no_result() {
    let folder = folder(60);
    dev(&folder, &["--until-end"]).expect_code(0);
    let all = |topic: &str| lines(&folder, topic).iter().map(without_partition).collect::<BTreeSet<_>>();
    let (large, minutes) = (all("large_payments"), all("minutes"));
    let state = folder.at("state");
    for flags in [
        vec!["--max-batch-rows", "1"],
        vec!["--partitions", "4"],
        vec!["--state-dir", &state],
        vec!["--state-dir", &state, "--partitions", "2", "--commit-every", "1ms"],
    ] {
        dev(&folder, &[&flags[..], &["--until-end"]].concat()).expect_code(0);
        assert_eq!(all("large_payments"), large, "{flags:?}");
        assert_eq!(all("minutes"), minutes, "{flags:?}");
    }
}

fn without_partition(line: &Json) -> String {
    let mut line = line.clone();
    line.as_object_mut().unwrap().remove("partition");
    line.to_string()
}

#[test]
fn settings_come_from_flag_then_environment_then_file() {
    let folder = folder(3);
    folder.write("topology.toml", format!("{PAYMENTS}\n[runtime]\nmax-batch-rows = 1000\n"));
    let updates = |flags: &[&str], variable: Option<&str>| {
        let (file, feed, out) =
            (folder.at("topology.toml"), format!("payments={}", folder.at("payments.csv")), folder.at("out"));
        folder.write("payments.csv", "card,at,amount\nc,1,1\nc,2,1\nc,3,1\nc,4,1\n");
        let mut command = command(&["dev", &file, "--feed", &feed, "--out", &out]);
        command.args(flags);
        if let Some(rows) = variable {
            command.env("MILLSTREAM_MAX_BATCH_ROWS", rows);
        }
        run(command, b"").expect_code(0);
        // Changes of one key within a batch are folded before a table sink.
        lines(&folder, "cards").len()
    };
    assert_eq!(updates(&[], None), 1);
    assert_eq!(updates(&[], Some("2")), 2);
    assert_eq!(updates(&["--max-batch-rows", "1"], Some("2")), 4);
}

#[test]
fn a_record_that_fails_stops_the_run_and_what_came_before_it_is_kept() {
    let folder = Folder::new();
    let topology = PAYMENTS.replace("amount >= 100", "100 / cast(amount as bigint) < 2");
    folder.write("topology.toml", topology);
    folder.write("payments.csv", "card,at,amount\nc1,1000,100\nc1,2000,0\nc1,3000,100\n");
    let ran = dev(&folder, &[]).expect_code(1).says(&[
        "error[M0804]",
        "`large`",
        "on-error",
        "millstream explain M0804",
    ]);
    assert!(ran.stdout.contains("cards done: 3 records"), "{}", ran.stdout);
    assert_eq!(lines(&folder, "large_payments").len(), 1);
}

#[test]
fn a_broken_file_is_named_with_its_line() {
    let folder = folder(1);
    folder.write("payments.csv", "card,at,amount\nc1,1000,1\nc1,2000,much\n");
    dev(&folder, &[]).expect_code(1).says(&["error[M0904]", "payments.csv, line 3, column `amount`"]);
    assert_eq!(lines(&folder, "cards").len(), 1, "the record before it counts");
    folder.write("payments.csv", "card,amount\nc1,1\n");
    dev(&folder, &[]).expect_code(1).says(&["error[M0904]", "lacks the column `at`"]);
}

#[test]
fn usage_is_checked_before_anything_is_written() {
    let folder = folder(1);
    let file = folder.at("topology.toml");
    let feed = format!("payment={}", folder.at("payments.csv"));
    millstream(&["dev", &file, "--feed", &feed]).expect_code(2).says(&["did you mean `payments`?"]);
    millstream(&["dev", &file]).expect_code(2).says(&["--feed payments=FILE"]);
    millstream(&["dev", &file, "--feed", "payments"]).expect_code(2).says(&["payments=payments.csv"]);
    millstream(&["dev", &file, "--feed", "payments=x.csv", "--speed", "0"]).expect_code(2).says(&["above 0"]);
    assert!(!folder.path().join("out").exists());
}

#[test]
fn state_that_is_not_this_topologys_is_refused_and_left_as_it_was() {
    let folder = folder(10);
    let state = folder.at("state");
    dev(&folder, &["--state-dir", &state]).expect_code(0);
    // A run of the same topology begins anew.
    dev(&folder, &["--state-dir", &state]).expect_code(0);

    folder.write("topology.toml", PAYMENTS.replace("sum(amount)", "max(amount)"));
    dev(&folder, &["--state-dir", &state]).expect_code(3).says(&[
        "error[M0902]",
        "per_card",
        "would lose data",
    ]);

    folder.write("topology.toml", PAYMENTS);
    folder.write("other/cards/notes.txt", "mine");
    dev(&folder, &["--state-dir", &folder.at("other")])
        .expect_code(3)
        .says(&["error[M0902]", "would lose data"]);
    assert_eq!(folder.read("other/cards/notes.txt"), "mine");

    let lock = std::fs::File::open(folder.path().join("state/cards/LOCK")).unwrap();
    lock.lock().unwrap();
    dev(&folder, &["--state-dir", &state]).expect_code(3).says(&["error[M0901]", "in use"]);
    lock.unlock().unwrap();
    dev(&folder, &["--state-dir", &state]).expect_code(0);
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_run_with_an_account() {
    let folder = folder(100);
    let (file, feed, out) =
        (folder.at("topology.toml"), format!("payments={}", folder.at("payments.csv")), folder.at("out"));
    // The second record is due after ten seconds, a hundred seconds at this speed.
    let child = command(&["dev", &file, "--feed", &feed, "--out", &out, "--speed", "0.1"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while std::fs::read_to_string(folder.path().join("out/cards.jsonl")).unwrap_or_default().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing was written");
        std::thread::sleep(Duration::from_millis(20));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.contains("cards interrupted after 1 records"), "{stdout}");
    assert_eq!(lines(&folder, "cards").len(), 1);
}
