//! Schemas by id and subject.
//!
//! A topology has one [`SchemaRegistry`]. It lives in memory, so that whatever needs no cluster needs no server either, until it is
//! connected to a server that speaks Confluent's protocol.

mod http;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use hashbrown::HashMap;

use self::http::Client;
use crate::kafka::Secret;

/// `[kafka.registry]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaRegistrySettings {
    /// `http://host:port`, or several separated by commas.
    pub url: String,
    /// The address as messages may show it.
    pub shown: String,
    /// The user, for a server that asks for one.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// Certificates in PEM of the authorities that the server's certificate may come from; default: the system's.
    pub ca: Option<PathBuf>,
    /// Whether schemas are registered that the registry does not have.
    pub register: bool,
}

/// The language of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SchemaKind {
    /// A schema in JSON.
    Avro,
    /// The descriptor of a `.proto` file, in base64.
    Protobuf,
}

impl SchemaKind {
    /// The name in the topology language.
    pub fn name(self) -> &'static str {
        match self {
            SchemaKind::Avro => "avro",
            SchemaKind::Protobuf => "protobuf",
        }
    }
}

/// A schema as a registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaText {
    /// Its language.
    pub kind: SchemaKind,
    /// The schema itself.
    pub text: String,
    /// The schemas that it refers to, with the names it knows them by; each before those that refer to it.
    pub references: Vec<(String, String)>,
}

impl SchemaText {
    /// A schema that stands alone.
    pub fn new(kind: SchemaKind, text: impl Into<String>) -> Self {
        SchemaText { kind, text: text.into(), references: Vec::new() }
    }
}

/// Why a registry has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaRegistryError {
    /// It does not know the schema or the subject. Another question may be answered.
    #[error("the schema registry does not know {0}")]
    Unknown(String),
    /// It does not answer, after all attempts.
    #[error("the schema registry {url} cannot be reached: {why}")]
    Unreachable {
        /// Its address.
        url: String,
        /// What happened last.
        why: String,
    },
    /// It refuses, and will again.
    #[error("the schema registry refused to {action}: {why}")]
    Refused {
        /// What was tried, as a verb.
        action: String,
        /// What it said.
        why: String,
    },
    /// The settings cannot be used.
    #[error("`[kafka.registry]` cannot be used: {0}")]
    Settings(String),
}

/// The schemas of a topology's formats.
#[derive(Default)]
pub struct SchemaRegistry {
    memory: Mutex<Vec<(String, Arc<SchemaText>)>>,
    server: OnceLock<Server>,
}

/// A server, and its answers, which never change.
struct Server {
    client: Client,
    schemas: Mutex<HashMap<u32, Arc<SchemaText>>>,
    ids: Mutex<Vec<(String, SchemaText, u32)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for SchemaRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SchemaRegistry")
    }
}

impl SchemaRegistry {
    /// Asks a server from now on.
    ///
    /// # Errors
    /// If the settings cannot be used; the server is not asked yet.
    pub fn connect(&self, settings: &SchemaRegistrySettings) -> Result<(), SchemaRegistryError> {
        let client = Client::new(settings)?;
        // Whoever was first has the same settings.
        let _ = self.server.set(Server { client, schemas: Mutex::default(), ids: Mutex::default() });
        Ok(())
    }

    /// The schema of an id. May wait for a server.
    ///
    /// # Errors
    /// [`SchemaRegistryError::Unknown`] if there is none.
    pub fn schema(&self, id: u32) -> Result<Arc<SchemaText>, SchemaRegistryError> {
        if let Some(server) = self.server.get() {
            if let Some(known) = locked(&server.schemas).get(&id) {
                return Ok(known.clone());
            }
            let schema = Arc::new(server.client.schema(id)?);
            locked(&server.schemas).insert(id, schema.clone());
            return Ok(schema);
        }
        let memory = locked(&self.memory);
        let place = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        let found = place.and_then(|place| memory.get(place)).map(|(_, schema)| schema.clone());
        found.ok_or_else(|| SchemaRegistryError::Unknown(format!("the schema id {id}")))
    }

    /// The newest schema of a subject. May wait for a server.
    ///
    /// # Errors
    /// [`SchemaRegistryError::Unknown`] if there is none.
    pub fn latest(&self, subject: &str) -> Result<Arc<SchemaText>, SchemaRegistryError> {
        if let Some(server) = self.server.get() {
            return server.client.latest(subject).map(Arc::new);
        }
        let memory = locked(&self.memory);
        let found = memory.iter().rev().find(|(of, _)| of == subject).map(|(_, schema)| schema.clone());
        found.ok_or_else(|| SchemaRegistryError::Unknown(format!("the subject `{subject}`")))
    }

    /// The id of a schema under a subject; registers it where it is new and that is allowed. May wait for a server.
    ///
    /// # Errors
    /// If it is not known and may not be registered, or does not fit the subject's other schemas.
    pub fn id(&self, subject: &str, schema: &SchemaText) -> Result<u32, SchemaRegistryError> {
        if let Some(server) = self.server.get() {
            let is_known = |(of, known, _): &&(String, SchemaText, u32)| of == subject && known == schema;
            if let Some((.., id)) = locked(&server.ids).iter().find(is_known) {
                return Ok(*id);
            }
            let id = server.client.id(subject, schema)?;
            locked(&server.ids).push((subject.to_owned(), schema.clone(), id));
            return Ok(id);
        }
        let mut memory = locked(&self.memory);
        let known = memory.iter().position(|(of, known)| of == subject && **known == *schema);
        let place = known.unwrap_or_else(|| {
            memory.push((subject.to_owned(), Arc::new(schema.clone())));
            memory.len() - 1
        });
        Ok(u32::try_from(place + 1).unwrap_or(u32::MAX))
    }

    /// Why a schema could not be registered under a subject; `None` if it could. Registers nothing.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn fits(&self, subject: &str, schema: &SchemaText) -> Result<Option<String>, SchemaRegistryError> {
        self.server.get().map_or(Ok(None), |server| server.client.fits(subject, schema))
    }
}
