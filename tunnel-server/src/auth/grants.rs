use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error};
use tunnel_api::{AddressRequest, Host, OpenTunnel, TunnelError};
use tunnel_backends::sockets;
use wildmatch::WildMatch;

/// What a credential allows its owner to open. What is absent is not granted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Grants {
    /// Backends, by name; `*` stands for any characters.
    backends: Vec<Pattern>,
    /// Public ports that may be asked for by number. (One that the server chooses needs no grant.)
    ports: Vec<Ports>,
    /// Host names that may be asked for; `*` stands for any characters.
    hosts: Vec<Pattern>,
    /// Networks that may be named in `dial_from` and `caller_address`.
    dial_from: Vec<IpNet>,
    /// Networks whose clients may be let in.
    clients: Vec<IpNet>,
}

impl Grants {
    /// Whether all that the request asks for is granted. Clients are restricted to what is granted where the request does not
    /// do so itself. `backend` is the one that it will go to; An address that the owner has had it may ask for again.
    pub(super) fn check(
        &self,
        request: &mut OpenTunnel,
        backend: &str,
        addresses: &impl Addresses,
    ) -> Result<(), TunnelError> {
        if !self.backends.iter().any(|pattern| pattern.matches(backend)) {
            return Err(refusal(&format!("the backend {backend}"), "backends"));
        }
        self.check_address(request, addresses)?;
        if let Some(network) = request.dial_from.iter().find(|network| !covers(&self.dial_from, network)) {
            return Err(refusal(&format!("dial_from {network}"), "dial_from"));
        }
        // Whoever shares it may dial in, too; and an address in its other spelling is another one.
        if let Some(ip) = request.caller_address.filter(|ip| !covers(&self.dial_from, &sockets::network_of(*ip))) {
            return Err(refusal(&format!("caller_address {ip}"), "dial_from"));
        }
        self.restrict_clients(request)
    }

    /// Of a tcp address the host is the server's own, and of others the port is; or else their fronts refuse them.
    fn check_address(&self, request: &OpenTunnel, addresses: &impl Addresses) -> Result<(), TunnelError> {
        let AddressRequest { scheme, host, port } = &request.address;
        let is_tcp = scheme.as_deref().is_none_or(|scheme| scheme == "tcp");
        if let Some(port) = port.filter(|_| is_tcp)
            && !self.ports.iter().any(|ports| ports.0.contains(&port))
            && !addresses.had_port(port)
        {
            return Err(refusal(&format!("port {port}; leave the port empty to get one"), "ports"));
        }
        let is_granted = |name: &String| self.hosts.iter().any(|pattern| pattern.matches(name));
        if let Some(name) = host.as_ref().filter(|_| !is_tcp)
            && !addresses.spellings(name).iter().any(is_granted)
            && !addresses.had_name(name)
        {
            return Err(refusal(&format!("the host {name}; leave it empty to get one"), "hosts"));
        }
        Ok(())
    }

    fn restrict_clients(&self, request: &mut OpenTunnel) -> Result<(), TunnelError> {
        if self.clients.is_empty() {
            return Err(refusal("any clients", "clients"));
        }
        if let Some(network) = request.client_allow.iter().find(|network| !covers(&self.clients, network)) {
            return Err(refusal(&format!("client_allow {network}"), "clients"));
        }
        let is_everybody = |net: &IpNet| net.prefix_len() == 0;
        let grants_everybody = self.clients.iter().any(|net| is_everybody(net) && net.addr().is_ipv4())
            && self.clients.iter().any(|net| is_everybody(net) && net.addr().is_ipv6());
        if request.client_allow.is_empty() && !grants_everybody {
            request.client_allow.clone_from(&self.clients);
        }
        Ok(())
    }
}

/// What is known of addresses beyond what credentials say.
pub(super) trait Addresses {
    /// Whether this port was the owner's lately.
    fn had_port(&self, port: u16) -> bool;

    /// Whether this name was the owner's lately.
    fn had_name(&self, name: &Host) -> bool;

    /// How a grant may spell this name: in full and, in the server's domain, without it.
    fn spellings(&self, name: &Host) -> Vec<String>;
}

fn covers(granted: &[IpNet], wanted: &IpNet) -> bool {
    granted.iter().any(|network| network.contains(wanted))
}

fn refusal(what: &str, grant: &str) -> TunnelError {
    let why = format!("your credentials do not grant {what} (the operator can add it to `{grant}` of their grants)");
    TunnelError::NotGranted { why }
}

/// A name, or many.
#[derive(Debug, Clone)]
struct Pattern(WildMatch);

impl Pattern {
    fn matches(&self, name: &str) -> bool {
        self.0.matches(name)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Err(D::Error::custom("write a name, or a pattern such as \"*\" or \"*.example.com\""));
        }
        Ok(Self(WildMatch::new(&text)))
    }
}

/// `"21000-21099"`, `"2222"` or `2222`.
#[derive(Debug, Clone)]
struct Ports(RangeInclusive<u16>);

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Number(u16),
            Text(String),
        }
        let refuse = || D::Error::custom("write a port or a range of ports, such as 2222 or \"21000-21099\"");
        match Spelling::deserialize(from).map_err(|_| refuse())? {
            Spelling::Number(port) => Ok(Self(port..=port)),
            Spelling::Text(text) => parse_ports(&text).map(Self).ok_or_else(refuse),
        }
    }
}

/// A range of ports, or a single one.
pub(crate) fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let ports = port(first)?..=port(last)?;
    (!ports.is_empty()).then_some(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(grants: &str, request: OpenTunnel) -> Result<OpenTunnel, String> {
        let grants: Grants = toml::from_str(grants).unwrap();
        let mut request = request;
        grants.check(&mut request, "mux", &Once).map_err(|error| error.to_string())?;
        Ok(request)
    }

    /// The owner has had one of each.
    struct Once;

    impl Addresses for Once {
        fn had_port(&self, port: u16) -> bool {
            port == 20007
        }

        fn had_name(&self, name: &Host) -> bool {
            name.to_string() == "0123.t.example"
        }

        fn spellings(&self, name: &Host) -> Vec<String> {
            let name = name.to_string();
            let label = name.strip_suffix(".t.example").unwrap_or(&name).to_owned();
            vec![name, label]
        }
    }

    fn at(address: &str) -> OpenTunnel {
        OpenTunnel { address: address.parse().unwrap(), ..OpenTunnel::default() }
    }

    const PLAIN: &str = "backends = ['*']\nclients = ['0.0.0.0/0', '::/0']";

    #[test]
    fn what_is_absent_is_not_granted() {
        check(PLAIN, OpenTunnel::default()).unwrap();
        let net: IpNet = "192.0.2.0/24".parse().unwrap();
        for (grants, request, missing) in [
            ("", OpenTunnel::default(), "backends"),
            ("backends = ['tcp']", OpenTunnel::default(), "backends"),
            ("backends = ['mux']", OpenTunnel::default(), "clients"),
            (PLAIN, at("tcp://:20000"), "ports"),
            (PLAIN, at("http://blog"), "hosts"),
            (PLAIN, at("tls://blog"), "hosts"),
            (PLAIN, OpenTunnel { dial_from: vec![net], ..OpenTunnel::default() }, "dial_from"),
            (PLAIN, OpenTunnel { caller_address: Some(net.addr()), ..OpenTunnel::default() }, "dial_from"),
        ] {
            let refusal = check(grants, request).unwrap_err();
            assert!(refusal.contains(&format!("`{missing}`")), "{grants:?}: {refusal}");
        }
    }

    #[test]
    fn what_is_granted_may_be_asked_for_and_nothing_next_to_it() {
        let grants = &format!(
            "{PLAIN}\nports = ['21000-21001', 2222]\nhosts = ['*.alice.example']\ndial_from = ['192.0.2.0/25']"
        );
        let dial_from = |net: &str| OpenTunnel { dial_from: vec![net.parse().unwrap()], ..OpenTunnel::default() };
        for fine in [at("tcp://:21001"), at("tcp://:2222"), at("http://a.alice.example"), dial_from("192.0.2.64/26")] {
            check(grants, fine).unwrap();
        }
        for not in [
            at("tcp://:21002"),
            at("tcp://:2223"),
            at("http://alice.example"),
            at("http://x.alice.example.evil"),
            dial_from("192.0.2.0/24"),
            dial_from("::/0"),
        ] {
            check(grants, not.clone()).expect_err(&format!("{not:?}"));
        }
    }

    #[test]
    fn a_callers_address_is_granted_as_it_is_let_in() {
        let with = |granted: &str, ip: &str| {
            let request = OpenTunnel { caller_address: Some(ip.parse().unwrap()), ..OpenTunnel::default() };
            check(&format!("{PLAIN}\ndial_from = ['{granted}']"), request).is_ok()
        };
        for (granted, ip) in [("192.0.2.0/24", "192.0.2.1"), ("192.0.2.1/32", "::ffff:192.0.2.1"), ("::1/128", "::1")] {
            assert!(with(granted, ip), "{granted} {ip}");
        }
        assert!(!with("::/0", "::ffff:192.0.2.1"), "it lets a v4 address in");
        assert!(!with("2001:db8::1/128", "2001:db8::1"), "it lets the whole /64 in");
        assert!(with("2001:db8::/64", "2001:db8::1"));
    }

    #[test]
    fn an_address_that_was_the_owners_may_be_asked_for_again() {
        check(PLAIN, at("tcp://:20007")).unwrap();
        check(PLAIN, at("https://0123.t.example:8010/")).unwrap();
    }

    #[test]
    fn a_name_in_the_servers_domain_is_granted_with_the_domain_or_without() {
        for pattern in ["blog", "blog.t.example", "b*"] {
            let grants = format!("{PLAIN}\nhosts = ['{pattern}']");
            check(&grants, at("http://blog.t.example")).unwrap();
            check(&grants, at("http://other.t.example")).expect_err(pattern);
        }
    }

    #[test]
    fn clients_are_those_that_are_granted_unless_the_request_wants_fewer() {
        let grants = "backends = ['*']\nclients = ['10.0.0.0/8']";
        let nets = |text: &str| vec![text.parse::<IpNet>().unwrap()];
        let allow = |text: &str| OpenTunnel { client_allow: nets(text), ..OpenTunnel::default() };
        assert_eq!(check(grants, OpenTunnel::default()).unwrap().client_allow, nets("10.0.0.0/8"));
        assert_eq!(check(grants, allow("10.1.0.0/16")).unwrap().client_allow, nets("10.1.0.0/16"));
        check(grants, allow("0.0.0.0/0")).unwrap_err();
        assert_eq!(check(PLAIN, OpenTunnel::default()).unwrap().client_allow, vec![]);
    }
}
