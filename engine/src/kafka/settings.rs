//! What the clients of a process have in common.

use std::fmt;

use super::security::Security;

/// What every client of a process is made with.
#[derive(Clone, Default)]
pub struct ClientSettings {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// What quotas and broker logs call the client.
    pub client_id: String,
    /// Encryption and authentication.
    pub security: Security,
    /// Properties of librdkafka, from [`ALLOWED_PROPERTIES`](super::ALLOWED_PROPERTIES). They take the place of the
    /// engine's values.
    pub properties: Vec<(String, String)>,
}

impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The values of properties may hold secrets that nobody marked as such.
        let names: Vec<_> = self.properties.iter().map(|(name, _)| name).collect();
        f.debug_struct("ClientSettings")
            .field("brokers", &self.brokers)
            .field("client_id", &self.client_id)
            .field("security", &self.security)
            .field("properties", &names)
            .finish()
    }
}
