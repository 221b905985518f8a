//! `describe`: shows what runs.

use std::io::{self, Write};

use crate::engine::plan::describe::Description;
use crate::operators::registry::Registry;

use super::arguments::{Describe, DescribeFormat};
use super::failure::Failure;
use super::files::load;

pub fn describe(arguments: &Describe, registry: &Registry) -> Result<(), Failure> {
    let loaded = load(&arguments.file, registry)?;
    let description = Description::new(&loaded.topology, &loaded.plan, arguments.partitions)?;
    let mut text = match arguments.format {
        DescribeFormat::Text => description.to_text(),
        DescribeFormat::Json => description.to_json(),
        DescribeFormat::Dot => description.to_dot(),
        DescribeFormat::Mermaid => description.to_mermaid(),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}
