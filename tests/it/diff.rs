//! What `diff` says of a change, and that a topology that takes the place of another does just that.

use serde_json::Value as Json;

use crate::support::{Folder, Ran, millstream};

/// A store of each kind, and a repartition topic.
pub const OLD: &str = r#"
[app]
id = "cards"

[sources.payments]
topic = "payments"
key   = { card = "string" }
value = { at = "timestamp", amount = "float64", country = "string" }
time  = "at"

[sources.returns]
topic = "returns"
key   = { card = "string" }
value = { at = "timestamp", amount = "float64" }
time  = "at"

[steps.per_card]
op      = "aggregate"
from    = "payments"
columns = { payments = "count(*)" }

[steps.per_minute]
op      = "aggregate"
from    = "payments"
window  = { tumbling = "1m" }
columns = { payments = "count(*)" }

[steps.per_country]
op       = "aggregate"
from     = "payments"
group-by = ["country"]
columns  = { payments = "count(*)" }

[steps.returned]
op      = "aggregate"
from    = "returns"
columns = { returns = "count(*)" }

[sinks.cards]
from = "per_card"

[sinks.minutes]
from = "per_minute"

[sinks.countries]
from = "per_country"

[sinks.returned_cards]
from = "returned"
"#;

/// Both topologies in a folder, the second made from the first.
fn changed(changes: &[(&str, &str)]) -> Folder {
    let folder = Folder::new();
    let mut new = OLD.to_owned();
    for (from, to) in changes {
        assert!(new.contains(from), "{from}");
        new = new.replace(from, to);
    }
    folder.write("old.toml", OLD);
    folder.write("new.toml", new);
    folder
}

fn diff(folder: &Folder, more: &[&str]) -> Ran {
    let (old, new) = (folder.at("old.toml"), folder.at("new.toml"));
    millstream(&[&["diff", &old, &new][..], more].concat())
}

/// What `diff` must say of a change.
struct Case {
    changes: &'static [(&'static str, &'static str)],
    code: i32,
    rolling: bool,
    /// List, name, and what becomes of it; all others are kept.
    becomes: &'static [(&'static str, &'static str, &'static str)],
    /// Effect, code, subject, and words of the message.
    findings: &'static [(&'static str, &'static str, &'static str, &'static str)],
}

const CASES: &[Case] = &[
    Case { changes: &[], code: 0, rolling: true, becomes: &[], findings: &[] },
    // What is not in the fingerprint.
    Case {
        changes: &[("window  = { tumbling = \"1m\" }", "window  = { tumbling = \"1m\" }\ngrace = \"10s\"")],
        code: 0,
        rolling: true,
        becomes: &[],
        findings: &[],
    },
    Case {
        changes: &[("window  = { tumbling = \"1m\" }", "window  = { tumbling = \"1m\" }\ngrace = \"7d\"")],
        code: 3,
        rolling: false,
        becomes: &[("internal_topics", "cards-per_minute-changelog", "changed")],
        findings: &[("refused", "M0912", "topic cards-per_minute-changelog", "retention.ms = 604800000")],
    },
    Case {
        changes: &[("tumbling = \"1m\"", "tumbling = \"5m\"")],
        code: 3,
        rolling: false,
        becomes: &[
            ("stores", "per_minute", "incompatible"),
            ("internal_topics", "cards-per_minute-changelog", "incompatible"),
        ],
        findings: &[("refused", "M0902", "store per_minute", "window was tumbling 1m, it is tumbling 5m")],
    },
    Case {
        changes: &[("per_card", "by_card")],
        code: 3,
        rolling: false,
        becomes: &[
            ("stores", "by_card", "new"),
            ("stores", "per_card", "orphaned"),
            ("internal_topics", "cards-by_card-changelog", "new"),
            ("internal_topics", "cards-per_card-changelog", "orphaned"),
        ],
        findings: &[
            ("lost", "", "store per_card", "left behind"),
            ("note", "", "store by_card", "`payments` is read on from where the old topology stopped"),
        ],
    },
    Case {
        changes: &[("group-by = [\"country\"]", "group-by = [\"country\", \"amount\"]")],
        code: 3,
        rolling: false,
        becomes: &[
            ("stores", "per_country", "incompatible"),
            ("internal_topics", "cards-per_country-repartition", "incompatible"),
            ("internal_topics", "cards-per_country-changelog", "incompatible"),
            ("sinks", "countries", "changed"),
        ],
        findings: &[
            ("refused", "M0902", "store per_country", "would be misread"),
            ("lost", "", "topic cards-per_country-repartition", "other columns"),
            ("note", "", "sink countries", "written otherwise"),
        ],
    },
    Case {
        changes: &[("id = \"cards\"", "id = \"shop\"")],
        code: 3,
        rolling: false,
        becomes: &[
            ("stores", "*", "*"),
            ("internal_topics", "*", "*"),
            ("sub_topologies", "*", "*"),
            ("sources", "*", "new"),
        ],
        findings: &[("lost", "", "app.id", "it was `cards`, it is `shop`")],
    },
    Case {
        changes: &[("id = \"cards\"", "id = \"cards\"\nguarantee = \"at-least-once\"")],
        code: 0,
        rolling: false,
        becomes: &[],
        findings: &[("note", "", "app.guarantee", "a crash repeats")],
    },
    // The step meets rows of both sources now: two sub-topologies become one.
    Case {
        changes: &[(
            "[steps.returned]\nop      = \"aggregate\"\nfrom    = \"returns\"",
            "[steps.amounts]\nop = \"select\"\nfrom = \"payments\"\ncolumns = { at = \"at\", amount = \"amount\" }\n\n\
             [steps.both]\nop = \"merge\"\nfrom = [\"amounts\", \"returns\"]\n\n\
             [steps.returned]\nop      = \"aggregate\"\nfrom    = \"both\"",
        )],
        code: 0,
        rolling: false,
        becomes: &[("sub_topologies", "payments", "merged"), ("sub_topologies", "returns", "*")],
        findings: &[("note", "", "sub-topology payments", "`returned` were in sub-topology `returns`")],
    },
    // A source that comes first in the alphabet gives its name to the sub-topology.
    Case {
        changes: &[
            ("[sources.payments]", "[sources.all_payments]"),
            ("from    = \"payments\"", "from    = \"all_payments\""),
            ("from     = \"payments\"", "from     = \"all_payments\""),
        ],
        code: 0,
        rolling: false,
        becomes: &[("sub_topologies", "all_payments", "renamed"), ("sources", "all_payments", "renamed")],
        findings: &[("note", "", "sub-topology all_payments", "restored from their changelogs")],
    },
    // The state of a step says nothing about another topic.
    Case {
        changes: &[("topic = \"returns\"", "topic = \"refunds\"")],
        code: 3,
        rolling: false,
        becomes: &[("sub_topologies", "returns", "*"), ("sources", "returns", "changed")],
        findings: &[
            ("refused", "M0951", "store returned", "no offset is committed"),
            ("note", "", "source returns", "it reads `refunds` instead of `returns`, from earliest"),
        ],
    },
    Case {
        changes: &[
            (
                "[steps.returned]\nop      = \"aggregate\"\nfrom    = \"returns\"\ncolumns = { returns = \"count(*)\" }\n",
                "",
            ),
            ("[sinks.returned_cards]\nfrom = \"returned\"", "[sinks.returned_cards]\nfrom = \"returns\""),
        ],
        code: 3,
        rolling: false,
        becomes: &[
            ("stores", "returned", "orphaned"),
            ("internal_topics", "cards-returned-changelog", "orphaned"),
            ("sinks", "returned_cards", "changed"),
        ],
        findings: &[
            ("lost", "", "store returned", "left behind"),
            ("note", "", "sink returned_cards", "written otherwise"),
        ],
    },
    Case {
        changes: &[
            (
                "[sources.returns]\ntopic = \"returns\"",
                "[sources.returns]\ntopic = \"returns\"\nstart = \"latest\"",
            ),
            (
                "[sinks.cards]\nfrom = \"per_card\"",
                "[sinks.cards]\nfrom = \"per_card\"\ntopic = \"card-counts\"\n\n[sinks.more]\nfrom = \"per_card\"",
            ),
            ("[sinks.minutes]\nfrom = \"per_minute\"", "[sinks.some]\nfrom = \"per_minute\""),
        ],
        code: 0,
        rolling: true,
        becomes: &[
            ("sinks", "cards", "changed"),
            ("sinks", "more", "new"),
            ("sinks", "some", "new"),
            ("sinks", "minutes", "removed"),
        ],
        findings: &[
            ("note", "", "source returns", "`start` says latest now, which changes nothing"),
            ("note", "", "sink cards", "writes to topic card-counts"),
            ("note", "", "sink more", "changes from now on"),
            ("note", "", "sink some", "changes from now on"),
        ],
    },
    Case {
        changes: &[
            ("[sources.returns]", "[tables.returns]"),
            ("from    = \"returns\"", "from    = \"return_changes\""),
            (
                "[steps.returned]",
                "[steps.return_changes]\nop = \"to-stream\"\nfrom = \"returns\"\n\n[steps.returned]",
            ),
        ],
        code: 0,
        rolling: false,
        becomes: &[
            ("stores", "returns", "new"),
            ("internal_topics", "cards-returns-changelog", "new"),
            ("sources", "returns", "changed"),
        ],
        findings: &[
            ("note", "", "store returns", "rows that have been written before are missing"),
            ("note", "", "source returns", "it was a stream, it is a table"),
        ],
    },
];

#[test]
fn diff_says_what_becomes_of_everything() {
    for Case { changes, code, rolling, becomes, findings } in CASES {
        let folder = changed(changes);
        let ran = diff(&folder, &["--format", "json"]).expect_code(*code);
        let said: Json = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(said["rolling"].as_bool(), Some(*rolling), "{changes:?}\n{said:#}");
        for list in ["stores", "internal_topics", "sub_topologies", "sources", "sinks"] {
            for entry in said[list].as_array().unwrap() {
                let name = entry["name"].as_str().unwrap();
                let is_it = |of: &str| of == name || of == "*";
                let expected = becomes.iter().find(|(of, who, _)| *of == list && is_it(who));
                let expected = expected.map_or("kept", |(.., change)| change);
                assert!(expected == "*" || entry["change"] == expected, "{changes:?}: {list} {entry}");
            }
        }
        for (list, name, _) in becomes.iter().filter(|(_, name, change)| *name != "*" && *change != "*") {
            let names = said[list].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap());
            assert!(
                names.clone().any(|found| found == *name),
                "{list} {name} {:?}",
                names.collect::<Vec<_>>()
            );
        }
        let all = said["findings"].as_array().unwrap();
        assert_eq!(all.len(), findings.len(), "{changes:?}\n{all:#?}");
        for (effect, code, subject, words) in *findings {
            let found =
                all.iter().find(|found| found["subject"] == *subject).unwrap_or_else(|| panic!("{all:#?}"));
            assert_eq!(found["effect"], *effect, "{found:#}");
            assert_eq!(found["code"].as_str().unwrap_or_default(), *code, "{found:#}");
            assert!(found["message"].as_str().unwrap().contains(words), "{found:#}");
        }
        // As text it says the same.
        let text = diff(&folder, &[]).expect_code(*code).stdout;
        for (effect, code, subject, words) in *findings {
            let code = if code.is_empty() { String::new() } else { format!("[{code}]") };
            assert!(text.contains(&format!("{effect}{code}: {subject}: ")) && text.contains(words), "{text}");
        }
    }
}

#[test]
fn diff_compares_partition_counts() {
    let changes = [
        (
            "[steps.per_country]",
            "[steps.by_country]\nop = \"rekey\"\nfrom = \"payments\"\nkey = [\"country\"]\npartitions = 4\n\n[steps.per_country]",
        ),
        ("group-by = [\"country\"]\n", ""),
        ("from     = \"payments\"", "from     = \"by_country\""),
    ];
    let folder = changed(&changes);
    let ran = diff(&folder, &[]).expect_code(3);
    let refused =
        "refused[M0911]: partitions: `cards-per_country-changelog` would have 4 partitions instead of 1";
    assert!(ran.stdout.contains(refused), "{}", ran.stdout);
    // With four partitions it would have four anyway; the topic that is read is another one all the same.
    let ran = diff(&folder, &["--partitions", "4"]).expect_code(3);
    assert!(!ran.stdout.contains("M0911"), "{}", ran.stdout);
    for said in [
        "lost: topic cards-per_country-repartition: the new topology does not read it",
        "refused[M0951]: store per_country: its step reads `cards-by_country-repartition` now",
        "stop what writes to its sources and wait until `/tasks` shows no lag",
    ] {
        assert!(ran.stdout.contains(said), "`{said}` is not in\n{}", ran.stdout);
    }
}

#[test]
fn diff_of_topologies_that_are_wrong_says_what_is_wrong() {
    let folder = changed(&[("count(*)", "cuont(*)")]);
    diff(&folder, &[]).expect_code(2).says(&["M0403", "new.toml"]);
    millstream(&["diff", &folder.at("old.toml")]).expect_code(2);
}

/// State on a disk is taken up by the topology that follows if, and only if, `diff` does not call it incompatible.
#[test]
fn state_is_refused_where_diff_says_incompatible() {
    for Case { changes, .. } in CASES {
        let folder = changed(changes);
        if folder.read("new.toml").contains("id = \"shop\"") {
            continue;
        }
        let said = diff(&folder, &["--format", "json"]);
        let said: Json = serde_json::from_str(&said.stdout).unwrap();
        let stores = said["stores"].as_array().unwrap();
        let incompatible: Vec<&str> = stores
            .iter()
            .filter(|store| store["change"] == "incompatible")
            .map(|store| store["name"].as_str().unwrap())
            .collect();
        folder.write("payments.csv", "card,at,amount,country\nc1,2026-01-01T00:00:00Z,1.5,DE\n");
        let state = folder.at("state");
        let dev = |file: &str, source: &str| {
            let feed = format!("{source}={}", folder.at("payments.csv"));
            millstream(&["dev", &folder.at(file), "--feed", &feed, "--state-dir", &state])
        };
        dev("old.toml", "payments").expect_code(0);
        let source =
            if folder.read("new.toml").contains("all_payments") { "all_payments" } else { "payments" };
        let ran = dev("new.toml", source).expect_code(if incompatible.is_empty() { 0 } else { 3 });
        for store in incompatible {
            let ran = Ran { code: ran.code, stdout: String::new(), stderr: ran.stderr.clone() };
            ran.says(&["error[M0902]", &format!("store `{store}`")]);
        }
    }
}
