//! Points in time: RFC 3339 text, or a TOML date and time with an offset.

use millstream_operators::config::Fields;
use millstream_operators::diagnostic::{Code, Diagnostic};
use toml::de::DeValue;

use crate::codec::text::parse_timestamp;

/// The point in time at `key`.
pub(super) fn at(fields: &Fields<'_>, key: &str) -> Option<i64> {
    let value = fields.get(key)?;
    let text = match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        _ => {
            fields.wrong_type(key, value, "a point in time, such as \"2026-01-01T00:00:00Z\"");
            return None;
        }
    };
    let time = parse_timestamp(&text);
    if time.is_none() {
        fields.diagnostics().push(
            Diagnostic::error(
                Code::InvalidTimestamp,
                value.span(),
                format!("`{text}` is not a point in time"),
            )
            .help("write RFC 3339: date, time and offset, such as \"2026-01-01T00:00:00Z\""),
        );
    }
    time
}
