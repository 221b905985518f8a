//! A schema registry: what Millstream asks of Confluent's, over HTTP.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value as Json, json};

/// A registry on a port of its own. Its schemas outlive its server, which can be stopped and started again.
pub struct Registry {
    port: u16,
    shared: Arc<Shared>,
    user: Option<String>,
    serving: Option<(Arc<AtomicBool>, std::thread::JoinHandle<()>)>,
}

#[derive(Default)]
struct Shared {
    schemas: Mutex<Schemas>,
    /// Method and path of each request.
    requests: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Schemas {
    /// By id from 1: its text and its type.
    all: Vec<(String, String)>,
    /// The ids of each subject's versions.
    subjects: BTreeMap<String, Vec<usize>>,
}

impl Registry {
    /// Starts one; `user` is what it wants to be sent as `NAME:PASSWORD` in base64.
    pub fn start(user: Option<&str>) -> Self {
        let mut registry = Registry {
            port: 0,
            shared: Arc::default(),
            user: user.map(|user| format!("Basic {user}")),
            serving: None,
        };
        registry.resume();
        registry
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Puts a schema under a subject, and gives its id.
    pub fn register(&self, subject: &str, schema: &str) -> usize {
        self.shared.schemas.lock().unwrap().register(subject, schema, "AVRO").unwrap()
    }

    /// The newest schema of a subject.
    pub fn newest(&self, subject: &str) -> Json {
        let schemas = self.shared.schemas.lock().unwrap();
        serde_json::from_str(&schemas.all[schemas.subjects[subject].last().unwrap() - 1].0).unwrap()
    }

    /// How often something was asked.
    pub fn asked(&self, request: &str) -> usize {
        self.shared.requests.lock().unwrap().iter().filter(|asked| *asked == request).count()
    }

    /// Nobody answers any more.
    pub fn stop(&mut self) {
        if let Some((stopped, thread)) = self.serving.take() {
            stopped.store(true, Ordering::SeqCst);
            let _ = TcpStream::connect(("127.0.0.1", self.port));
            thread.join().unwrap();
        }
    }

    /// Answers again, on the same port.
    pub fn resume(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        self.port = listener.local_addr().unwrap().port();
        let stopped = Arc::new(AtomicBool::new(false));
        let (is_stopped, shared, user) = (stopped.clone(), self.shared.clone(), self.user.clone());
        let thread = std::thread::Builder::new().name("registry".to_owned()).spawn(move || {
            for connection in listener.incoming() {
                if is_stopped.load(Ordering::SeqCst) {
                    return;
                }
                // One after the other is enough; a client that is gone is none.
                if let Ok(connection) = connection {
                    let _ = answer(connection, &shared, user.as_deref());
                }
            }
        });
        self.serving = Some((stopped, thread.unwrap()));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Reads a request, and writes what is answered.
fn answer(connection: TcpStream, shared: &Shared, user: Option<&str>) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or("").to_owned());
    let request = format!("{method} {path}");
    let (mut length, mut sent) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => sent = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    shared.requests.lock().unwrap().push(request.clone());
    let body: Json = serde_json::from_slice(&body).unwrap_or_default();
    let (status, answer) = if user.is_some() && user != sent.as_deref() {
        (401, json!({ "error_code": 401, "message": "Unauthorized" }))
    } else {
        match shared.schemas.lock().unwrap().answer(&request, &body) {
            Ok(answer) => (200, answer),
            Err((code, message)) => {
                (code / if code > 999 { 100 } else { 1 }, json!({ "error_code": code, "message": message }))
            }
        }
    };
    let text = answer.to_string();
    let mut connection = reader.into_inner();
    write!(
        connection,
        "HTTP/1.1 {status} -\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}

type Answer = Result<Json, (u16, String)>;

impl Schemas {
    fn answer(&mut self, request: &str, body: &Json) -> Answer {
        let (request, _) = request.split_once('?').unwrap_or((request, ""));
        let (method, path) = request.split_once(' ').unwrap_or_default();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let kind = body["schemaType"].as_str().unwrap_or("AVRO");
        let text = body["schema"].as_str().unwrap_or_default();
        let schema = |(text, kind): &(String, String)| match kind.as_str() {
            "AVRO" => json!({ "schema": text }),
            kind => json!({ "schema": text, "schemaType": kind }),
        };
        match (method, parts.as_slice()) {
            ("GET", ["schemas", "ids", id]) => {
                let id: usize = id.parse().map_err(|_| (422, "no id".to_owned()))?;
                let found = id.checked_sub(1).and_then(|place| self.all.get(place));
                found.map(schema).ok_or((40403, "Schema not found".to_owned()))
            }
            ("GET", ["subjects", subject, "versions", "latest"]) => {
                let versions = self.subjects.get(*subject);
                let id =
                    versions.and_then(|ids| ids.last()).ok_or((40401, "Subject not found".to_owned()))?;
                Ok(schema(&self.all[id - 1]))
            }
            ("POST", ["subjects", subject, "versions"]) => {
                self.register(subject, text, kind).map(|id| json!({ "id": id }))
            }
            ("POST", ["subjects", subject]) => {
                let versions = self.subjects.get(*subject).ok_or((40401, "Subject not found".to_owned()))?;
                let place = versions.iter().position(|id| self.all[id - 1].0 == text);
                let place = place.ok_or((40403, "Schema not found".to_owned()))?;
                Ok(json!({ "subject": subject, "id": versions[place], "version": place + 1, "schema": text }))
            }
            ("POST", ["compatibility", "subjects", subject, "versions", "latest"]) => {
                let reason = self.clash(subject, text);
                let messages: Vec<&String> = reason.iter().collect();
                Ok(json!({ "is_compatible": reason.is_none(), "messages": messages }))
            }
            _ => Err((404, format!("{request} is not answered here"))),
        }
    }

    fn register(&mut self, subject: &str, text: &str, kind: &str) -> Result<usize, (u16, String)> {
        if kind == "AVRO" && serde_json::from_str::<Json>(text).is_err() {
            return Err((42201, "Invalid schema".to_owned()));
        }
        if let Some(reason) = self.clash(subject, text) {
            return Err((409, reason));
        }
        let known = self.all.iter().position(|known| *known == (text.to_owned(), kind.to_owned()));
        let place = known.unwrap_or(self.all.len());
        if known.is_none() {
            self.all.push((text.to_owned(), kind.to_owned()));
        }
        let versions = self.subjects.entry(subject.to_owned()).or_default();
        if !versions.contains(&(place + 1)) {
            versions.push(place + 1);
        }
        Ok(place + 1)
    }

    /// Of all that can be incompatible the simplest: a field that has another type.
    fn clash(&self, subject: &str, text: &str) -> Option<String> {
        let newest = self.subjects.get(subject)?.last()?;
        let read = |text: &str| serde_json::from_str::<Json>(text).ok();
        let (old, new) = (read(&self.all[newest - 1].0)?, read(text)?);
        let fields = |schema: &Json| schema["fields"].as_array().cloned().unwrap_or_default();
        let differs = fields(&old).into_iter().find(|old| {
            fields(&new).iter().any(|new| new["name"] == old["name"] && new["type"] != old["type"])
        });
        differs.map(|field| format!("the type of {} differs", field["name"]))
    }
}
