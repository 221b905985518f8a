//! `diff`: says what a change of a topology does to its state.

use std::io::{self, Write};

use crate::engine::plan::diff;
use crate::operators::registry::Registry;

use super::arguments::{Diff, Format};
use super::failure::{Exit, Failure};
use super::files::load;

pub fn diff(arguments: &Diff, registry: &Registry) -> Result<(), Failure> {
    let (old, new) = (load(&arguments.old, registry)?, load(&arguments.new, registry)?);
    let diff = diff::Diff::new((&old.topology, &old.plan), (&new.topology, &new.plan), arguments.partitions)?;
    let mut text = match arguments.format {
        Format::Text => diff.to_text(),
        Format::Json => diff.to_json(),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    io::stdout().lock().write_all(text.as_bytes())?;
    if diff.loses_nothing() { Ok(()) } else { Err(Failure::said(Exit::Refused)) }
}
