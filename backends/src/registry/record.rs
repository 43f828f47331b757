//! What is recorded of a tunnel: everything that it takes to open the same one again, and no secret.

use std::{fmt, str::FromStr, time::SystemTime};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use tunnel_api::{Caller, CredentialId, Host, Owner, PublicAddress, TunnelId, TunnelName, TunnelUri};

use crate::{quarantine::Claim, tunnel::Terms};

/// The record of a tunnel. As JSON it can be read by people, and has no secret in it: a ticket is a MAC of the tunnel's id
/// under a key that is kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    version: u32,
    #[serde(with = "text")]
    pub(crate) id: TunnelId,
    pub(crate) backend: String,
    #[serde(serialize_with = "text::serialize", deserialize_with = "owner")]
    pub(crate) owner: Owner,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "text::serialize_some",
        deserialize_with = "credential"
    )]
    pub(crate) credential: Option<CredentialId>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "text::serialize_some",
        deserialize_with = "text::deserialize_some"
    )]
    pub(crate) name: Option<TunnelName>,
    #[serde(with = "text")]
    pub(crate) address: PublicAddress,
    pub(crate) dial_in: DialIn,
    /// Who may dial in, as it is in force.
    pub(crate) dial_from: Vec<IpNet>,
    #[serde(with = "humantime_serde")]
    pub(crate) open_time: SystemTime,
    pub(crate) after_restart: AfterRestart,
    pub(crate) terms: Terms,
}

/// Where a tunnel's agents dial in: its URI without the ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DialIn {
    /// Which wire.
    pub scheme: String,
    /// Whom agents dial.
    #[serde(with = "text")]
    pub host: Host,
    /// Where.
    pub port: u16,
}

/// What a restart makes of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AfterRestart {
    /// It is there again.
    Restored,
    /// It is over, and its address is kept for its owner for a while.
    AddressKept,
}

/// Why a text is no record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It was written by a later version of this server.
    #[error("it is of version {0}, and this server knows none above {VERSION}; run the later server, or move it away")]
    Newer(u32),
    /// It is none.
    #[error("it is no record of a tunnel ({0}); move it away")]
    Malformed(#[source] serde_json::Error),
}

impl Record {
    /// What is recorded under this id.
    pub(crate) fn new(
        id: TunnelId,
        backend: &str,
        (owner, credential, name): (Owner, Option<CredentialId>, Option<TunnelName>),
        (address, dial_in): (PublicAddress, DialIn),
        dial_from: Vec<IpNet>,
        (open_time, after_restart, terms): (SystemTime, AfterRestart, Terms),
    ) -> Self {
        Self {
            version: VERSION,
            id,
            backend: backend.to_owned(),
            owner,
            credential,
            name,
            address,
            dial_in,
            dial_from,
            open_time,
            after_restart,
            terms,
        }
    }

    /// The tunnel's id, under which it is kept.
    pub fn id(&self) -> &TunnelId {
        &self.id
    }

    /// Whether the tunnel is there again after a restart. Of one that is not, only the address is kept.
    pub fn is_restored(&self) -> bool {
        self.after_restart == AfterRestart::Restored
    }

    /// As text. There is none on a machine whose clock stands before 1970.
    pub fn to_json(&self) -> Result<Vec<u8>, RecordError> {
        let mut json = serde_json::to_vec_pretty(self).map_err(RecordError::Malformed)?;
        json.push(b'\n');
        Ok(json)
    }

    /// From text.
    pub fn from_json(json: &[u8]) -> Result<Self, RecordError> {
        /// What a record of any version has.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(json).map_err(RecordError::Malformed)?;
        if version > VERSION {
            return Err(RecordError::Newer(version));
        }
        serde_json::from_slice(json).map_err(RecordError::Malformed)
    }

    /// The part of its address that nobody else can have.
    pub(crate) fn claim(&self) -> Claim {
        Claim::of(&self.address)
    }

    /// Whoever opened it, as far as that matters when it is opened again.
    pub(crate) fn caller(&self) -> Caller {
        Caller {
            owner: self.owner.clone(),
            credential: self.credential.clone(),
            encrypted: self.dial_in.scheme == "ptths",
            ..Caller::embedded()
        }
    }
}

impl DialIn {
    /// The one that this URI names.
    pub(crate) fn of(uri: &TunnelUri) -> Self {
        Self { scheme: uri.scheme().to_owned(), host: uri.host().clone(), port: uri.port() }
    }
}

fn owner<'de, D: Deserializer<'de>>(from: D) -> Result<Owner, D::Error> {
    String::deserialize(from).map(Owner::new)
}

fn credential<'de, D: Deserializer<'de>>(from: D) -> Result<Option<CredentialId>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(CredentialId::new))
}

/// Values that are written as they print.
pub(crate) mod text {
    use super::*;

    pub(crate) fn serialize<T: fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }

    pub(crate) fn serialize_some<T: fmt::Display, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(to)
    }

    pub(crate) fn deserialize_some<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// Goes up when a record of the version before would be misread.
const VERSION: u32 = 1;

#[cfg(test)]
pub(crate) mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// One with everything in it.
    pub(crate) fn record(id: &str, port: u16) -> Record {
        Record {
            version: VERSION,
            id: id.parse().unwrap(),
            backend: "mux".to_owned(),
            owner: Owner::new("alice"),
            credential: Some(CredentialId::new("laptop")),
            name: Some("team/blog".parse().unwrap()),
            address: format!("tcp://[::1]:{port}").parse().unwrap(),
            dial_in: DialIn { scheme: "ptth".to_owned(), host: "t.example".parse().unwrap(), port: 8010 },
            dial_from: vec!["192.0.2.0/24".parse().unwrap()],
            open_time: UNIX_EPOCH + Duration::new(1_800_000_000, 123_456_789),
            after_restart: AfterRestart::Restored,
            terms: Terms {
                address: "tcp://:21000".parse().unwrap(),
                connections: 4,
                proxy_protocol: true,
                carry: Some(tunnel_api::Carry::Connections),
                dial_from: vec!["192.0.2.0/24".parse().unwrap()],
                client_allow: vec!["::/0".parse().unwrap()],
                client_deny: vec!["10.0.0.0/8".parse().unwrap()],
                dial_within: Some(Duration::from_millis(1500)),
                labels: [("team".to_owned(), "blue".to_owned())].into(),
            },
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let full = record("t-1", 21000);
        let mut plain = record("t-2", 21001);
        (plain.credential, plain.name, plain.terms.dial_within, plain.terms.carry) = (None, None, None, None);
        plain.terms.address = "".parse().unwrap();
        for record in [full, plain] {
            let json = record.to_json().unwrap();
            assert_eq!(Record::from_json(&json).unwrap(), record, "{}", String::from_utf8_lossy(&json));
        }
    }

    #[test]
    fn what_a_later_server_wrote_is_refused_and_named_as_such() {
        let json = br#"{"version": 2, "colour": "blue"}"#;
        assert!(matches!(Record::from_json(json), Err(RecordError::Newer(2))));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let whole = record("t-1", 21000).to_json().unwrap();
        let odd = String::from_utf8(whole.clone()).unwrap().replace("\"backend\"", "\"bakend\"");
        for json in [&b""[..], b"{}", b"null", &whole[..whole.len() / 2], odd.as_bytes()] {
            let refused = Record::from_json(json);
            assert!(matches!(refused, Err(RecordError::Malformed(_))), "{refused:?}");
        }
    }
}
