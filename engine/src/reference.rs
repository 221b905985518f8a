//! The reference of the topology language, made from what the program itself knows: the registry of operators and the
//! lists of keys below. It is the JSON Schema for editors, the page of operators in `docs/`, and what `explain` prints.

use std::fmt::Write as _;

use millstream_operators::config::{Field, FieldKind, table_schema};
use millstream_operators::operator::{Arity, OperatorSpec};
use millstream_operators::registry::{OPERATORS, Registry};
use serde_json::{Map, Value as Json, json};

use crate::kafka::ALLOWED_PROPERTIES;

/// The tables of a topology file, in the order of the language page. A step has the keys of its operator besides.
pub const TABLES: &[Table] = &[
    Table { name: "app", doc: "What the application is called and what it promises.", fields: APP },
    Table { name: "kafka", doc: "The cluster. Commands that run without one do not need it.", fields: KAFKA },
    Table {
        name: "kafka.security",
        doc: "How connections are protected, and who this is. Paths are relative to the folder of this file; `password` and \
              `key-password` are read from files: `\"${file:PATH}\"`.",
        fields: KAFKA_SECURITY,
    },
    Table {
        name: "kafka.properties",
        doc: "Properties of the client library, librdkafka, in place of the engine's. Others belong to the engine.",
        fields: &[],
    },
    Table {
        name: "kafka.topics",
        doc: "How topics are made. What is not said is as the brokers have it by default.",
        fields: KAFKA_TOPICS,
    },
    Table {
        name: "kafka.registry",
        doc: "The schema registry that formats with schemas ask, one that speaks Confluent's protocol.",
        fields: KAFKA_REGISTRY,
    },
    Table {
        name: "runtime",
        doc: "How a process runs the application, never what it computes. Flags and variables of the environment, such as \
              `MILLSTREAM_MAX_BATCH_ROWS`, beat the file.",
        fields: RUNTIME,
    },
    Table { name: "sources", doc: "Streams of events that are read from topics.", fields: SOURCE },
    Table {
        name: "tables",
        doc: "Tables that are read from topics: the newest row of each key; a null value deletes. Their topics should be compacted.",
        fields: TABLE,
    },
    Table { name: "steps", doc: "Operators between nodes.", fields: STEP },
    Table { name: "models", doc: "Models for `predict` steps.", fields: MODEL },
    Table { name: "sinks", doc: "Topics that are written.", fields: SINK },
    Table {
        name: "tests",
        doc: "What goes in and what must come out, run by `millstream test`.",
        fields: TEST,
    },
];

/// A table of a topology file and its keys.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// What it declares.
    pub doc: &'static str,
    /// Its keys; for `sources`, `tables`, `steps`, `models` and `sinks` those of each named table in it. Those of `kafka.properties` are
    /// [`ALLOWED_PROPERTIES`].
    pub fields: &'static [Field],
}

/// The name of the table whose keys are [`ALLOWED_PROPERTIES`].
const PROPERTIES: &str = "kafka.properties";

const DESCRIPTION: Field =
    Field::optional("description", FieldKind::String, "For readers; `describe` and `dev` show it.");
const ON_ERROR: Field = Field::optional(
    "on-error",
    FieldKind::Choice(&["fail", "skip", "dead-letter"]),
    "What happens to a record that fails here: `fail` (default) stops before it, `skip` counts it, `dead-letter` writes it to \
     a topic. Only its path through this node ends.",
);
const DEAD_LETTER: Field = Field::optional(
    "dead-letter",
    FieldKind::String,
    "The topic of dead letters; default: `<app>-<node>-dead-letter`.",
);
const FORMATS: FieldKind = FieldKind::OneOf(&[
    FieldKind::Choice(&["json", "avro", "protobuf", "string", "bytes", "int32", "int64"]),
    FieldKind::Keys(SCHEMA_FORMAT),
]);
const SCHEMA_FORMAT: &[Field] = &[
    Field::required("type", FieldKind::String, "`avro`, `protobuf`, or one of the others."),
    Field::optional(
        "schema",
        FieldKind::String,
        "The file with this side's schema; for Protobuf a descriptor file.",
    ),
    Field::optional(
        "message",
        FieldKind::String,
        "The message of a Protobuf file; not needed if it has one.",
    ),
    Field::optional(
        "subject",
        FieldKind::String,
        "The subject of what is written; default: `TOPIC-value`, `TOPIC-key`.",
    ),
    Field::optional(
        "registry",
        FieldKind::Boolean,
        "Whether records start with the id of their schema; default: true.",
    ),
];
const FORMAT: Field = Field::optional(
    "format",
    FORMATS,
    "The format of values; default: `json`. `avro` and `protobuf` take their schema from the registry, or from a file: \
     `{ type = \"avro\", schema = \"schemas/payment.avsc\" }`, with `message` for Protobuf, `subject` (default: \
     `TOPIC-value`, `TOPIC-key`), and `registry = false` for records without a schema's id. All others hold exactly one \
     column of their type.",
);
const KEY_FORMAT: Field = Field::optional(
    "key-format",
    FORMATS,
    "The format of keys, as `format`; default: the bytes themselves for one string, int32, int64 or bytes column, else a JSON object.",
);

const APP: &[Field] = &[
    Field::required("id", FieldKind::String, "The prefix of the consumer group and of every internal topic."),
    Field::optional(
        "guarantee",
        FieldKind::Choice(&["exactly-once", "at-least-once"]),
        "What a crash may do to results; default: `exactly-once`.",
    ),
    DESCRIPTION,
];

const KAFKA: &[Field] = &[
    Field::optional("brokers", FieldKind::String, "The bootstrap servers, `host:port,host:port`."),
    Field::optional(
        "security",
        FieldKind::Table,
        "How connections are protected, and who this is: `[kafka.security]`.",
    ),
    Field::optional(
        "properties",
        FieldKind::Table,
        "Properties of the client library: `[kafka.properties]`.",
    ),
    Field::optional("topics", FieldKind::Table, "How topics are made: `[kafka.topics]`."),
    Field::optional("registry", FieldKind::Table, "The schema registry: `[kafka.registry]`."),
];

// Choices are strings in the schema, since they may hold variables.
const KAFKA_SECURITY: &[Field] = &[
    Field::optional(
        "protocol",
        FieldKind::String,
        "`plaintext` (default), `ssl`, `sasl-plaintext` or `sasl-ssl`.",
    ),
    Field::optional(
        "ca",
        FieldKind::String,
        "PEM file or folder of the authorities that sign the brokers' certificates; default: the system's.",
    ),
    Field::optional("certificate", FieldKind::String, "PEM file of this client's certificate chain."),
    Field::optional("key", FieldKind::String, "PEM file of its private key."),
    Field::optional(
        "key-password",
        FieldKind::String,
        "What the key is encrypted with, as `\"${file:PATH}\"`.",
    ),
    Field::optional(
        "mechanism",
        FieldKind::String,
        "How SASL authenticates: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`.",
    ),
    Field::optional("username", FieldKind::String, "The user of PLAIN and SCRAM."),
    Field::optional("password", FieldKind::String, "Its password, as `\"${file:PATH}\"`."),
    Field::optional(
        "token-file",
        FieldKind::String,
        "The file with the token of OAUTHBEARER, a JSON web token; it is read again before the token expires.",
    ),
];

const KAFKA_TOPICS: &[Field] = &[
    Field::optional("replication-factor", FieldKind::Integer, "Replicas of each partition."),
    Field::optional(
        "min-insync-replicas",
        FieldKind::Integer,
        "Replicas that must have a record before it counts as written; at most `replication-factor`.",
    ),
    Field::optional(
        "partitions",
        FieldKind::Integer,
        "Partitions of topics of sources and sinks that `run --create-topics` and `feed` make. Internal topics have as many as \
         what writes them.",
    ),
    Field::optional(
        "max-message-bytes",
        FieldKind::String,
        "The largest batch of records that an internal topic takes, such as `4MiB`.",
    ),
];

const KAFKA_REGISTRY: &[Field] = &[
    Field::required(
        "url",
        FieldKind::String,
        "Its address, `http://host:port`; several are separated by commas.",
    ),
    Field::optional("username", FieldKind::String, "The user, if it asks for one."),
    Field::optional("password", FieldKind::String, "The user's password, as `\"${file:PATH}\"`."),
    Field::optional(
        "ca",
        FieldKind::String,
        "PEM file of the authorities that sign its certificate; default: the system's.",
    ),
    Field::optional(
        "register",
        FieldKind::Boolean,
        "Whether schemas of sinks are registered that it does not have; default: true.",
    ),
];

// Durations and sizes are strings in the schema, since they may hold variables.
const RUNTIME: &[Field] = &[
    Field::optional("threads", FieldKind::Integer, "Worker threads; default: the cores available."),
    Field::optional("state-dir", FieldKind::String, "Where local state lives; default: `./.millstream`."),
    Field::optional(
        "instance",
        FieldKind::String,
        "The name of the process, unique in the application; default: made once in `state-dir`.",
    ),
    Field::optional("commit-every", FieldKind::String, "The time between two commits; default: `100ms`."),
    Field::optional(
        "memory",
        FieldKind::String,
        "One budget for caches, write buffers, staged writes and queues; default: `1GiB`.",
    ),
    Field::optional(
        "listen",
        FieldKind::String,
        "The address of the HTTP server; default: `127.0.0.1:7780`.",
    ),
    Field::optional(
        "max-batch-rows",
        FieldKind::Integer,
        "The largest number of records that a task processes at once; default: 1024.",
    ),
    Field::optional(
        "max-task-idle",
        FieldKind::String,
        "How long a partition without lag is waited for; default: not at all.",
    ),
    Field::optional(
        "max-poll-interval",
        FieldKind::String,
        "Without progress for so long a process leaves the group; default: `5m`.",
    ),
    Field::optional(
        "session-timeout",
        FieldKind::String,
        "After so long a silence the group takes a process for gone; default: `45s`.",
    ),
    Field::optional(
        "transaction-timeout",
        FieldKind::String,
        "After so long the brokers end a transaction that nobody ends; default: `30s`.",
    ),
];

const VALUE: Field = Field::required(
    "value",
    FieldKind::Types,
    "The value's columns: name = type, or the name of one of `[types]`.",
);
const TIME: Field = Field::optional(
    "time",
    FieldKind::String,
    "The column that holds the event time; default: the record's timestamp.",
);
const HEADERS: Field = Field::optional(
    "headers",
    FieldKind::Named(&FieldKind::Types),
    "Columns that are read from headers: name = type.",
);
const METADATA: Field = Field::optional(
    "metadata",
    FieldKind::Named(&FieldKind::Choice(&["topic", "partition", "offset", "timestamp"])),
    "Columns with `topic`, `partition`, `offset` or `timestamp` of the record.",
);
const IDLE_AFTER: Field = Field::optional(
    "idle-after",
    FieldKind::Duration,
    "After so long a silence of all inputs, stream time follows the wall clock.",
);
const MAX_AHEAD: Field = Field::optional(
    "max-ahead",
    FieldKind::Duration,
    "How far an event time may lie beyond the wall clock; more is an error of the record.",
);

const SOURCE: &[Field] = &[
    DESCRIPTION,
    Field::required("topic", FieldKind::String, "The topic to read. A topic belongs to one source or table."),
    Field::optional(
        "key",
        FieldKind::Types,
        "The key's columns: name = type, or the name of one of `[types]`. Without: unkeyed.",
    ),
    VALUE,
    FORMAT,
    KEY_FORMAT,
    TIME,
    Field::optional(
        "start",
        FieldKind::OneOf(&[FieldKind::Choice(&["earliest", "latest"]), FieldKind::Time]),
        "Where to start without a committed offset: `earliest` (default), `latest` or a time.",
    ),
    HEADERS,
    METADATA,
    IDLE_AFTER,
    MAX_AHEAD,
    ON_ERROR,
    DEAD_LETTER,
];

const TABLE: &[Field] = &[
    DESCRIPTION,
    Field::required(
        "topic",
        FieldKind::String,
        "The topic to read, from its start. A topic belongs to one source or table.",
    ),
    Field::required(
        "key",
        FieldKind::Types,
        "The key's columns: name = type, or the name of one of `[types]`.",
    ),
    VALUE,
    FORMAT,
    KEY_FORMAT,
    TIME,
    HEADERS,
    METADATA,
    IDLE_AFTER,
    MAX_AHEAD,
    Field::optional(
        "scope",
        FieldKind::Choice(&["global"]),
        "`global`: every process holds all of the table, read before anything is processed and on while it runs, and a `join` looks \
         its rows up under any value (`on`). Nothing else can read it. Default: each process has the partitions of its tasks.",
    ),
    Field::optional(
        "history",
        FieldKind::Duration,
        "How long, in event time, older versions of rows are kept: joins of streams then see the table as of the event's time, and \
         the newest row is the one with the largest event time. Default: the newest row only, by the order of the records.",
    ),
    ON_ERROR,
    DEAD_LETTER,
];

const STEP: &[Field] = &[
    Field::required("op", FieldKind::String, "The operator."),
    Field::required(
        "from",
        FieldKind::Node,
        "The input: a source or step, `step.output`, or `{ node = \"…\", as = \"…\" }`.",
    ),
    DESCRIPTION,
    ON_ERROR,
    DEAD_LETTER,
];

const MODEL: &[Field] = &[
    DESCRIPTION,
    Field::required(
        "path",
        FieldKind::String,
        "The folder that holds a folder for each version, relative to this file.",
    ),
    Field::required(
        "version",
        FieldKind::String,
        "The version: a folder with `model.onnx`, `model.toml` and `golden.jsonl`, which are checked before anything runs.",
    ),
];

const EXPRESSION: Field =
    Field::required("expression", FieldKind::Sql, "SQL that gives the name of a topic that exists.");

const SINK: &[Field] = &[
    DESCRIPTION,
    Field::required("from", FieldKind::Node, "What is written: a source or step, or `step.output`."),
    Field::optional(
        "topic",
        FieldKind::OneOf(&[FieldKind::String, FieldKind::Keys(&[EXPRESSION])]),
        "The topic; default: the sink's name. `{ expression = \"…\" }` chooses it for each row.",
    ),
    FORMAT,
    KEY_FORMAT,
    Field::optional("columns", FieldKind::SqlTable, "The value's columns, exactly these: name = expression."),
    Field::optional(
        "include-key",
        FieldKind::Boolean,
        "Whether the key's columns stand in the value too; default: `false`.",
    ),
    Field::optional(
        "time",
        FieldKind::String,
        "The column that becomes the record's timestamp; default: the row's event time.",
    ),
    Field::optional("headers", FieldKind::SqlTable, "Headers to write: name = column."),
];

const KEY_BYTES: Field = Field::optional("key-bytes", FieldKind::String, "The key's bytes, in base64.");
const VALUE_BYTES: Field = Field::optional("value-bytes", FieldKind::String, "The value's bytes, in base64.");

/// What may go into a test.
const INPUTS: &[FieldKind] = &[
    FieldKind::Keys(&[
        Field::required("to", FieldKind::String, "A source or table."),
        Field::optional("key", FieldKind::Table, "The key's columns; without: a null key."),
        KEY_BYTES,
        Field::optional("value", FieldKind::Table, "The value's columns."),
        VALUE_BYTES,
        Field::optional("delete", FieldKind::Boolean, "`true`: a null value."),
        Field::optional("at", FieldKind::Time, "The timestamp; default: that of the input before."),
        Field::optional("headers", FieldKind::Named(&FieldKind::String), "Its headers."),
    ]),
    FieldKind::Keys(&[Field::required("advance", FieldKind::Duration, "How far stream time goes on.")]),
    FieldKind::Keys(&[Field::required("wall-clock", FieldKind::Duration, "How far the clock goes on.")]),
    FieldKind::Keys(&[Field::required("restart", FieldKind::Boolean, "`true`: everything is restored.")]),
];

/// What a test may expect.
const EXPECTED: &[Field] = &[
    Field::required(
        "from",
        FieldKind::String,
        "A source, step or sink, `step.output`, or `NODE.dead-letter`.",
    ),
    Field::optional("key", FieldKind::Table, "Columns of the key."),
    KEY_BYTES,
    Field::optional("value", FieldKind::Table, "Columns of the value."),
    VALUE_BYTES,
    Field::optional("null", FieldKind::Columns, "Columns that must be null."),
    Field::optional("delete", FieldKind::Boolean, "Whether it is a delete."),
    Field::optional("at", FieldKind::Time, "The event time."),
    Field::optional("code", FieldKind::String, "Of a dead letter: the error's code."),
    Field::optional("message", FieldKind::String, "Of a dead letter: a part of the error's message."),
];

const TEST: &[Field] = &[
    Field::required("name", FieldKind::String, "What is so, in words."),
    Field::required(
        "input",
        FieldKind::List(&FieldKind::OneOf(INPUTS)),
        "What goes in, in order: records (`to`, `key`, `value` or `delete = true`, `at`, `headers`; `key-bytes` and \
         `value-bytes` are raw bytes in base64), `{ advance = \"5m\" }`, `{ wall-clock = \"10s\" }`, `{ restart = true }`.",
    ),
    Field::optional(
        "expect",
        FieldKind::List(&FieldKind::Keys(EXPECTED)),
        "The rows of steps and sinks, in order: `from`, `key`, `value`, `null`, `delete`, `at`. Only the named columns are \
         compared; all rows of the named nodes must be here. `from = \"NODE.dead-letter\"` is a record that was set aside; it \
         may have `code`, `message` (a part of it), `key-bytes` and `value-bytes` too.",
    ),
    Field::optional(
        "none",
        FieldKind::Nodes,
        "The nodes that give no row; `NODE.dead-letter` for no dead letter.",
    ),
    Field::optional(
        "partial",
        FieldKind::Boolean,
        "Whether rows may come out that are not expected; default: `false`.",
    ),
    Field::optional("error", FieldKind::String, "The code of the error with which the test must stop."),
];

/// The JSON Schema (draft 2020-12) of a topology file with the operators of `registry`.
pub fn json_schema(registry: &Registry) -> Json {
    let mut properties = Map::new();
    for table in TABLES {
        let mut schema = match table.name {
            "sources" | "tables" | "sinks" | "models" => named(&table_schema(table.fields)),
            "steps" => named(&json!({ "oneOf": steps(registry) })),
            "tests" => json!({ "type": "array", "items": table_schema(table.fields) }),
            PROPERTIES => client_properties(),
            _ => table_schema(table.fields),
        };
        describe(&mut schema, table.doc);
        match table.name.split_once('.') {
            None => drop(properties.insert(table.name.to_owned(), schema)),
            // A table in a table comes after it.
            Some((outer, inner)) => {
                if let Some(fields) = properties.get_mut(outer).and_then(|outer| outer.get_mut("properties"))
                {
                    fields[inner] = schema;
                }
            }
        }
    }
    let mut types = named(&json!({ "$ref": "#/$defs/columns" }));
    describe(&mut types, "Named structs, which may stand wherever a type or a `value` stands.");
    properties.insert("types".to_owned(), types);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Millstream topology",
        "type": "object",
        "properties": properties,
        "required": ["app"],
        "anyOf": [{ "required": ["sources"] }, { "required": ["tables"] }],
        "additionalProperties": false,
        "$defs": {
            "type": {
                "description": "bool, int32, int64, float32, float64, decimal(p,s), string, bytes, date, timestamp, list<T>, \
                                the name of one of `[types]`, a struct as a table, or `{ type = …, field = \"…\" }`.",
                "oneOf": [{ "type": "string" }, { "$ref": "#/$defs/columns" }],
            },
            "columns": { "type": "object", "additionalProperties": { "$ref": "#/$defs/type" } },
            "input": {
                "oneOf": [
                    { "type": "string" },
                    {
                        "type": "object",
                        "properties": { "node": { "type": "string" }, "as": { "type": "string" } },
                        "required": ["node"],
                        "additionalProperties": false,
                    },
                ],
            },
        },
    })
}

/// A table of names, each with a table of this schema.
fn named(schema: &Json) -> Json {
    json!({ "type": "object", "patternProperties": { "^[a-z][a-z0-9_]*$": schema }, "additionalProperties": false })
}

/// The properties of the client library. Written without quotes, `linger.ms` is a table `linger` with a key `ms`.
fn client_properties() -> Json {
    let mut quoted = Map::new();
    let mut nested = Json::Object(Map::new());
    for (name, doc) in ALLOWED_PROPERTIES {
        let schema = json!({ "type": ["string", "integer", "boolean"], "description": doc });
        let mut table = &mut nested;
        for part in name.split('.') {
            table = &mut table[part];
        }
        table["schema"] = schema.clone();
        quoted.insert((*name).to_owned(), schema);
    }
    let mut schema = nested_properties(&nested);
    if let Some(properties) = schema.get_mut("properties").and_then(Json::as_object_mut) {
        properties.append(&mut quoted);
    }
    schema
}

/// The schema of a table of property names that are split at their dots; `schema` is that of the name that ends there.
fn nested_properties(names: &Json) -> Json {
    let inner = names.as_object().into_iter().flatten().filter(|(name, _)| *name != "schema");
    let properties: Map<String, Json> =
        inner.map(|(name, names)| (name.clone(), nested_properties(names))).collect();
    let table = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    match (names.get("schema"), properties.is_empty()) {
        (Some(value), true) => value.clone(),
        (Some(value), false) => json!({ "oneOf": [value, table] }),
        (None, _) => table,
    }
}

fn describe(schema: &mut Json, doc: &str) {
    if let Json::Object(schema) = schema {
        schema.insert("description".to_owned(), Json::String(doc.to_owned()));
    }
}

/// One schema for each operator, told apart by `op`.
fn steps(registry: &Registry) -> Vec<Json> {
    let of_operator = |spec: &&OperatorSpec| {
        let fields: Vec<Field> = STEP.iter().chain(spec.fields).copied().collect();
        let mut schema = table_schema(&fields);
        describe(&mut schema, spec.summary);
        if let Some(properties) = schema.get_mut("properties").and_then(Json::as_object_mut) {
            properties.insert("op".to_owned(), json!({ "const": spec.name, "description": spec.summary }));
            if spec.arity == Arity::Many {
                let from = json!({
                    "type": "array",
                    "items": { "$ref": "#/$defs/input" },
                    "minItems": 1,
                    "description": "The inputs: sources or steps.",
                });
                properties.insert("from".to_owned(), from);
            }
        }
        schema
    };
    registry.operators().iter().map(of_operator).collect()
}

/// The page of an operator, in Markdown.
pub fn operator_page(spec: &OperatorSpec) -> String {
    let mut page = format!("## {}\n\n{}\n\n", spec.name, spec.summary);
    page.push_str(match spec.arity {
        Arity::One => "Input: one node, `from = \"node\"`.\n\n",
        Arity::Many => "Input: several nodes, `from = [\"a\", \"b\"]`.\n\n",
        Arity::Two => "Input: two nodes, `from = \"a\"` and `with = \"b\"`.\n\n",
    });
    if !spec.fields.is_empty() {
        page.push_str(&fields_table(spec.fields));
        page.push('\n');
    }
    let _ = writeln!(page, "```toml\n{}\n```", spec.example.trim());
    page
}

/// The reference of all operators and tables, in Markdown: `docs/operators.md`.
pub fn operators_page() -> String {
    let mut page = "# Operators and keys\n\n\
        This page is made by `millstream` from what it knows itself; `millstream explain NAME` shows a part of it. What the \
        words mean is said in [the language](language.md).\n\n\
        Every step has `op` and `from`, and may have `description`, `on-error` and `dead-letter`.\n"
        .to_owned();
    for spec in OPERATORS {
        let _ = write!(page, "\n{}", operator_page(spec));
    }
    page.push_str("\n# Tables of the file\n");
    for table in TABLES {
        let _ = write!(page, "\n{}", table_page(table));
    }
    page
}

/// The page of a table of the file, in Markdown.
pub fn table_page(table: &Table) -> String {
    let heading = match table.name {
        "sources" | "tables" | "steps" | "models" | "sinks" => format!("[{}.NAME]", table.name),
        "tests" => "[[tests]]".to_owned(),
        name => format!("[{name}]"),
    };
    let fields = if table.name == PROPERTIES { properties_table() } else { fields_table(table.fields) };
    format!("## {heading}\n\n{}\n\n{fields}", table.doc)
}

fn properties_table() -> String {
    let mut table = "| property | |\n|---|---|\n".to_owned();
    for (name, doc) in ALLOWED_PROPERTIES {
        let _ = writeln!(table, "| `{name}` | {doc} |");
    }
    table
}

fn fields_table(fields: &[Field]) -> String {
    let mut table = "| key | takes | |\n|---|---|---|\n".to_owned();
    for field in fields {
        let needed = if field.required { "required" } else { "" };
        let takes = [kind_name(field.kind).as_str(), needed]
            .iter()
            .filter(|part| !part.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join(", ");
        let _ = writeln!(table, "| `{}` | {} | {} |", field.name, takes, field.doc.replace('|', "\\|"));
    }
    table
}

fn kind_name(kind: FieldKind) -> String {
    match kind {
        FieldKind::String => "string".to_owned(),
        FieldKind::Node => "node".to_owned(),
        FieldKind::Nodes => "list of nodes".to_owned(),
        FieldKind::Sql => "SQL".to_owned(),
        FieldKind::SqlTable => "table of name = text".to_owned(),
        FieldKind::Columns => "list of columns".to_owned(),
        FieldKind::ColumnsOrSql => "list of columns, or table of name = SQL".to_owned(),
        FieldKind::Duration => "duration".to_owned(),
        FieldKind::Size => "size".to_owned(),
        FieldKind::Time => "time".to_owned(),
        FieldKind::Integer => "integer".to_owned(),
        FieldKind::Boolean => "`true` or `false`".to_owned(),
        FieldKind::Choice(choices) => {
            choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(" or ")
        }
        FieldKind::Table | FieldKind::Keys(_) => "table".to_owned(),
        FieldKind::Types => "table of name = type".to_owned(),
        FieldKind::Named(kind) => format!("table of name = {}", kind_name(*kind)),
        FieldKind::List(kind) => format!("list of {}", kind_name(*kind)),
        FieldKind::OneOf(kinds) => {
            let mut names: Vec<String> = kinds.iter().map(|kind| kind_name(*kind)).collect();
            names.dedup();
            names.join(", or ")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::topology::read;

    const UNKNOWN: &str = "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzz";

    /// The keys that the reader of a table says it knows, when it finds one that it does not.
    fn known_keys(text: &str) -> Vec<String> {
        let (_, findings) = read(text, Path::new("."), &|_| None);
        let finding = findings.iter().find(|finding| finding.message.contains(UNKNOWN));
        let help = finding
            .and_then(|finding| finding.help.as_deref())
            .unwrap_or_else(|| panic!("{text}\n{findings:?}"));
        let mut keys: Vec<String> = help.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        keys.sort();
        keys
    }

    #[test]
    fn the_lists_are_those_of_the_reader() {
        for table in TABLES.iter().filter(|table| table.name != PROPERTIES) {
            let text = match table.name {
                "sources" | "tables" | "models" | "sinks" => format!("[{}.a]\n{UNKNOWN} = 1", table.name),
                "steps" => format!("[steps.a]\nop = \"merge\"\n{UNKNOWN} = 1"),
                "tests" => format!("[[tests]]\n{UNKNOWN} = 1"),
                name => format!("[{name}]\n{UNKNOWN} = 1"),
            };
            let mut ours: Vec<String> = table.fields.iter().map(|field| field.name.to_owned()).collect();
            ours.sort();
            assert_eq!(ours, known_keys(&text), "[{}]", table.name);
        }
        let outer = TABLES.iter().filter(|table| !table.name.contains('.'));
        let mut tables: Vec<String> = outer.map(|table| table.name.to_owned()).collect();
        tables.push("types".to_owned());
        tables.sort();
        assert_eq!(tables, known_keys(&format!("{UNKNOWN} = 1")));
    }

    /// Compares a file of `docs/` with what it is made from; `MILLSTREAM_ACCEPT=1` writes it.
    fn assert_current(file: &str, content: &str) {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs")).join(file);
        if std::env::var_os("MILLSTREAM_ACCEPT").is_some() {
            std::fs::write(&path, content).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == content,
            "docs/{file} is not current: run `MILLSTREAM_ACCEPT=1 cargo test -p millstream-engine reference`"
        );
    }

    #[test]
    fn the_pages_are_current() {
        assert_current("operators.md", &operators_page());
        assert_current(
            "schema.json",
            &format!("{}\n", serde_json::to_string_pretty(&json_schema(&Registry::default())).unwrap()),
        );
    }
}
