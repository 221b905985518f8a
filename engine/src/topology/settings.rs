//! `[app]`, `[kafka]` and `[runtime]`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use millstream_operators::config::{Fields, Text, format_duration, parse_duration};
use millstream_operators::diagnostic::{Code, Diagnostic};

use super::variables::{Filled, Variables, find};
use super::{App, Guarantee, Kafka, Runtime, Setting};

/// Kafka's limit for the name of a topic.
const LONGEST_TOPIC: usize = 249;

/// Longest thing that is put after `<app>-<node>` in the name of an internal topic.
const LONGEST_SUFFIX: usize = "-subscriptions-changelog".len();

/// Why Kafka would not allow a topic of this name; `None` if it does.
pub fn topic_name_error(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > LONGEST_TOPIC {
        Some("it is longer than 249 characters")
    } else if name == "." || name == ".." {
        Some("Kafka reserves it")
    } else if !is_topic_text(name) {
        Some("allowed are letters, digits, `.`, `_` and `-`")
    } else {
        None
    }
}

/// Whether Kafka allows a topic, or a part of its name, of these characters.
pub(super) fn is_topic_text(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// Reports a node whose internal topics would have names longer than Kafka allows.
pub(super) fn check_topic_length(app: &App, name: &Text, fields: &Fields<'_>) {
    let length = app.id.len() + 1 + name.len() + LONGEST_SUFFIX;
    if length > LONGEST_TOPIC {
        fields.diagnostics().push(
            Diagnostic::error(Code::InvalidName, name.span.clone(), "the name is too long")
                .label(format!("names of topics made from it would exceed {LONGEST_TOPIC} characters"))
                .help("shorten this name or `app.id`"),
        );
    }
}

/// `[app]`. Where its id is missing, which is reported, another stands for it, so that the rest can be checked.
pub(super) fn app(root: &Fields<'_>) -> App {
    const HELP: &str = "add `id = \"a-name\"`: it names the consumer group and internal topics";
    let mut app = App { id: "app".to_owned(), guarantee: Guarantee::default(), description: None };
    if !root.has("app") {
        root.missing(
            "app",
            "add the table `[app]` with `id = \"a-name\"`: it names the consumer group and internal topics",
        );
    }
    let Some(fields) = root.table("app", "`[app]`") else { return app };
    fields.deny_unknown(["id", "guarantee", "description"]);
    if let Some(choice) = fields.choice("guarantee", &["exactly-once", "at-least-once"])
        && choice.value == "at-least-once"
    {
        app.guarantee = Guarantee::AtLeastOnce;
    }
    app.description = fields.text("description").map(|text| text.value);
    let Some(id) = fields.require_text("id", HELP) else { return app };
    if (id.is_empty() || !is_topic_text(&id)) && find(&id).is_none() {
        fields.diagnostics().push(
            Diagnostic::error(
                Code::InvalidName,
                id.span.clone(),
                format!("`{}` is not an application's id", id.value),
            )
            .help("an id is made of letters, digits, `.`, `_` and `-`, since topics are named after it"),
        );
    }
    App { id: id.value, ..app }
}

/// `[kafka]`.
pub(super) fn kafka(root: &Fields<'_>, variables: &Variables<'_>) -> Option<Kafka> {
    let fields = root.table("kafka", "`[kafka]`")?;
    fields.deny_unknown(["brokers"]);
    let brokers = variables.text(&fields, "brokers");
    if let Some(brokers) = &brokers {
        for address in brokers.value.split(',') {
            check_address(&fields, brokers, address.trim(), false);
        }
    }
    Some(Kafka { brokers: brokers.map(|brokers| Setting::new(brokers.value, brokers.secret)) })
}

/// Reports what is not `host:port`; `[::1]:9092` is.
fn check_address(fields: &Fields<'_>, filled: &Filled, address: &str, port_needed: bool) {
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if host.starts_with('[') || !host.contains(':') => (host, Some(port)),
        _ => (address, None),
    };
    let port_fits = port.map_or(!port_needed, |port| port.parse::<u16>().is_ok());
    let brackets = host.starts_with('[') && host.ends_with(']');
    let plain = |c: char| c.is_alphanumeric() || ".-_".contains(c) || (brackets && "[]:".contains(c));
    let host_fits = !host.is_empty() && host.chars().all(plain);
    if !(host_fits && port_fits) {
        let shown = if filled.secret { filled.shown() } else { address };
        fields.diagnostics().push(
            Diagnostic::error(
                Code::InvalidAddress,
                filled.text.span.clone(),
                format!("`{shown}` is not an address"),
            )
            .help("an address is `host:port`, such as `127.0.0.1:9092`"),
        );
    }
}

/// `[runtime]`.
pub(super) fn runtime(root: &Fields<'_>, variables: &Variables<'_>) -> Option<Runtime> {
    let fields = root.table("runtime", "`[runtime]`")?;
    fields.deny_unknown([
        "threads",
        "state-dir",
        "instance",
        "commit-every",
        "memory",
        "listen",
        "max-batch-rows",
        "max-task-idle",
        "max-poll-interval",
    ]);
    let count = |key, largest| {
        let number = fields.integer(key, 1..=largest)?.value;
        usize::try_from(number).ok().and_then(NonZeroUsize::new)
    };
    let listen = variables.text(&fields, "listen");
    if let Some(listen) = &listen {
        check_address(&fields, listen, &listen.value, true);
    }
    let instance = variables.text(&fields, "instance");
    if let Some(instance) =
        instance.as_ref().filter(|found| found.value.is_empty() || !is_topic_text(&found.value))
    {
        let message = format!("`{}` is not the name of an instance", instance.shown());
        fields.diagnostics().push(
            Diagnostic::error(Code::InvalidName, instance.text.span.clone(), message)
                .help("an instance is named with letters, digits, `.`, `_` and `-`"),
        );
    }
    Some(Runtime {
        threads: count("threads", 1024),
        state_dir: variables.text(&fields, "state-dir").map(|path| PathBuf::from(path.value)),
        instance: instance.map(|instance| instance.value),
        commit_every: duration(&fields, variables, "commit-every", 1),
        memory: memory(&fields, variables),
        listen: listen.map(|listen| listen.value),
        max_batch_rows: count("max-batch-rows", 1 << 20),
        max_task_idle: duration(&fields, variables, "max-task-idle", 0),
        max_poll_interval: duration(&fields, variables, "max-poll-interval", 1000),
    })
}

/// A duration that may hold variables.
fn duration(fields: &Fields<'_>, variables: &Variables<'_>, key: &str, least: i64) -> Option<i64> {
    let filled = variables.text(fields, key)?;
    let span = filled.text.span.clone();
    match parse_duration(&filled.value) {
        Some(millis) if millis >= least => return Some(millis),
        Some(_) => fields.diagnostics().push(
            Diagnostic::error(Code::OutOfRange, span, format!("`{key}` is out of range"))
                .label(format!("expected at least {}", format_duration(least))),
        ),
        None => fields.report_duration(filled.shown(), span),
    }
    None
}

/// The budget in bytes.
fn memory(fields: &Fields<'_>, variables: &Variables<'_>) -> Option<u64> {
    const LEAST: u64 = 16 << 20;
    let filled = variables.text(fields, "memory")?;
    let span = filled.text.span.clone();
    match parse_size(&filled.value) {
        Some(bytes) if bytes >= LEAST => return Some(bytes),
        Some(_) => fields.diagnostics().push(
            Diagnostic::error(Code::OutOfRange, span, "`memory` is out of range").label("expected at least 16MiB"),
        ),
        None => fields.diagnostics().push(
            Diagnostic::error(Code::InvalidSize, span, format!("`{}` is not a size", filled.shown()))
                .help("write a whole number and a unit: \"512MiB\", \"2GiB\" (powers of 1024), \"2GB\" (powers of 1000)"),
        ),
    }
    None
}

/// Bytes of a size such as `"512MiB"`.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("1GiB", 1 << 30), ("512 MiB", 512 << 20), ("2GB", 2_000_000_000), ("7B", 7)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "1", "GiB", "1.5GiB", "-1GiB", "99999999999TiB", "1 gib"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
