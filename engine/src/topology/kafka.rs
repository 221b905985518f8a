//! `[kafka]`: where the cluster is and how it is spoken to.

use std::path::PathBuf;

use millstream_operators::config::{Fields, Text};
use millstream_operators::diagnostic::{Code, Diagnostic, Diagnostics, did_you_mean, listed};
use toml::Spanned;
use toml::de::DeValue;

use super::settings::report;
use super::values::{address, brokers, size};
use super::variables::{Variables, is_file};
use super::{Kafka, Setting, TopicDefaults};
use crate::kafka::{ALLOWED_PROPERTIES, Mechanism, OWNED_PROPERTIES, Protocol, Secret, Security};
use crate::schema_registry::SchemaRegistrySettings;

/// `[kafka]`. What this machine does not have for it goes to `deferred`.
pub(super) fn kafka(root: &Fields<'_>, variables: &Variables<'_>, deferred: &Diagnostics) -> Option<Kafka> {
    let fields = root.table("kafka", "`[kafka]`")?;
    fields.deny_unknown(["brokers", "security", "properties", "topics", "registry"]);
    let found = variables.deferred_text(&fields, "brokers", deferred);
    if let Some(found) = &found
        && let Err(misfit) = brokers(&found.value)
    {
        report(&fields, "brokers", found, &misfit);
    }
    let reader = Reader { variables, deferred };
    Some(Kafka {
        brokers: found.map(|found| Setting::new(found.value, found.secret)),
        security: reader.security(&fields).unwrap_or_default(),
        properties: reader.properties(&fields),
        topics: reader.topics(&fields).unwrap_or_default(),
        registry: reader.registry(&fields),
    })
}

struct Reader<'a> {
    variables: &'a Variables<'a>,
    deferred: &'a Diagnostics,
}

impl Reader<'_> {
    /// `[kafka.security]`.
    fn security(&self, kafka: &Fields<'_>) -> Option<Security> {
        let fields = kafka.table("security", "`[kafka.security]`")?;
        fields.deny_unknown([
            "protocol",
            "ca",
            "certificate",
            "key",
            "key-password",
            "mechanism",
            "username",
            "password",
            "token-file",
        ]);
        let protocol = self.choice(&fields, "protocol", &Protocol::ALL.map(Protocol::name));
        let mechanism = self.choice(&fields, "mechanism", &Mechanism::ALL.map(Mechanism::name));
        let security = Security {
            protocol: protocol.and_then(Protocol::from_name).unwrap_or_default(),
            ca: self.file(&fields, "ca"),
            certificate: self.file(&fields, "certificate"),
            key: self.file(&fields, "key"),
            key_password: self.secret(&fields, "key-password"),
            mechanism: mechanism.and_then(Mechanism::from_name),
            username: self.word(&fields, "username"),
            password: self.secret(&fields, "password"),
            token_file: self.file(&fields, "token-file"),
        };
        // What is wrong with a field by itself has been said, and the others may fit one that was meant.
        let misread = |key: &str, read: bool| fields.has(key) && !read;
        let broken =
            misread("protocol", protocol.is_some()) || misread("mechanism", security.mechanism.is_some());
        for problem in security.problems().into_iter().filter(|_| !broken) {
            let field = problem.field;
            if problem.missing && fields.has(field) {
                continue;
            }
            let (message, place) = match problem.missing {
                true => (format!("{} has no `{field}`", fields.what), fields.header.clone()),
                false => (format!("`{field}` does not go with the other fields"), fields.key_span(field)),
            };
            fields.diagnostics().push(
                Diagnostic::error(Code::SecurityFields, place, message)
                    .help(format!("`{field}` {}", problem.message)),
            );
        }
        Some(security)
    }

    /// One of `choices`.
    fn choice(&self, fields: &Fields<'_>, key: &str, choices: &[&'static str]) -> Option<&'static str> {
        let filled = self.variables.deferred_text(fields, key, self.deferred)?;
        let choice = choices.iter().find(|choice| **choice == filled.value);
        if choice.is_none() {
            let help = did_you_mean(&filled.value, choices.iter().copied())
                .unwrap_or_else(|| format!("choices are {}", listed(choices.iter().copied())));
            let message = format!("`{}` is not a choice for `{key}`", filled.shown());
            fields
                .diagnostics()
                .push(Diagnostic::error(Code::InvalidChoice, filled.text.span.clone(), message).help(help));
        }
        choice.copied()
    }

    /// Text that may hold variables; empty if this machine lacks them.
    fn word(&self, fields: &Fields<'_>, key: &str) -> Option<String> {
        let text = fields.text(key)?;
        let filled = self.variables.deferred_fill(text, fields.diagnostics(), self.deferred);
        Some(filled.map(|filled| filled.value).unwrap_or_default())
    }

    /// A path to a file, relative to the folder of the topology. Clients open it.
    fn file(&self, fields: &Fields<'_>, key: &str) -> Option<PathBuf> {
        let text = fields.text(key)?;
        let span = text.span.clone();
        if text.is_empty() {
            fields.diagnostics().push(
                Diagnostic::error(Code::UnreadableFile, span, format!("`{key}` names no file"))
                    .help("paths are relative to the folder of the topology file"),
            );
            return None;
        }
        let Some(filled) = self.variables.deferred_fill(text, fields.diagnostics(), self.deferred) else {
            return Some(PathBuf::new());
        };
        let path = self.variables.directory.join(&filled.value);
        // An authority may be a folder of certificates.
        let readable = std::fs::File::open(&path).map(drop);
        if let Err(error) = readable {
            let message = format!("`{}` cannot be read: {error}", filled.shown());
            self.deferred.push(
                Diagnostic::error(Code::UnreadableFile, span, message)
                    .help("paths are relative to the folder of the topology file"),
            );
        }
        Some(path)
    }

    /// A secret: the content of a file, and never text of the topology or the environment.
    fn secret(&self, fields: &Fields<'_>, key: &str) -> Option<Secret> {
        let text = fields.text(key)?;
        if !is_file(&text) {
            let why = if text.contains("${") {
                "a part of it is text or comes from the environment, which other programs can read"
            } else {
                "it stands in the topology, which others may read"
            };
            fields.diagnostics().push(
                Diagnostic::error(Code::SecretNotFile, text.span.clone(), format!("`{key}` is not read from a file"))
                    .label(why)
                    .help(format!(
                        "write the secret into a file that only this user can read, and here `{key} = \"${{file:PATH}}\"`"
                    )),
            );
            return Some(Secret::new(""));
        }
        let filled = self.variables.deferred_fill(text, fields.diagnostics(), self.deferred);
        Some(Secret::new(filled.map(|filled| filled.value).unwrap_or_default()))
    }

    /// `[kafka.properties]`, in the order of the file.
    fn properties(&self, kafka: &Fields<'_>) -> Vec<(String, Setting)> {
        let mut properties = Vec::new();
        if let Some(fields) = kafka.table("properties", "`[kafka.properties]`") {
            self.properties_in(&fields, None, &mut properties);
        }
        properties
    }

    /// The properties of a table. In TOML `linger.ms = 5` is a table with the key `ms`.
    fn properties_in(
        &self,
        fields: &Fields<'_>,
        parent: Option<&Text>,
        properties: &mut Vec<(String, Setting)>,
    ) {
        for (key, value) in fields.entries() {
            let name = match parent {
                None => key,
                Some(parent) => {
                    let on_one_line = parent.span.end < key.span.start;
                    let span = if on_one_line { parent.span.start..key.span.end } else { key.span.clone() };
                    Text::new(&format!("{}.{}", parent.value, key.value), span, "")
                }
            };
            if let Some(inner) = fields.as_table(name.span.clone(), value, "`[kafka.properties]`") {
                self.properties_in(&inner, Some(&name), properties);
                continue;
            }
            if self.is_allowed(fields, &name)
                && let Some(value) = self.property(fields, &name, value)
            {
                properties.push((name.value, value));
            }
        }
    }

    /// Whether a property may be set; reports why not.
    fn is_allowed(&self, fields: &Fields<'_>, name: &Text) -> bool {
        let owned = OWNED_PROPERTIES.iter().find(|(owned, _)| *owned == name.value);
        if let Some((_, reason)) = owned {
            fields.diagnostics().push(
                Diagnostic::error(
                    Code::OwnedProperty,
                    name.span.clone(),
                    format!("the property `{}` is not yours to set", name.value),
                )
                .help(*reason),
            );
            return false;
        }
        if ALLOWED_PROPERTIES.iter().any(|(allowed, _)| *allowed == name.value) {
            return true;
        }
        let help = did_you_mean(name, ALLOWED_PROPERTIES.iter().map(|(allowed, _)| *allowed))
            .unwrap_or_else(|| "`millstream explain kafka.properties` lists those that can".to_owned());
        fields.diagnostics().push(
            Diagnostic::error(
                Code::UnknownProperty,
                name.span.clone(),
                format!("the property `{}` cannot be set", name.value),
            )
            .help(help),
        );
        false
    }

    fn property(&self, fields: &Fields<'_>, name: &Text, value: &Spanned<DeValue<'_>>) -> Option<Setting> {
        match value.get_ref() {
            DeValue::Boolean(boolean) => Some(Setting::new(boolean.to_string(), false)),
            DeValue::Integer(integer) if integer.radix() == 10 => Some(Setting::new(integer.as_str(), false)),
            DeValue::String(_) => {
                let text = fields.as_text(value)?;
                let filled = self.variables.deferred_fill(text, fields.diagnostics(), self.deferred)?;
                Some(Setting::new(filled.value, filled.secret))
            }
            _ => {
                fields.wrong_type(name, value, "a string, an integer, `true` or `false`");
                None
            }
        }
    }

    /// `[kafka.registry]`.
    fn registry(&self, kafka: &Fields<'_>) -> Option<SchemaRegistrySettings> {
        let fields = kafka.table("registry", "`[kafka.registry]`")?;
        fields.deny_unknown(["url", "username", "password", "ca", "register"]);
        if !fields.has("url") {
            fields.missing("url", "add `url = \"http://HOST:8081\"`");
        }
        let url = self.variables.deferred_text(&fields, "url", self.deferred);
        let is_address = |url: &str| {
            let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            rest.is_some_and(|rest| address(rest.split('/').next().unwrap_or_default(), false).is_ok())
        };
        if let Some(url) = url.as_ref().filter(|url| !url.value.split(',').all(|url| is_address(url.trim())))
        {
            let message = format!("`{}` is not the address of a schema registry", url.shown());
            fields
                .diagnostics()
                .push(Diagnostic::error(Code::InvalidAddress, url.text.span.clone(), message).help(
                    "it is `http://host:port` or `https://host:port`; several are separated by commas",
                ));
        }
        for (one, other) in [("username", "password"), ("password", "username")] {
            if fields.has(one) && !fields.has(other) {
                fields.diagnostics().push(
                    Diagnostic::error(
                        Code::SecurityFields,
                        fields.key_span(one),
                        format!("`{one}` needs `{other}`"),
                    )
                    .help(format!("add `{other}`, or remove `{one}`")),
                );
            }
        }
        let register = fields.boolean("register").is_none_or(|register| register.value);
        let (username, password) = (self.word(&fields, "username"), self.secret(&fields, "password"));
        let ca = self.file(&fields, "ca");
        let url = url?;
        Some(SchemaRegistrySettings {
            shown: url.shown().to_owned(),
            url: url.value,
            username,
            password,
            ca,
            register,
        })
    }

    /// `[kafka.topics]`.
    fn topics(&self, kafka: &Fields<'_>) -> Option<TopicDefaults> {
        let fields = kafka.table("topics", "`[kafka.topics]`")?;
        fields.deny_unknown(["replication-factor", "min-insync-replicas", "partitions", "max-message-bytes"]);
        let count = |key: &str, most: i64| {
            let number = fields.integer(key, 1..=most)?;
            u32::try_from(number.value).ok()
        };
        let topics = TopicDefaults {
            replication_factor: count("replication-factor", i64::from(i16::MAX)),
            min_insync_replicas: count("min-insync-replicas", i64::from(i16::MAX)),
            partitions: count("partitions", 100_000),
            max_message_bytes: self.bytes(&fields, "max-message-bytes"),
        };
        if let (Some(replicas), Some(needed)) = (topics.replication_factor, topics.min_insync_replicas)
            && needed > replicas
        {
            fields.diagnostics().push(
                Diagnostic::error(
                    Code::OutOfRange,
                    fields.key_span("min-insync-replicas"),
                    format!("{needed} replicas must be in sync, but there are {replicas}"),
                )
                .also(fields.key_span("replication-factor"), "the replicas")
                .help("with 3 replicas, 2 in sync let one broker be away without losing writes"),
            );
        }
        Some(topics)
    }

    fn bytes(&self, fields: &Fields<'_>, key: &str) -> Option<u64> {
        let filled = self.variables.deferred_text(fields, key, self.deferred)?;
        match size(&filled.value, 1 << 10) {
            Ok(bytes) => Some(bytes),
            Err(misfit) => {
                report(fields, key, &filled, &misfit);
                None
            }
        }
    }
}
