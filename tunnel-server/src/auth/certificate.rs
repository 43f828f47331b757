use x509_cert::{
    Certificate,
    der::{
        Decode,
        asn1::{PrintableStringRef, TeletexStringRef, Utf8StringRef},
        oid::db::rfc4519::CN,
    },
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// The names of a verified certificate's subject: its common name and its DNS names, in lower case. One that cannot be read has
/// none.
pub(super) fn names(certificate: &[u8]) -> Vec<String> {
    let Ok(certificate) = Certificate::from_der(certificate) else { return Vec::new() };
    let certificate = certificate.tbs_certificate();
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
    names
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn common_name_and_dns_names_are_names() {
        let mut params = CertificateParams::new(["Agents.Example".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Alice");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let mut names = names(certificate.der());
        names.sort();
        assert_eq!(names, ["agents.example", "alice"]);
    }

    #[test]
    fn what_is_no_certificate_has_no_names() {
        assert!(names(b"").is_empty() && names(b"\x30\x82garbage").is_empty());
    }
}
