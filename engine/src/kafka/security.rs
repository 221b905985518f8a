//! How a client proves who it is and how its connection is protected: `[kafka.security]`, resolved.

use std::fmt;
use std::path::{Path, PathBuf};

/// Text that is never printed: `Debug` shows three asterisks, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for whoever has to send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What the connection to a broker is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Neither encrypted nor authenticated.
    #[default]
    Plaintext,
    /// TLS; with a client certificate also authenticated.
    Ssl,
    /// SASL over an open connection.
    SaslPlaintext,
    /// SASL over TLS.
    SaslSsl,
}

impl Protocol {
    /// Every protocol, for messages that list them.
    pub const ALL: [Self; 4] = [Self::Plaintext, Self::Ssl, Self::SaslPlaintext, Self::SaslSsl];

    /// As it is written in a topology.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl-plaintext",
            Self::SaslSsl => "sasl-ssl",
        }
    }

    /// The protocol with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name() == name)
    }

    /// Whether the connection is encrypted.
    pub fn uses_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    /// Whether a user or token is sent.
    pub fn uses_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }

    fn property(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }
}

/// How a user is authenticated by SASL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// The password as it is: only over TLS is it hidden from the network.
    Plain,
    /// Challenge and response over SHA-256.
    ScramSha256,
    /// Challenge and response over SHA-512.
    ScramSha512,
    /// A JSON web token, read from a file and read again before it expires.
    OauthBearer,
}

impl Mechanism {
    /// Every mechanism, for messages that list them.
    pub const ALL: [Self; 4] = [Self::Plain, Self::ScramSha256, Self::ScramSha512, Self::OauthBearer];

    /// The name that Kafka and a topology use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }

    /// The mechanism with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.name() == name)
    }
}

/// The security of every connection of a process. The default is an open connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Encryption and authentication.
    pub protocol: Protocol,
    /// PEM file or folder of the authorities that sign the brokers' certificates; default: the system's.
    pub ca: Option<PathBuf>,
    /// PEM file of the client's certificate chain.
    pub certificate: Option<PathBuf>,
    /// PEM file of the client's private key.
    pub key: Option<PathBuf>,
    /// What `key` is encrypted with.
    pub key_password: Option<Secret>,
    /// How SASL authenticates.
    pub mechanism: Option<Mechanism>,
    /// The user of PLAIN and SCRAM.
    pub username: Option<String>,
    /// The password of PLAIN and SCRAM.
    pub password: Option<Secret>,
    /// The file that holds the token of OAUTHBEARER, a JSON web token with `exp`, as Kubernetes and most agents write
    /// it. It is read again when four fifths of the token's life have passed.
    pub token_file: Option<PathBuf>,
}

/// A field of `[kafka.security]` that does not go with the others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {message}")]
pub struct SecurityProblem {
    /// The field as it is written, or the one that is missing.
    pub field: &'static str,
    /// Whether the field is missing rather than wrong.
    pub missing: bool,
    /// What is wrong with it and what to do.
    pub message: String,
}

impl Security {
    /// Every contradiction in the fields. Whether the files exist is seen when a client starts.
    pub fn problems(&self) -> Vec<SecurityProblem> {
        let protocol = self.protocol.name();
        let mut problems = Vec::new();
        let mut report = |field, missing, message: String| {
            problems.push(SecurityProblem { field, missing, message });
        };
        let tls = [
            ("ca", self.ca.is_some()),
            ("certificate", self.certificate.is_some()),
            ("key", self.key.is_some()),
            ("key-password", self.key_password.is_some()),
        ];
        if !self.protocol.uses_tls() {
            for (field, _) in tls.into_iter().filter(|(_, given)| *given) {
                let message =
                    format!("is for TLS, which `{protocol}` does not use: choose `ssl` or `sasl-ssl`");
                report(field, false, message);
            }
        } else if self.certificate.is_some() != self.key.is_some() {
            let (given, absent) =
                if self.key.is_some() { ("key", "certificate") } else { ("certificate", "key") };
            report(absent, true, format!("is needed with `{given}`"));
        } else if self.key_password.is_some() && self.key.is_none() {
            report("key", true, "is needed with `key-password`".to_owned());
        }

        let user = [("username", self.username.is_some()), ("password", self.password.is_some())];
        let token = ("token-file", self.token_file.is_some());
        match (self.protocol.uses_sasl(), self.mechanism) {
            (false, mechanism) => {
                let fields = [("mechanism", mechanism.is_some()), token].into_iter().chain(user);
                for (field, _) in fields.filter(|(_, given)| *given) {
                    let message = format!(
                        "is for SASL, which `{protocol}` does not use: choose `sasl-ssl` or `sasl-plaintext`"
                    );
                    report(field, false, message);
                }
            }
            (true, None) => {
                let names = Mechanism::ALL.map(Mechanism::name).join(", ");
                report("mechanism", true, format!("is needed with `{protocol}`: one of {names}"));
            }
            (true, Some(Mechanism::OauthBearer)) => {
                if self.token_file.is_none() {
                    report(
                        "token-file",
                        true,
                        "is needed with OAUTHBEARER: the file that holds the token".to_owned(),
                    );
                }
                for (field, _) in user.into_iter().filter(|(_, given)| *given) {
                    report(field, false, "is not used by OAUTHBEARER, which sends a token".to_owned());
                }
            }
            (true, Some(mechanism)) => {
                let name = mechanism.name();
                for (field, _) in user.into_iter().filter(|(_, given)| !given) {
                    report(field, true, format!("is needed with {name}"));
                }
                if self.token_file.is_some() {
                    report("token-file", false, format!("is for OAUTHBEARER, not {name}"));
                }
            }
        }
        problems
    }

    /// The first file that cannot be read, by the name of its field: librdkafka would not say which one it was.
    pub(super) fn unreadable(&self) -> Option<(&'static str, &Path, std::io::Error)> {
        let files = [
            ("ca", &self.ca),
            ("certificate", &self.certificate),
            ("key", &self.key),
            ("token-file", &self.token_file),
        ];
        files.into_iter().find_map(|(field, file)| {
            let file = file.as_deref()?;
            std::fs::File::open(file).err().map(|error| (field, file, error))
        })
    }

    /// The properties of librdkafka that say the same. The values hold secrets: never print them.
    pub(super) fn properties(&self) -> Vec<(&'static str, String)> {
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let mut properties = vec![("security.protocol", self.protocol.property().to_owned())];
        properties.extend(self.ca.as_ref().map(|ca| ("ssl.ca.location", path(ca))));
        properties.extend(self.certificate.as_ref().map(|file| ("ssl.certificate.location", path(file))));
        properties.extend(self.key.as_ref().map(|file| ("ssl.key.location", path(file))));
        properties
            .extend(self.key_password.as_ref().map(|word| ("ssl.key.password", word.reveal().to_owned())));
        properties.extend(self.mechanism.map(|mechanism| ("sasl.mechanism", mechanism.name().to_owned())));
        properties.extend(self.username.as_ref().map(|name| ("sasl.username", name.clone())));
        properties.extend(self.password.as_ref().map(|word| ("sasl.password", word.reveal().to_owned())));
        properties
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(security: &Security) -> Vec<(&'static str, bool)> {
        security.problems().into_iter().map(|problem| (problem.field, problem.missing)).collect()
    }

    #[test]
    fn what_contradicts_or_is_missing_is_named() {
        let file = || Some(PathBuf::from("file.pem"));
        let secret = || Some(Secret::new("hush"));
        assert_eq!(fields(&Security::default()), []);

        let open = Security {
            ca: file(),
            key_password: secret(),
            username: Some("me".to_owned()),
            ..Security::default()
        };
        assert_eq!(fields(&open), [("ca", false), ("key-password", false), ("username", false)]);

        let tls = Security { protocol: Protocol::Ssl, ca: file(), key: file(), ..Security::default() };
        assert_eq!(fields(&tls), [("certificate", true)]);
        assert_eq!(fields(&Security { certificate: file(), ..tls }), []);

        let sasl = Security { protocol: Protocol::SaslSsl, password: secret(), ..Security::default() };
        assert_eq!(fields(&sasl), [("mechanism", true)]);
        let sasl = Security { mechanism: Some(Mechanism::ScramSha512), token_file: file(), ..sasl };
        assert_eq!(fields(&sasl), [("username", true), ("token-file", false)]);
        let sasl = Security { mechanism: Some(Mechanism::OauthBearer), ..sasl };
        assert_eq!(fields(&sasl), [("password", false)]);
        assert_eq!(fields(&Security { password: None, ..sasl }), []);
    }

    #[test]
    fn a_secret_is_not_printed() {
        let security = Security {
            key_password: Some(Secret::new("hush")),
            password: Some(Secret::new("hush")),
            ..Security::default()
        };
        assert!(!format!("{security:?}").contains("hush"));
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        assert!(
            Protocol::ALL.into_iter().all(|protocol| Protocol::from_name(protocol.name()) == Some(protocol))
        );
        assert!(
            Mechanism::ALL
                .into_iter()
                .all(|mechanism| Mechanism::from_name(mechanism.name()) == Some(mechanism))
        );
        assert_eq!(Protocol::from_name("sasl_ssl"), None);
    }
}
