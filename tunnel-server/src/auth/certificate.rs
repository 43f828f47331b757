use std::time::SystemTime;

use x509_cert::{
    Certificate,
    der::{
        Decode,
        asn1::{PrintableStringRef, TeletexStringRef, Utf8StringRef},
        oid::db::rfc4519::CN,
    },
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// The names of a verified certificate's subject: its common name and its DNS names, in lower case. One that cannot be read, or
/// has expired since it was verified (that was when its connection began, or the one whose session that resumes), is nobody's.
pub(super) fn names(certificate: &[u8], now: SystemTime) -> Option<Vec<String>> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let certificate = certificate.tbs_certificate();
    if certificate.validity().not_after.to_system_time() < now {
        return None;
    }
    let common = certificate.subject().iter().filter(|part| part.oid == CN).filter_map(|part| {
        let text = &part.value;
        text.decode_as::<Utf8StringRef<'_>>()
            .map(|text| text.as_str().to_lowercase())
            .or_else(|_| text.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_lowercase()))
            .or_else(|_| text.decode_as::<TeletexStringRef<'_>>().map(|text| text.as_str().to_lowercase()))
            .ok()
    });
    let mut names: Vec<String> = common.collect();
    if let Ok(Some((_, alternatives))) = certificate.get_extension::<SubjectAltName>() {
        names.extend(alternatives.0.iter().filter_map(|name| match name {
            GeneralName::DnsName(name) => Some(name.as_str().to_lowercase()),
            _ => None,
        }));
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn certificate() -> Vec<u8> {
        let mut params = CertificateParams::new(["Agents.Example".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Alice");
        params.not_after = date_time_ymd(2027, 1, 31);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn last_moment() -> SystemTime {
        humantime::parse_rfc3339("2027-01-31T00:00:00Z").unwrap()
    }

    #[test]
    fn common_name_and_dns_names_are_names() {
        let mut names = names(&certificate(), last_moment()).unwrap();
        names.sort();
        assert_eq!(names, ["agents.example", "alice"]);
    }

    #[test]
    fn what_has_expired_or_is_no_certificate_is_nobodys() {
        assert_eq!(names(&certificate(), last_moment() + Duration::from_secs(1)), None);
        for garbage in [&b""[..], b"\x30\x82garbage"] {
            assert_eq!(names(garbage, last_moment()), None);
        }
    }
}
