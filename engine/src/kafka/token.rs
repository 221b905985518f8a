//! The token of OAUTHBEARER: a JSON web token in a file.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::error::{KafkaError, code};

/// A token, and what librdkafka has to know of it.
#[derive(Debug)]
pub(super) struct Token {
    pub value: String,
    /// Whom it is for: `sub`.
    pub principal: String,
    /// Until when it is good, in milliseconds since 1970: `exp`.
    pub expires_ms: i64,
}

/// Reads the token. Whether a broker accepts it is the broker's matter: its signature is not checked here.
pub(super) fn read(file: &Path) -> Result<Token, KafkaError> {
    let wrong = |message: String| KafkaError::new(code::AUTHENTICATION, message);
    let value = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?.trim().to_owned();
    let claims = value
        .split('.')
        .nth(1)
        .and_then(|claims| URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok())
        .and_then(|claims| serde_json::from_slice::<serde_json::Value>(&claims).ok())
        .ok_or_else(|| wrong("it holds no JSON web token".to_owned()))?;
    let expires = claims.get("exp").and_then(serde_json::Value::as_f64);
    let expires =
        expires.ok_or_else(|| wrong("the token has no `exp`, the time until when it is good".to_owned()))?;
    let principal = claims.get("sub").and_then(serde_json::Value::as_str).unwrap_or("unknown").to_owned();
    Ok(Token { value, principal, expires_ms: (expires * 1000.0) as i64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> Result<Token, KafkaError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("e30.{}.sig\n", URL_SAFE_NO_PAD.encode(claims))).unwrap();
        read(file.path())
    }

    #[test]
    fn a_token_is_read_with_its_subject_and_end() {
        let token = token(r#"{"sub": "me", "exp": 1767225600.5}"#).unwrap();
        assert_eq!((token.principal.as_str(), token.expires_ms), ("me", 1_767_225_600_500));
        assert!(token.value.ends_with(".sig"));
    }

    #[test]
    fn what_is_no_token_is_said_to_be_none() {
        assert!(token(r#"{"sub": "me"}"#).unwrap_err().message().contains("`exp`"));
        assert!(token("me").unwrap_err().message().contains("no JSON web token"));
        assert!(read(Path::new("/nowhere/token")).unwrap_err().message().contains("No such file"));
    }
}
