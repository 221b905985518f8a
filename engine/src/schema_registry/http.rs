//! The client of a registry server.

use std::fmt::Write;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tracing::warn;
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::{SchemaKind, SchemaRegistryError, SchemaRegistrySettings, SchemaText};

/// How long a server that is away is waited for before whoever asks is told. A run begins anew then, and asks again.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(250);
/// Asks for the descriptor of a Protobuf schema in place of its text.
const SERIALIZED: &str = "?format=serialized";
const CONTENT: &str = "application/vnd.schemaregistry.v1+json";

pub(super) struct Client {
    agent: ureq::Agent,
    urls: Vec<String>,
    shown: String,
    authorization: Option<String>,
    register: bool,
}

/// A schema in an answer. Avro is not named.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Schema {
    schema: String,
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: u32,
}

#[derive(Deserialize)]
struct Id {
    id: u32,
}

#[derive(Deserialize)]
struct Compatibility {
    is_compatible: bool,
    #[serde(default)]
    messages: Vec<String>,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Deserialize)]
struct Failure {
    error_code: u32,
    message: String,
}

/// Why there is no answer.
enum Refusal {
    /// The server said so: its code, and its words.
    Said(u32, String),
    Gone(SchemaRegistryError),
}

impl Client {
    pub fn new(settings: &SchemaRegistrySettings) -> Result<Self, SchemaRegistryError> {
        let roots = match &settings.ca {
            None => RootCerts::PlatformVerifier,
            Some(path) => {
                let unusable =
                    |why: String| SchemaRegistryError::Settings(format!("`ca` {}: {why}", path.display()));
                let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
                let mut certificates = Vec::new();
                for item in parse_pem(&pem) {
                    match item {
                        Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
                        Ok(_) => {}
                        Err(error) => return Err(unusable(error.to_string())),
                    }
                }
                if certificates.is_empty() {
                    return Err(unusable("it holds no certificate".to_owned()));
                }
                RootCerts::new_with_certs(&certificates)
            }
        };
        let tls = TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(roots).build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(2)))
            .timeout_global(Some(Duration::from_secs(5)))
            .build();
        let authorization = settings.username.as_ref().map(|username| {
            let password = settings.password.as_ref().map_or("", |password| password.reveal());
            format!("Basic {}", BASE64.encode(format!("{username}:{password}")))
        });
        let urls = settings.url.split(',').map(|url| url.trim().trim_end_matches('/').to_owned());
        Ok(Client {
            agent: config.into(),
            urls: urls.collect(),
            shown: settings.shown.clone(),
            authorization,
            register: settings.register,
        })
    }

    pub fn schema(&self, id: u32) -> Result<SchemaText, SchemaRegistryError> {
        self.with_references(&format!("/schemas/ids/{id}"), &format!("the schema id {id}"))
    }

    pub fn latest(&self, subject: &str) -> Result<SchemaText, SchemaRegistryError> {
        let path = format!("/subjects/{}/versions/latest", escaped(subject));
        self.with_references(&path, &format!("the subject `{subject}`"))
    }

    pub fn id(&self, subject: &str, schema: &SchemaText) -> Result<u32, SchemaRegistryError> {
        let body = self.body(schema)?;
        // Who may not register asks for a schema that is there already.
        let (path, action) = match self.register {
            true => (format!("/subjects/{}/versions", escaped(subject)), "register the schema"),
            false => (format!("/subjects/{}", escaped(subject)), "look the schema up"),
        };
        match self.ask(&path, Some(&body)) {
            Ok(answer) => read::<Id>(&answer).map(|found| found.id),
            Err(Refusal::Gone(error)) => Err(error),
            Err(Refusal::Said(code @ (40401..=40403), _)) if !self.register => {
                Err(SchemaRegistryError::Unknown(format!(
                    "the schema of the subject `{subject}`, and `register = false` keeps it from being registered ({code}): \
                     register it, or name the one that is there with `schema`"
                )))
            }
            Err(Refusal::Said(code, why)) => {
                let action = format!("{action} of `{subject}`");
                let why = match code {
                    409 => format!("it is not compatible with those the subject has: {why}"),
                    code => format!("{why} ({code})"),
                };
                Err(SchemaRegistryError::Refused { action, why })
            }
        }
    }

    pub fn fits(&self, subject: &str, schema: &SchemaText) -> Result<Option<String>, SchemaRegistryError> {
        if !self.register {
            return match self.id(subject, schema) {
                Ok(_) => Ok(None),
                Err(error @ SchemaRegistryError::Unreachable { .. }) => Err(error),
                Err(error) => Ok(Some(error.to_string())),
            };
        }
        // What it refers to may not be registered yet, and cannot be asked about before it is.
        let Some(body) = schema.references.is_empty().then(|| self.body(schema)).transpose()? else {
            return Ok(None);
        };
        let path = format!("/compatibility/subjects/{}/versions/latest?verbose=true", escaped(subject));
        match self.ask(&path, Some(&body)) {
            Ok(answer) => {
                let found: Compatibility = read(&answer)?;
                let reasons = found.messages.join("; ");
                Ok((!found.is_compatible).then(|| {
                    format!(
                        "the schema is not compatible with the newest of the subject `{subject}`: {reasons}"
                    )
                }))
            }
            Err(Refusal::Gone(error)) => Err(error),
            Err(Refusal::Said(404 | 40401 | 40402, _)) => Ok(None),
            Err(Refusal::Said(code, why)) => {
                Ok(Some(format!("the registry refuses the schema of `{subject}`: {why} ({code})")))
            }
        }
    }

    /// A schema in a question. What it refers to is under subjects of its own, by the names it knows it by.
    fn body(&self, schema: &SchemaText) -> Result<Json, SchemaRegistryError> {
        let mut references = Vec::new();
        for (place, (name, text)) in schema.references.iter().enumerate() {
            let before = schema.references.get(..place).unwrap_or_default().to_vec();
            let referred = SchemaText { kind: schema.kind, text: text.clone(), references: before };
            self.id(name, &referred)?;
            let body = self.body(&referred)?;
            let refused =
                |why: String| SchemaRegistryError::Refused { action: format!("look `{name}` up"), why };
            match self.ask(&format!("/subjects/{}", escaped(name)), Some(&body)) {
                Ok(answer) => {
                    let version = read::<Version>(&answer)?.version;
                    references.push(json!({ "name": name, "subject": name, "version": version }));
                }
                Err(Refusal::Gone(error)) => return Err(error),
                Err(Refusal::Said(code, why)) => return Err(refused(format!("{why} ({code})"))),
            }
        }
        let mut body = json!({ "schema": schema.text });
        if let Some(body) = body.as_object_mut() {
            if schema.kind == SchemaKind::Protobuf {
                body.insert("schemaType".to_owned(), json!("PROTOBUF"));
            }
            if !references.is_empty() {
                body.insert("references".to_owned(), json!(references));
            }
        }
        Ok(body)
    }

    fn get<T: for<'de> Deserialize<'de>>(&self, path: &str, what: &str) -> Result<T, SchemaRegistryError> {
        match self.ask(path, None) {
            Ok(answer) => read(&answer),
            Err(Refusal::Gone(error)) => Err(error),
            Err(Refusal::Said(404 | 40401..=40403, _)) => Err(SchemaRegistryError::Unknown(what.to_owned())),
            Err(Refusal::Said(code, why)) => Err(SchemaRegistryError::Refused {
                action: format!("give {what}"),
                why: format!("{why} ({code})"),
            }),
        }
    }

    fn with_references(&self, path: &str, what: &str) -> Result<SchemaText, SchemaRegistryError> {
        let schema: Schema = self.get(path, what)?;
        let (kind, schema) = match schema.schema_type.as_deref() {
            None | Some("AVRO") => (SchemaKind::Avro, schema),
            // Its descriptor needs no parser.
            Some("PROTOBUF") => (SchemaKind::Protobuf, self.get(&format!("{path}{SERIALIZED}"), what)?),
            Some(other) => {
                return Err(SchemaRegistryError::Refused {
                    action: "give a schema that can be read".to_owned(),
                    why: format!("its type is {other}, and Millstream reads AVRO and PROTOBUF"),
                });
            }
        };
        let mut references = Vec::new();
        self.follow(&schema.references, kind, &mut references, 0)?;
        Ok(SchemaText { kind, text: schema.schema, references })
    }

    fn follow(
        &self,
        named: &[Reference],
        kind: SchemaKind,
        found: &mut Vec<(String, String)>,
        depth: usize,
    ) -> Result<(), SchemaRegistryError> {
        for Reference { name, subject, version } in named {
            if depth > 32 || found.iter().any(|(known, _)| known == name) {
                continue;
            }
            let what = format!("version {version} of the subject `{subject}`");
            let format = if kind == SchemaKind::Protobuf { SERIALIZED } else { "" };
            let path = format!("/subjects/{}/versions/{version}{format}", escaped(subject));
            let schema: Schema = self.get(&path, &what)?;
            self.follow(&schema.references, kind, found, depth + 1)?;
            found.push((name.clone(), schema.schema));
        }
        Ok(())
    }

    /// The body of an answer. A server that is away, busy or broken is asked again, and another one if there are several.
    fn ask(&self, path: &str, body: Option<&Json>) -> Result<String, Refusal> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSE;
        let mut said = false;
        loop {
            let mut why = String::new();
            for url in &self.urls {
                match self.ask_once(url, path, body) {
                    Ok((status, text)) if (200..300).contains(&status) => return Ok(text),
                    Ok((status, text)) if !matches!(status, 408 | 429 | 500..) => {
                        let failure = serde_json::from_str::<Failure>(&text);
                        let failure = failure.map(|failure| (failure.error_code, failure.message));
                        let (code, message) = failure.unwrap_or((
                            u32::from(status),
                            match status {
                                401 => "it wants a user and password".to_owned(),
                                403 => "the user may not do this".to_owned(),
                                _ => format!("status {status}"),
                            },
                        ));
                        return Err(Refusal::Said(code, message));
                    }
                    Ok((status, _)) => why = format!("status {status}"),
                    Err(error) => why = error,
                }
            }
            if Instant::now() + pause >= deadline {
                return Err(Refusal::Gone(SchemaRegistryError::Unreachable { url: self.shown.clone(), why }));
            }
            if !said {
                warn!("the schema registry does not answer, asking again: {why}");
                said = true;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    fn ask_once(&self, url: &str, path: &str, body: Option<&Json>) -> Result<(u16, String), String> {
        let url = format!("{url}{path}");
        let shown = |error: ureq::Error| error.to_string();
        let authorization = self.authorization.as_deref();
        let mut answer = match body {
            None => {
                let mut request = self.agent.get(&url).header("Accept", CONTENT);
                if let Some(authorization) = authorization {
                    request = request.header("Authorization", authorization);
                }
                request.call().map_err(shown)?
            }
            Some(body) => {
                let mut request =
                    self.agent.post(&url).header("Accept", CONTENT).header("Content-Type", CONTENT);
                if let Some(authorization) = authorization {
                    request = request.header("Authorization", authorization);
                }
                request.send(body.to_string()).map_err(shown)?
            }
        };
        let status = answer.status().as_u16();
        Ok((status, answer.body_mut().read_to_string().map_err(shown)?))
    }
}

fn read<T: for<'de> Deserialize<'de>>(answer: &str) -> Result<T, SchemaRegistryError> {
    serde_json::from_str(answer).map_err(|error| SchemaRegistryError::Refused {
        action: "give an answer that can be read".to_owned(),
        why: format!("{error}; is this the address of a schema registry?"),
    })
}

/// A subject as a part of a path.
fn escaped(subject: &str) -> String {
    let mut path = String::with_capacity(subject.len());
    for byte in subject.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                path.push(char::from(byte))
            }
            other => {
                let _ = write!(path, "%{other:02X}");
            }
        }
    }
    path
}
