//! The other commands, and what all of them share.

use serde_json::Value as Json;

use crate::support::{Folder, PAYMENTS, command, examples, millstream, payment, run, with_input};

const COMMANDS: [&str; 10] =
    ["check", "test", "pipe", "dev", "new", "describe", "diff", "explain", "schema", "completions"];

#[test]
fn help_has_examples_everywhere() {
    let help = millstream(&["--help"]).expect_code(0).stdout;
    for name in COMMANDS {
        assert!(help.contains(&format!("\n  {name} ")), "{name} is not in\n{help}");
        let help = millstream(&[name, "--help"]).expect_code(0).stdout;
        assert!(help.contains("Example") && help.contains(&format!("millstream {name}")), "{help}");
    }
    millstream(&["--version"]).expect_code(0);
}

#[test]
fn wrong_usage_is_2() {
    millstream(&[]).expect_code(2);
    millstream(&["chek"]).expect_code(2).says(&["check"]);
    millstream(&["check"]).expect_code(2);
    millstream(&["pipe", "t.toml", "--max-batch-rows", "0"]).expect_code(2);
    for name in ["check", "test", "pipe", "describe"] {
        millstream(&[name, "/nowhere/topology.toml"]).expect_code(2).says(&["/nowhere/topology.toml"]);
    }
    let folder = Folder::new();
    let file = folder.write("latin.toml", b"[app]\nid = \"caf\xe9\"\n");
    millstream(&["check", &file]).expect_code(2).says(&["line 2 is not UTF-8"]);
}

#[test]
fn check_points_at_mistakes() {
    let folder = Folder::new();
    let good = folder.write("good.toml", PAYMENTS);
    let bad = folder.write(
        "bad.toml",
        PAYMENTS.replace("amount >= 100", "amont >= 100").replace("op    = \"filter\"", "op = \"filtre\""),
    );
    millstream(&["check", &good]).expect_code(0);
    let ran = millstream(&["check", &good, &bad]).expect_code(2).says(&[
        "M0303",
        "did you mean `filter`?",
        "bad.toml:",
    ]);
    assert!(ran.stdout.contains("good.toml: ok, 1 source, 3 steps, 3 sinks"), "{}", ran.stdout);
    assert!(!ran.stderr.contains('\u{1b}'), "no colours without a terminal");
    // As JSON on stdout, and nothing else there.
    let bad = folder.write("bad.toml", PAYMENTS.replace("amount >= 100", "amont >= 100"));
    let ran = millstream(&["check", "--format", "json", &bad]).expect_code(2);
    let findings = ran.lines();
    assert_eq!(findings.len(), 1, "{findings:?}");
    let finding = &findings[0];
    assert_eq!((finding["code"].as_str(), finding["severity"].as_str()), (Some("M0402"), Some("error")));
    assert_eq!((finding["line"].as_u64(), finding["column"].as_u64()), (Some(14), Some(10)));
}

#[test]
fn warnings_fail_if_they_are_denied() {
    let folder = Folder::new();
    let text = PAYMENTS.replace("[sinks.large_payments]\nfrom = \"large\"\n", "");
    let file = folder.write("topology.toml", &text[..text.find("[[tests]]").unwrap()]);
    let ran = millstream(&["check", &file]).expect_code(0).says(&["M0306", "warning"]);
    assert!(ran.stdout.contains("1 warning"), "{}", ran.stdout);
    millstream(&["check", "--deny-warnings", &file]).expect_code(2);
}

#[test]
fn a_test_that_fails_shows_the_difference_and_reports_it() {
    let folder = Folder::new();
    let file = folder.write("topology.toml", PAYMENTS.replace("amount = 99.0", "amount = 999.0"));
    let report = folder.at("report.xml");
    let ran = millstream(&["test", &file, "--report", &report]).expect_code(1);
    for part in ["FAILED", "large payments pass", "2 rows, expected 1", "999", "0 tests passed, 1 failed"] {
        assert!(ran.stdout.contains(part), "`{part}` is not in\n{}", ran.stdout);
    }
    let xml = folder.read("report.xml");
    assert!(xml.contains("tests=\"1\" failures=\"1\"") && xml.contains("<failure message=\""), "{xml}");
    assert!(!xml.contains("<failure message=\"\""), "{xml}");
}

#[test]
fn a_test_that_fails_shows_what_was_set_aside() {
    let folder = Folder::new();
    let text = std::fs::read_to_string(examples().join("dead-letters/topology.toml")).unwrap();
    // Each of these makes one test fail, and this is what is said about it.
    for (from, to, said) in [
        (
            "value-bytes = \"eyJhdCI6IDAsICJjZW50cw==\" }]\nexpect",
            "value = { at = 0, pieces = 3 } }]\nexpect",
            vec!["`received` gave 1 rows, expected 0", "row 1 of `deliveries.dead-letter`: no such row"],
        ),
        (
            "none   = [\"prices\", \"weights\", \"received\", \"unit_price.dead-letter\"]",
            "none   = [\"prices\", \"weights\", \"received\"]\npartial = true",
            vec!["0 failed"],
        ),
        (
            "value = { pieces = 3 }, code = \"M0803\"",
            "value = { pieces = 4 }, code = \"M0803\"",
            vec![
                "row 1 of `deliveries.dead-letter`: expected pieces = 4, found 3",
                "1: M0803 \"the event time is null: column `at` needs a timestamp\" key {\"delivery\":\"d1\"} {\"at\":null,",
                "records that were set aside:",
                "dead letter: error[M0803] in `deliveries`, record deliveries/0 offset 0: the event time is null",
            ],
        ),
        (
            "message = \"division by zero\"",
            "message = \"overflow\"",
            vec![
                "expected a message with \"overflow\", found \"in `cents / pieces`: division by zero\"",
                "dead letter: error[M0804] in `unit_price`",
                "skipped: error[M0804] in `weight_of_one`",
            ],
        ),
        (
            "code = \"M0801\" }]\nnone   = [\"prices\", ",
            "code = \"M0802\" }]\nnone   = [\"prices\", ",
            vec!["expected M0802, found M0801: ", "key-bytes ZDE= value-bytes eyJhdCI6IDAsICJjZW50cw=="],
        ),
    ] {
        assert!(text.contains(from), "{from}");
        let file = folder.write("topology.toml", text.replacen(from, to, 1));
        let ran = millstream(&["test", &file]);
        let failed = usize::from(!said.contains(&"0 failed"));
        for part in said.iter().chain([&format!("{failed} failed").as_str()]) {
            assert!(ran.stdout.contains(part), "`{part}` is not in\n{}{}", ran.stdout, ran.stderr);
        }
    }
}

/// Only those who run tests read them.
#[test]
fn a_test_that_no_longer_fits_is_reported_where_tests_are_meant() {
    let folder = Folder::new();
    let file = folder.write("topology.toml", PAYMENTS.replace("amount = 99.0", "amoun = 99.0"));
    for command in ["check", "test"] {
        millstream(&[command, &file]).expect_code(2).says(&["error[M0208]", "`amoun`"]);
    }
    assert_eq!(millstream(&["describe", &file]).expect_code(0).stderr, "");
    assert_eq!(with_input(&["pipe", &file], &payment("c1", 0, 1.0)).expect_code(0).stderr, "");
}

#[test]
fn the_log_tells_epochs_commits_and_restarts() {
    let folder = Folder::new();
    let file = folder.write("topology.toml", PAYMENTS);
    let input = format!("{}{{\"restart\": true}}\n", payment("c1", 0, 120.0));
    let ran = |level: Option<&str>| {
        let mut command = command(&["pipe", &file]);
        command.env("NO_COLOR", "1").envs(level.map(|level| ("MILLSTREAM_LOG", level)));
        run(command, input.as_bytes()).expect_code(0)
    };
    let quiet = ran(None);
    assert_eq!(quiet.stderr, "");
    let debug = ran(Some("debug"));
    assert_eq!(debug.stdout, quiet.stdout);
    debug.says(&[
        "epoch task=\"payments-0\" records=1 out=2 errors=0",
        "commit task=\"payments-0\" changes=2",
        "restart",
        "store restored",
    ]);
}

#[test]
fn describe_names_what_will_run() {
    let file = examples().join("explode-merge-rekey/topology.toml");
    let file = file.to_str().unwrap();
    let ran = millstream(&["describe", file, "--format", "json", "--partitions", "4"]).expect_code(0);
    let plan: Json = serde_json::from_str(&ran.stdout).unwrap();
    let topics = plan["internal_topics"].as_array().unwrap();
    assert!(
        topics.iter().any(|topic| topic["kind"] == "repartition" && topic["partitions"] == 4),
        "{plan:#}"
    );
    assert!(topics.iter().any(|topic| topic["kind"] == "changelog"), "{plan:#}");
    for sub in plan["sub_topologies"].as_array().unwrap() {
        assert_eq!(sub["tasks"].as_array().unwrap().len(), 4);
    }
    let dot = millstream(&["describe", file, "--format", "dot"]).expect_code(0).stdout;
    assert!(dot.starts_with("digraph") && dot.contains(" -> "), "{dot}");
    let mermaid = millstream(&["describe", file, "--format", "mermaid"]).expect_code(0).stdout;
    assert!(mermaid.starts_with("flowchart") && mermaid.contains(" --> "), "{mermaid}");
}

#[test]
fn describe_shows_windows_stores_and_internal_topics_in_every_form() {
    let folder = Folder::new();
    let text = PAYMENTS.replace("\"per_card\"", "\"per_country\"").replace(
        "[steps.per_card]\nop      = \"aggregate\"",
        "[steps.per_country]\nop = \"aggregate\"\ngroup-by = [\"amount\"]\non-error = \"dead-letter\"",
    );
    let file = folder.write("topology.toml", text);
    for format in ["text", "json", "dot", "mermaid"] {
        let shown = millstream(&["describe", &file, "--format", format]).expect_code(0).stdout;
        for part in ["tumbling 1m", "per_minute", "key-value", "cards-per_country-repartition", "dead-letter"]
        {
            assert!(shown.contains(part), "`{part}` is not in\n{shown}");
        }
        // How long a window is kept, by the store and by its changelog; and what every internal topic is made with.
        let (kept, settings) = match format {
            "json" => (
                "\"retention\": 60000",
                [
                    "\"cleanup.policy\": \"compact,delete\"",
                    "\"retention.ms\": \"604800000\"",
                    "\"retention.ms\": \"-1\"",
                ],
            ),
            _ => (
                "window, kept 1m",
                ["cleanup.policy=compact,delete", "retention.ms=604800000", "retention.ms=-1"],
            ),
        };
        for part in settings.into_iter().chain([kept]) {
            assert!(shown.contains(part), "`{part}` is not in\n{shown}");
        }
    }
}

#[test]
fn explain_knows_codes_operators_and_tables() {
    for (what, part) in
        [("M0402", "# M0402"), ("m0402", "# M0402"), ("aggregate", "## aggregate"), ("sources", "`on-error`")]
    {
        let ran = millstream(&["explain", what]).expect_code(0);
        assert!(ran.stdout.contains(part), "{}", ran.stdout);
    }
    millstream(&["explain", "agregate"]).expect_code(2).says(&["did you mean `aggregate`?"]);
    let list = millstream(&["explain"]).expect_code(0).stdout;
    assert!(list.contains("M0905") && list.contains("features"), "{list}");
    let json = millstream(&["explain", "--format", "json"]).expect_code(0).lines();
    assert!(json.iter().any(|line| line["name"] == "M0402" && line["kind"] == "error"));
}

#[test]
fn schema_and_completions_are_printed() {
    let schema: Json = serde_json::from_str(&millstream(&["schema"]).expect_code(0).stdout).unwrap();
    assert!(
        schema["properties"]["steps"]["patternProperties"]["^[a-z][a-z0-9_]*$"]["oneOf"]
            .as_array()
            .unwrap()
            .len()
            > 5
    );
    for shell in ["bash", "zsh", "fish"] {
        assert!(millstream(&["completions", shell]).expect_code(0).stdout.contains("millstream"));
    }
}

#[test]
fn a_new_folder_passes_its_tests_and_runs() {
    let folder = Folder::new();
    let new = |name: &str| {
        let mut command = command(&["new", name]);
        command.current_dir(folder.path());
        run(command, b"")
    };
    new("shop").expect_code(0);
    let file = folder.at("shop/topology.toml");
    let ran = millstream(&["check", "--deny-warnings", &file]).expect_code(0);
    assert_eq!(ran.stderr, "");
    millstream(&["test", &file]).expect_code(0);
    millstream(&["test", "--restart", &file]).expect_code(0);
    let (feed, out) = (format!("payments={}", folder.at("shop/payments.csv")), folder.at("out"));
    let ran = millstream(&["dev", &file, "--feed", &feed, "--out", &out, "--until-end"]).expect_code(0);
    assert!(ran.stdout.contains("shop done: 200 records"), "{}", ran.stdout);
    assert!(!folder.read("out/shop-large-payments.jsonl").is_empty());
    assert!(!folder.read("out/shop-country-minutes.jsonl").is_empty());

    folder.write("shop/topology.toml", "mine");
    new("shop").expect_code(3).says(&["overwritten"]);
    assert_eq!(folder.read("shop/topology.toml"), "mine");
    new("a b").expect_code(2);
    new("../up").expect_code(2);
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    for arguments in [&["schema"][..], &["explain"], &["completions", "bash"]] {
        let mut child = command(arguments).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        assert_eq!(output.status.code(), Some(0));
    }
}
