//! Avro schemas: what their JSON says.

use hashbrown::HashMap;
use serde_json::{Map, Value as Json};

/// A schema and the types that it names.
#[derive(Debug, Default)]
pub(crate) struct AvroSchema {
    pub root: Schema,
    names: HashMap<String, Schema>,
}

/// A type of Avro.
#[derive(Clone, Debug, Default)]
pub(crate) enum Schema {
    #[default]
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Array(Box<Schema>),
    Map(Box<Schema>),
    Union(Vec<Schema>),
    Record(String, Vec<Field>),
    Enum(String, Vec<String>),
    Fixed(usize),
    Date,
    /// How many units are a millisecond.
    Timestamp(i64),
    Decimal {
        size: Option<usize>,
        precision: u8,
        scale: i8,
    },
    /// A type that is named elsewhere, by its full name.
    Named(String),
}

/// A field of a record.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub name: String,
    pub aliases: Vec<String>,
    pub schema: Schema,
    pub default: Option<Json>,
}

impl AvroSchema {
    /// Reads a schema, and before it those that it refers to.
    ///
    /// # Errors
    /// If it is none.
    pub(crate) fn parse<'t>(
        text: &'t str,
        references: impl Iterator<Item = &'t str>,
    ) -> Result<Self, String> {
        let mut names = HashMap::new();
        let mut root = Schema::Null;
        for text in references.chain(std::iter::once(text)) {
            // A primitive type may stand without quotes.
            let json = serde_json::from_str(text).or_else(|error| match text.trim() {
                word if word.chars().all(|c| c.is_ascii_alphabetic()) => Ok(Json::String(word.to_owned())),
                _ => Err(format!("it is no JSON: {error}")),
            })?;
            root = Parser { names: &mut names }.schema(&json, "")?;
        }
        let schema = AvroSchema { root, names };
        Ok(schema)
    }

    /// The type itself where a name stands for it.
    pub(crate) fn resolved<'s>(&'s self, schema: &'s Schema) -> &'s Schema {
        match schema {
            Schema::Named(name) => self.names.get(name).unwrap_or(schema),
            other => other,
        }
    }
}

impl Schema {
    /// The type in messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Schema::Null => "null".to_owned(),
            Schema::Boolean => "boolean".to_owned(),
            Schema::Int => "int".to_owned(),
            Schema::Long => "long".to_owned(),
            Schema::Float => "float".to_owned(),
            Schema::Double => "double".to_owned(),
            Schema::Bytes => "bytes".to_owned(),
            Schema::String => "string".to_owned(),
            Schema::Array(item) => format!("an array of {}", item.describe()),
            Schema::Map(value) => format!("a map of {}", value.describe()),
            Schema::Union(variants) => {
                let variants: Vec<String> = variants.iter().map(Schema::describe).collect();
                format!("a union of {}", variants.join(", "))
            }
            Schema::Record(name, _) => format!("the record `{name}`"),
            Schema::Enum(name, _) => format!("the enum `{name}`"),
            Schema::Fixed(size) => format!("{size} fixed bytes"),
            Schema::Date => "date".to_owned(),
            Schema::Timestamp(1) => "timestamp-millis".to_owned(),
            Schema::Timestamp(1_000) => "timestamp-micros".to_owned(),
            Schema::Timestamp(_) => "timestamp-nanos".to_owned(),
            Schema::Decimal { precision, scale, .. } => format!("decimal({precision},{scale})"),
            Schema::Named(name) => format!("`{name}`"),
        }
    }
}

struct Parser<'n> {
    names: &'n mut HashMap<String, Schema>,
}

impl Parser<'_> {
    fn schema(&mut self, json: &Json, namespace: &str) -> Result<Schema, String> {
        match json {
            Json::String(name) => self.named(name, namespace),
            Json::Array(variants) => {
                let variants: Result<Vec<Schema>, String> =
                    variants.iter().map(|variant| self.schema(variant, namespace)).collect();
                let variants = variants?;
                if variants.iter().any(|variant| matches!(variant, Schema::Union(_))) {
                    return Err("a union holds a union".to_owned());
                }
                Ok(Schema::Union(variants))
            }
            Json::Object(object) => match object.get("type") {
                Some(Json::String(name)) => self.complex(name, object, namespace),
                Some(inner @ (Json::Object(_) | Json::Array(_))) => self.schema(inner, namespace),
                _ => Err("a schema has no `type`".to_owned()),
            },
            other => Err(format!("`{other}` is no schema")),
        }
    }

    /// A primitive type, or one that has been named before.
    fn named(&self, name: &str, namespace: &str) -> Result<Schema, String> {
        Ok(match name {
            "null" => Schema::Null,
            "boolean" => Schema::Boolean,
            "int" => Schema::Int,
            "long" => Schema::Long,
            "float" => Schema::Float,
            "double" => Schema::Double,
            "bytes" => Schema::Bytes,
            "string" => Schema::String,
            name => {
                let full = full_name(name, namespace);
                // A name without a dot may be one without a namespace, too.
                let found = [full, name.to_owned()].into_iter().find(|name| self.names.contains_key(name));
                Schema::Named(found.ok_or_else(|| format!("the type `{name}` is not known"))?)
            }
        })
    }

    fn complex(&mut self, kind: &str, object: &Map<String, Json>, namespace: &str) -> Result<Schema, String> {
        let inner = |key: &str| object.get(key).ok_or_else(|| format!("a type `{kind}` has no `{key}`"));
        match kind {
            "array" => Ok(Schema::Array(Box::new(self.schema(inner("items")?, namespace)?))),
            "map" => Ok(Schema::Map(Box::new(self.schema(inner("values")?, namespace)?))),
            "record" | "error" | "enum" | "fixed" => {
                let name = inner("name")?.as_str().ok_or("a type's `name` is no string")?;
                let own = object.get("namespace").and_then(Json::as_str).unwrap_or(namespace);
                let full = full_name(name, own);
                let namespace = full.rsplit_once('.').map_or("", |(namespace, _)| namespace);
                if self.names.contains_key(&full) {
                    return Err(format!("the type `{full}` is there twice"));
                }
                // Its own fields may name it.
                self.names.insert(full.clone(), Schema::Named(full.clone()));
                let schema = match kind {
                    "enum" => {
                        let symbols = inner("symbols")?.as_array().ok_or("`symbols` is no list")?;
                        let symbols: Option<Vec<String>> =
                            symbols.iter().map(|symbol| symbol.as_str().map(str::to_owned)).collect();
                        Schema::Enum(full.clone(), symbols.ok_or("a symbol is no string")?)
                    }
                    "fixed" => {
                        let size = inner("size")?.as_u64().and_then(|size| usize::try_from(size).ok());
                        let size = size.ok_or("the `size` of a fixed type is no number")?;
                        logical(Schema::Fixed(size), object)
                    }
                    _ => {
                        let fields = inner("fields")?.as_array().ok_or("`fields` is no list")?;
                        let fields: Result<Vec<Field>, String> =
                            fields.iter().map(|field| self.field(field, namespace)).collect();
                        Schema::Record(full.clone(), fields?)
                    }
                };
                self.names.insert(full, schema.clone());
                Ok(schema)
            }
            name => Ok(logical(self.named(name, namespace)?, object)),
        }
    }

    fn field(&mut self, json: &Json, namespace: &str) -> Result<Field, String> {
        let name = json.get("name").and_then(Json::as_str).ok_or("a field has no `name`")?;
        let schema = json.get("type").ok_or_else(|| format!("the field `{name}` has no `type`"))?;
        let aliases = json.get("aliases").and_then(Json::as_array).into_iter().flatten();
        Ok(Field {
            name: name.to_owned(),
            aliases: aliases.filter_map(|alias| alias.as_str().map(str::to_owned)).collect(),
            schema: self.schema(schema, namespace).map_err(|why| format!("field `{name}`: {why}"))?,
            default: json.get("default").cloned(),
        })
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    match name.contains('.') || namespace.is_empty() {
        true => name.trim_start_matches('.').to_owned(),
        false => format!("{namespace}.{name}"),
    }
}

/// The logical type, where there is one that is known and fits; otherwise the type that carries it, as the specification
/// says.
fn logical(schema: Schema, object: &Map<String, Json>) -> Schema {
    let number = |key: &str| object.get(key).and_then(Json::as_u64);
    match (object.get("logicalType").and_then(Json::as_str), schema) {
        (Some("date"), Schema::Int) => Schema::Date,
        (Some("timestamp-millis" | "local-timestamp-millis"), Schema::Long) => Schema::Timestamp(1),
        (Some("timestamp-micros" | "local-timestamp-micros"), Schema::Long) => Schema::Timestamp(1_000),
        (Some("timestamp-nanos" | "local-timestamp-nanos"), Schema::Long) => Schema::Timestamp(1_000_000),
        (Some("decimal"), schema @ (Schema::Bytes | Schema::Fixed(_))) => {
            let precision = number("precision").and_then(|precision| u8::try_from(precision).ok());
            let scale = i8::try_from(number("scale").unwrap_or(0)).ok();
            match (precision.filter(|precision| *precision > 0), scale) {
                (Some(precision), Some(scale)) => {
                    let size = if let Schema::Fixed(size) = schema { Some(size) } else { None };
                    Schema::Decimal { size, precision, scale }
                }
                _ => schema,
            }
        }
        (_, schema) => schema,
    }
}
