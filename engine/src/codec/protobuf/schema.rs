//! Schemas of Protobuf: descriptors of files, and what is made of columns.
//!
//! A schema's text is the descriptor of its file in base64, as registries take it and give it (`format=serialized`).

use std::path::Path;

use arrow::datatypes::DataType;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use millstream_operators::diagnostic::listed;
use millstream_operators::schema::type_name;
use prost_reflect::prost::Message;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, OneofDescriptorProto,
};
use prost_reflect::{DescriptorPool, FileDescriptor, MessageDescriptor};

use super::super::layout::FieldLayout;
use crate::schema_registry::{SchemaKind, SchemaText};

/// The name of a file that comes without one.
const MAIN: &str = "schema.proto";
/// Files that every registry and every library has.
const WELL_KNOWN: &str = "google/protobuf/";

/// A schema that has been read.
#[derive(Clone, Debug)]
pub(crate) struct ProtobufSchema {
    file: FileDescriptor,
}

impl ProtobufSchema {
    /// Reads a schema and what it imports.
    ///
    /// # Errors
    /// If it is none.
    pub(crate) fn parse(schema: &SchemaText) -> Result<Self, String> {
        let mut files = Vec::new();
        for (name, text) in &schema.references {
            files.push(descriptor(text, name)?);
        }
        files.push(descriptor(&schema.text, MAIN)?);
        let mut pool = DescriptorPool::global();
        // What is well known is there already.
        files.retain(|file| !file.name().starts_with(WELL_KNOWN));
        let main = files.last().map(|file| file.name().to_owned()).unwrap_or_default();
        pool.add_file_descriptor_protos(files).map_err(|error| error.to_string())?;
        let file = pool.get_file_by_name(&main).ok_or_else(|| "the schema is empty".to_owned())?;
        Ok(ProtobufSchema { file })
    }

    /// The message of a name, with or without its package; without a name the only one.
    ///
    /// # Errors
    /// If it is not there, or several are and none is named.
    pub(crate) fn message(&self, name: Option<&str>) -> Result<MessageDescriptor, String> {
        let mut all = Vec::new();
        collect(self.file.messages(), &mut all);
        let names = || listed(all.iter().map(MessageDescriptor::full_name));
        let package = self.file.package_name();
        let is_named = |message: &&MessageDescriptor, name: &str| {
            let full = message.full_name();
            full == name || full.strip_prefix(package).and_then(|rest| rest.strip_prefix('.')) == Some(name)
        };
        match name {
            Some(name) => {
                let found = all.iter().find(|message| is_named(message, name));
                found
                    .cloned()
                    .ok_or_else(|| format!("it has no message `{name}`; its messages are {}", names()))
            }
            None => {
                let mut top = self.file.messages();
                match (top.next(), top.next()) {
                    (Some(one), None) => Ok(one),
                    (None, _) => Err("it has no message".to_owned()),
                    _ => Err(format!("it has several messages, and `message` names none: {}", names())),
                }
            }
        }
    }

    /// The message at a place: the first number counts the file's messages, the others those within.
    pub(crate) fn at(&self, indexes: &[usize]) -> Option<MessageDescriptor> {
        let (first, rest) = indexes.split_first()?;
        let top = self.file.messages().nth(*first)?;
        rest.iter().try_fold(top, |message, index| message.child_messages().nth(*index))
    }
}

/// The descriptor of a file. Its name is the one that others import it by.
fn descriptor(text: &str, name: &str) -> Result<FileDescriptorProto, String> {
    let bytes = BASE64.decode(text.trim()).map_err(|_| {
        "it is the text of a `.proto` file, and not its descriptor (`format=serialized`), which this registry does not give"
            .to_owned()
    })?;
    let file = FileDescriptorProto::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
    Ok(FileDescriptorProto { name: Some(name.to_owned()), ..file })
}

fn collect(messages: impl Iterator<Item = MessageDescriptor>, all: &mut Vec<MessageDescriptor>) {
    for message in messages.filter(|message| !message.is_map_entry()) {
        all.push(message.clone());
        collect(message.child_messages(), all);
    }
}

/// Reads a descriptor file: `protoc --include_imports --descriptor_set_out=…`.
///
/// # Errors
/// If it is none, or does not have the message.
pub(crate) fn read_file(path: &Path, message: Option<&str>) -> Result<SchemaText, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let how = "`protoc --include_imports --descriptor_set_out=FILE` makes one";
    let set = FileDescriptorSet::decode(bytes.as_slice())
        .map_err(|_| format!("it is no descriptor file; {how}"))?;
    let names: Vec<String> = set.file.iter().map(|file| file.name().to_owned()).collect();
    let mut pool = DescriptorPool::global();
    let own = set.file.into_iter().filter(|file| !file.name().starts_with(WELL_KNOWN));
    pool.add_file_descriptor_protos(own).map_err(|error| format!("{error}; {how}"))?;
    let files: Vec<FileDescriptor> = names
        .iter()
        .filter(|name| !name.starts_with(WELL_KNOWN))
        .filter_map(|name| pool.get_file_by_name(name))
        .collect();
    // The file that holds the message; what files import comes before them.
    let of = |file: &FileDescriptor| ProtobufSchema { file: file.clone() }.message(message);
    let main = match (files.iter().rev().find(|file| of(file).is_ok()), files.last()) {
        (Some(main), _) => main,
        (None, Some(last)) => return Err(of(last).err().unwrap_or_default()),
        (None, None) => return Err(format!("it is empty; {how}")),
    };
    let encoded = |file: &FileDescriptor| BASE64.encode(file.encode_to_vec());
    let mut references = Vec::new();
    imported(main, &mut references);
    let references = references.iter().map(|file| (file.name().to_owned(), encoded(file))).collect();
    Ok(SchemaText { kind: SchemaKind::Protobuf, text: encoded(main), references })
}

/// What a file imports, each before what needs it.
fn imported(file: &FileDescriptor, found: &mut Vec<FileDescriptor>) {
    for dependency in file.dependencies() {
        let known = found.iter().any(|known| known.name() == dependency.name());
        if !known && !dependency.name().starts_with(WELL_KNOWN) {
            imported(&dependency, found);
            found.push(dependency);
        }
    }
}

/// The schema that columns are written with if the user gives none. Fields are optional, since every column may be null, and
/// numbered in the order of the columns.
///
/// # Errors
/// If Protobuf has no type for a column.
pub(crate) fn derived<'f>(
    name: &str,
    fields: impl IntoIterator<Item = &'f FieldLayout>,
) -> Result<String, String> {
    let file = FileDescriptorProto {
        name: Some(MAIN.to_owned()),
        syntax: Some("proto3".to_owned()),
        dependency: vec!["google/protobuf/timestamp.proto".to_owned()],
        message_type: vec![message(name, "", fields)?],
        ..Default::default()
    };
    Ok(BASE64.encode(file.encode_to_vec()))
}

fn message<'f>(
    name: &str,
    outer: &str,
    fields: impl IntoIterator<Item = &'f FieldLayout>,
) -> Result<DescriptorProto, String> {
    let full = format!("{outer}.{name}");
    let mut message = DescriptorProto { name: Some(name.to_owned()), ..Default::default() };
    for (field, number) in fields.into_iter().zip(1..) {
        let item = field.children.first().filter(|_| matches!(field.data_type, DataType::List(_)));
        let of = item.unwrap_or(field);
        let (of_type, of_message) = match &of.data_type {
            DataType::Boolean => (Type::Bool, None),
            DataType::Int32 => (Type::Int32, None),
            DataType::Int64 => (Type::Int64, None),
            DataType::Float32 => (Type::Float, None),
            DataType::Float64 => (Type::Double, None),
            DataType::Utf8 => (Type::String, None),
            DataType::Binary => (Type::Bytes, None),
            DataType::Timestamp(..) => (Type::Message, Some(format!(".{}", super::TIMESTAMP))),
            DataType::Struct(_) => {
                let inner = format!("{}_message", field.field);
                message.nested_type.push(self::message(&inner, &full, &of.children)?);
                (Type::Message, Some(format!("{full}.{inner}")))
            }
            other => {
                return Err(format!(
                    "field `{}`: Protobuf has no type for {}; cast it to string",
                    field.field,
                    type_name(other)
                ));
            }
        };
        // An optional field is a choice of one.
        let oneof = item.is_none().then(|| {
            message
                .oneof_decl
                .push(OneofDescriptorProto { name: Some(format!("_{}", field.field)), ..Default::default() });
            i32::try_from(message.oneof_decl.len() - 1).unwrap_or_default()
        });
        let label = if item.is_some() { Label::Repeated } else { Label::Optional };
        message.field.push(FieldDescriptorProto {
            name: Some(field.field.clone()),
            number: Some(number),
            label: Some(label.into()),
            r#type: Some(of_type.into()),
            type_name: of_message,
            oneof_index: oneof,
            proto3_optional: oneof.map(|_| true),
            ..Default::default()
        });
    }
    Ok(message)
}
