//! `new`: a folder to start from.

use std::io::{self, Write};
use std::path::Path;

use super::arguments::New;
use super::failure::{Exit, Failure};

/// The files of a new folder; `{{name}}` stands for its name.
const FILES: [(&str, &str); 3] = [
    ("topology.toml", include_str!("new/topology.toml")),
    ("README.md", include_str!("new/README.md")),
    ("payments.csv", include_str!("new/payments.csv")),
];

/// Kafka allows 249 characters in the name of a topic, and internal topics put more after the application's name.
const LONGEST_NAME: usize = 100;

pub fn new(arguments: &New) -> Result<(), Failure> {
    let name = arguments.name.trim_end_matches('/');
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if !plain || name.is_empty() || name.starts_with(['.', '-']) || name.len() > LONGEST_NAME {
        let message = format!(
            "`{name}` cannot name an application: use up to {LONGEST_NAME} letters, digits, `.`, `_` and `-`, and begin with \
             a letter or digit"
        );
        return Err(Failure::new(Exit::Usage, message));
    }
    let folder = Path::new(name);
    std::fs::create_dir(folder).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            let message =
                format!("`{name}` is there already, and nothing in it is overwritten: choose another name");
            Failure::new(Exit::Refused, message)
        }
        _ => Failure::file("make the folder", folder, &error),
    })?;
    for (file, content) in FILES {
        let path = folder.join(file);
        std::fs::write(&path, content.replace("{{name}}", name))
            .map_err(|error| Failure::file("write", &path, &error))?;
    }
    let next = format!(
        "made {name}/ with a topology, data and tests. Next:\n\n  cd {name}\n  millstream test topology.toml\n  \
         millstream dev topology.toml --feed payments=payments.csv --out out --until-end\n"
    );
    Ok(io::stdout().lock().write_all(next.as_bytes())?)
}
