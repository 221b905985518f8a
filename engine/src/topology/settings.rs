//! `[app]` and `[runtime]`.

use millstream_operators::config::{Fields, Text};
use millstream_operators::diagnostic::{Code, Diagnostic, Diagnostics};

use super::values::{Misfit, RuntimeKey};
use super::variables::{Filled, Variables, find};
use super::{App, Guarantee, Runtime};

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

/// `[runtime]`. What this machine does not have for it goes to `deferred`.
pub(super) fn runtime(
    root: &Fields<'_>,
    variables: &Variables<'_>,
    deferred: &Diagnostics,
) -> Option<Runtime> {
    let fields = root.table("runtime", "`[runtime]`")?;
    fields.deny_unknown(RuntimeKey::ALL.iter().map(|key| key.name()));
    let mut runtime = Runtime::default();
    for key in RuntimeKey::ALL {
        let name = key.name();
        if key.is_count() {
            // Beyond what the key allows; its own limits are said below.
            let Some(number) = fields.integer(name, i64::MIN..=i64::MAX) else { continue };
            let text = number.value.to_string();
            let filled = Filled { text: Text::new(&text, number.span, ""), value: text, secret: false };
            set(&mut runtime, *key, &filled, &fields);
        } else if let Some(filled) = variables.deferred_text(&fields, name, deferred) {
            set(&mut runtime, *key, &filled, &fields);
        }
    }
    Some(runtime)
}

fn set(runtime: &mut Runtime, key: RuntimeKey, filled: &Filled, fields: &Fields<'_>) {
    if let Err(misfit) = runtime.set(key, &filled.value) {
        report(fields, key.name(), filled, &misfit);
    }
}

/// Reports that the text at `key` is not a value for it.
pub(super) fn report(fields: &Fields<'_>, key: &str, filled: &Filled, misfit: &Misfit) {
    let span = filled.text.span.clone();
    fields.diagnostics().push(match misfit {
        Misfit::Form { code, found, what, help } => {
            let shown = if filled.secret { filled.shown() } else { found };
            Diagnostic::error(*code, span, format!("`{shown}` is not {what}")).help(*help)
        }
        Misfit::Range { expected } => {
            Diagnostic::error(Code::OutOfRange, span, format!("`{key}` is out of range"))
                .label(format!("expected {expected}"))
        }
    });
}
