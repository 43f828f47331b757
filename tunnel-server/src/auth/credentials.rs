use std::{
    collections::{HashMap, HashSet},
    path::Path,
    time::SystemTime,
};

use serde::{Deserialize, Deserializer, de::Error};
use tunnel_api::{CredentialId, Owner, tls::Fingerprint};
use tunnel_backends::quotas::Limits;

use super::{
    certificate,
    grants::Grants,
    token::{Token, TokenHash},
};
use crate::config::{ConfigError, OwnerLimits};

/// The credentials that are good, as the file has them.
#[derive(Debug, Default)]
pub struct Credentials {
    all: Vec<Credential>,
}

/// One credential: how it is told, whose it is and what it allows.
#[derive(Debug)]
pub struct Credential {
    pub(crate) id: CredentialId,
    pub(crate) owner: Owner,
    pub(crate) grants: Grants,
    pub(crate) expires: Option<SystemTime>,
    /// Where they are not those of every owner.
    pub(crate) limits: Option<OwnerLimits>,
    told_by: ToldBy,
}

#[derive(Debug)]
enum ToldBy {
    Token(TokenHash),
    /// The SHA-256 of the certificate.
    Fingerprint(Fingerprint),
    /// The certificate's common name, or one of its DNS names.
    Subject(String),
}

impl Credentials {
    /// Reads and checks a credentials file.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads and checks credentials; `path` is where they are said to come from.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let malformed = |message: String| ConfigError::Malformed { path: path.to_owned(), message };
        let file: File = toml::from_str(text).map_err(|error| malformed(without_the_line(&error, text)))?;
        let all: Vec<_> = file
            .token
            .into_iter()
            .map(TokenEntry::credential)
            .chain(file.certificate.into_iter().map(CertificateEntry::credential))
            .collect::<Result<_, _>>()
            .map_err(malformed)?;
        let credentials = Self { all };
        credentials.check_unambiguous().map_err(malformed)?;
        Ok(credentials)
    }

    /// What stands for two owners at once stands for neither.
    fn check_unambiguous(&self) -> Result<(), String> {
        let mut ids = HashSet::new();
        for (number, credential) in self.all.iter().enumerate() {
            if !ids.insert(&credential.id) {
                return Err(format!("the id {} stands twice; every credential needs its own", credential.id));
            }
            if let Some(other) = self.all[..number].iter().find(|other| other.told_by.is_same(&credential.told_by)) {
                return Err(format!(
                    "{} and {} are the same credential; take one of them out",
                    other.id, credential.id
                ));
            }
        }
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none, so that nobody can get in.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// One after the other, as the file has them.
    pub fn iter(&self) -> impl Iterator<Item = &Credential> {
        self.all.iter()
    }

    /// The credential of that id, if it is good now and still this owner's: an entry that was given to somebody else is another
    /// credential.
    pub(super) fn by_id(&self, id: &CredentialId, owner: &Owner, now: SystemTime) -> Option<&Credential> {
        let is_it = |credential: &&Credential| credential.id == *id && credential.owner == *owner;
        self.all.iter().filter(is_it).find(|credential| credential.is_good(now))
    }

    /// Looks at all of them, whichever it is.
    pub(super) fn by_token(&self, token: &Token, now: SystemTime) -> Option<&Credential> {
        let hash = token.hash();
        let is_it = |told: &ToldBy| matches!(told, ToldBy::Token(known) if *known == hash);
        self.all.iter().filter(|credential| is_it(&credential.told_by)).find(|credential| credential.is_good(now))
    }

    /// The credential of a certificate that was verified already and has not expired since: by its fingerprint, or by its
    /// names, which must not belong to several owners.
    pub(super) fn by_certificate(&self, certificate: &[u8], now: SystemTime) -> Option<&Credential> {
        let (fingerprint, names) = (Fingerprint::of(certificate), certificate::names(certificate, now)?);
        let good = || self.all.iter().filter(|credential| credential.is_good(now));
        let exact = good().find(|it| matches!(it.told_by, ToldBy::Fingerprint(known) if known == fingerprint));
        if exact.is_some() {
            return exact;
        }
        let mut named = good().filter(|it| matches!(&it.told_by, ToldBy::Subject(name) if names.contains(name)));
        let first = named.next()?;
        named.all(|other| other.owner == first.owner).then_some(first)
    }

    /// The limits of the owners who have their own: of all that an owner's credentials say, the most.
    pub(super) fn limits(&self, of_everybody: Limits) -> HashMap<Owner, Limits> {
        let mut own: HashMap<Owner, Limits> = HashMap::new();
        for Credential { owner, limits, .. } in &self.all {
            let limits = limits.as_ref().map_or(of_everybody, |limits| limits.over(of_everybody));
            own.entry(owner.clone()).and_modify(|most| *most = most.or_more(limits)).or_insert(limits);
        }
        own.retain(|_, limits| *limits != of_everybody);
        own
    }

    /// When the next one expires.
    pub(super) fn next_expiry(&self, now: SystemTime) -> Option<SystemTime> {
        self.all.iter().filter_map(|credential| credential.expires).filter(|expires| *expires > now).min()
    }
}

impl Credential {
    /// Names it. No secret.
    pub fn id(&self) -> &CredentialId {
        &self.id
    }

    /// Whose it is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Until when it is good.
    pub fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    pub(crate) fn is_good(&self, now: SystemTime) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// What shows it: a token or a certificate.
    pub fn kind(&self) -> &'static str {
        match self.told_by {
            ToldBy::Token(_) => "token",
            ToldBy::Fingerprint(_) | ToldBy::Subject(_) => "certificate",
        }
    }
}

impl ToldBy {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Token(one), Self::Token(other)) => one == other,
            (Self::Fingerprint(one), Self::Fingerprint(other)) => one == other,
            (Self::Subject(one), Self::Subject(other)) => one == other,
            _ => false,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<TokenEntry>,
    #[serde(default)]
    certificate: Vec<CertificateEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    id: String,
    owner: OwnerName,
    #[serde(deserialize_with = "hash")]
    hash: TokenHash,
    /// For whoever reads the file.
    #[serde(rename = "created")]
    _created: Option<toml::value::Datetime>,
    #[serde(default, deserialize_with = "moment")]
    expires: Option<SystemTime>,
    #[serde(default)]
    grants: Grants,
    limits: Option<OwnerLimits>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateEntry {
    id: String,
    owner: OwnerName,
    subject: Option<String>,
    #[serde(default, deserialize_with = "fingerprint")]
    fingerprint: Option<Fingerprint>,
    #[serde(default, deserialize_with = "moment")]
    expires: Option<SystemTime>,
    #[serde(default)]
    grants: Grants,
    limits: Option<OwnerLimits>,
}

impl TokenEntry {
    fn credential(self) -> Result<Credential, String> {
        let told_by = ToldBy::Token(self.hash);
        credential(self.id, self.owner, told_by, (self.expires, self.grants, self.limits))
    }
}

impl CertificateEntry {
    fn credential(self) -> Result<Credential, String> {
        let told_by = match (self.subject, self.fingerprint) {
            (Some(subject), None) if !subject.is_empty() => ToldBy::Subject(subject.to_lowercase()),
            (None, Some(fingerprint)) => ToldBy::Fingerprint(fingerprint),
            _ => {
                return Err(format!(
                    "certificate {}: say which one by `subject` (its common name or a DNS name) or by `fingerprint`, \
                     not both",
                    self.id
                ));
            }
        };
        credential(self.id, self.owner, told_by, (self.expires, self.grants, self.limits))
    }
}

fn credential(
    id: String,
    owner: OwnerName,
    told_by: ToldBy,
    (expires, grants, limits): (Option<SystemTime>, Grants, Option<OwnerLimits>),
) -> Result<Credential, String> {
    if id.is_empty() || id == CredentialId::PROCESS {
        return Err(format!("{id:?} cannot be the id of a credential; choose another one"));
    }
    if let Some((key, why)) = limits.as_ref().and_then(OwnerLimits::wrong) {
        return Err(format!("{id}: limits.{key}: {why}"));
    }
    Ok(Credential { id: CredentialId::new(id), owner: Owner::new(owner.0), told_by, expires, grants, limits })
}

/// What is wrong and where. The line itself is not shown, as it is for a config: a token may have got into it by mistake, and a
/// running server writes this into its log.
fn without_the_line(error: &toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let place = before.map(|before| format!("line {}: ", before.matches('\n').count() + 1));
    format!("{}{}", place.unwrap_or_default(), error.message().trim_end())
}

/// An owner's name: of the characters that tunnels' names have, but for the slash, which parts owners from names.
#[derive(Debug)]
struct OwnerName(String);

impl<'de> Deserialize<'de> for OwnerName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        check_owner(&name).map_err(D::Error::custom)?;
        Ok(Self(name))
    }
}

/// Whether an owner may be called so.
pub(crate) fn check_owner(name: &str) -> Result<(), &'static str> {
    if name == Owner::local().as_str() {
        return Err("`local` is whoever needs no credentials; choose another name");
    }
    let fine = name.len() <= 64 && name.parse::<tunnel_api::TunnelName>().is_ok() && !name.contains('/');
    if fine { Ok(()) } else { Err("an owner's name is 1 to 64 letters, digits, '.', '_' and '-'") }
}

fn hash<'de, D: Deserializer<'de>>(from: D) -> Result<TokenHash, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

fn fingerprint<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Fingerprint>, D::Error> {
    String::deserialize(from)?.parse().map(Some).map_err(D::Error::custom)
}

/// A date and time with its offset, or a date, which is its first moment in UTC.
fn moment<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SystemTime>, D::Error> {
    let refuse = || D::Error::custom("write a moment such as 2027-01-31T12:00:00Z, or a day such as 2027-01-31");
    let moment = toml::value::Datetime::deserialize(from).map_err(|_| refuse())?;
    let text = match (moment.date, moment.time) {
        (Some(date), None) => format!("{date}T00:00:00Z"),
        _ => moment.to_string(),
    };
    humantime::parse_rfc3339(&text).map(Some).map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parse(text: &str) -> Result<Credentials, String> {
        Credentials::parse(text, Path::new("c.toml")).map_err(|error| error.to_string())
    }

    fn token(id: &str, owner: &str, token: &Token, more: &str) -> String {
        format!("[[token]]\nid = '{id}'\nowner = '{owner}'\nhash = '{}'\n{more}\n", token.hash())
    }

    #[test]
    fn a_token_is_found_by_itself_and_by_nothing_else() {
        let (alice, bob) = (Token::generate(), Token::generate());
        let credentials = parse(&(token("a", "alice", &alice, "") + &token("b", "bob", &bob, ""))).unwrap();
        let now = SystemTime::now();
        let owner = |token: &Token| credentials.by_token(token, now).map(|found| found.owner.to_string());
        assert_eq!(owner(&alice).as_deref(), Some("alice"));
        assert_eq!(owner(&bob).as_deref(), Some("bob"));
        let stored = alice.hash().to_string();
        for other in ["", "tnl_", &alice.expose()[4..], &alice.expose().to_lowercase(), &stored, &stored[7..]] {
            assert_eq!(owner(&Token::presented(other)), None, "{other}");
        }
    }

    #[test]
    fn an_expired_one_is_none() {
        let secret = Token::generate();
        let credentials = parse(&token("a", "alice", &secret, "expires = 2027-01-31")).unwrap();
        let expiry = humantime::parse_rfc3339("2027-01-31T00:00:00Z").unwrap();
        assert!(credentials.by_token(&secret, expiry - Duration::from_secs(1)).is_some());
        assert!(credentials.by_token(&secret, expiry).is_none());
        assert_eq!(credentials.next_expiry(expiry - Duration::from_secs(1)), Some(expiry));
    }

    #[test]
    fn an_owner_has_the_most_that_its_credentials_say() {
        let entry = |id: &str, owner: &str, limits: &str| {
            token(id, owner, &Token::generate(), &format!("[token.limits]\n{limits}"))
        };
        let text = entry("a", "alice", "tunnels = 5\nstreams = 10")
            + &entry("b", "alice", "tunnels = 7\nopens_per_second = 'unlimited'")
            + &entry("c", "bob", "");
        let of_everybody = Limits { streams: Some(3), opens_per_second: Some(1.0), ..Limits::default() };
        let own = parse(&text).unwrap().limits(of_everybody);
        let alice = Limits { tunnels: Some(7), streams: Some(10), ..Limits::default() };
        assert_eq!(own, HashMap::from([(Owner::new("alice"), alice)]));
    }

    #[test]
    fn what_is_wrong_in_the_file_is_said() {
        let one = Token::generate();
        let twice = token("a", "alice", &one, "") + &token("b", "bob", &one, "");
        let same_id = token("a", "alice", &one, "") + &token("a", "bob", &Token::generate(), "");
        for (text, part) in [
            ("[[tokens]]", "tokens"),
            ("[[token]]\nid = 'a'\nowner = 'alice'", "hash"),
            ("[[token]]\nid = 'a'\nowner = 'alice'\nhash = 'tnl_secret'", "sha256:"),
            (&token("a", "local", &one, ""), "choose another name"),
            (&token("a", "a/b", &one, ""), "an owner's name"),
            (&token("a", "alice", &one, "expires = '2027-01-01'"), "such as 2027-01-31"),
            (&token("a", "alice", &one, "[token.grants]\nbackend = ['*']"), "backends"),
            (&token("a", "alice", &one, "limits = { tunnels = 0 }"), "limits.tunnels"),
            (&token("a", "alice", &one, "limits = { tunels = 1 }"), "tunels"),
            (&twice, "same credential"),
            (&same_id, "stands twice"),
            ("[[certificate]]\nid = 'a'\nowner = 'alice'", "`subject`"),
        ] {
            let refusal = parse(text).expect_err(text);
            assert!(refusal.starts_with("c.toml: ") && refusal.contains(part), "{text:?} gave {refusal:?}");
        }
    }

    #[test]
    fn a_token_that_got_into_the_file_is_not_repeated() {
        let secret = Token::generate();
        let token = secret.expose();
        for text in [
            &*format!("\n[[token]]\nid = 'a'\nowner = 'alice'\nhash = '{token}'"),
            &format!("\n[[token]]\nid = 'a'\nowner = 'alice'\ntoken = '{token}'"),
            &format!("\n\n\n\n{token}"),
        ] {
            let refusal = parse(text).unwrap_err();
            assert!(refusal.starts_with("c.toml: line 5: ") && !refusal.contains(token), "{refusal}");
        }
    }
}
