use std::net::IpAddr;

use ipnet::IpNet;
use tunnel_api::canonical_network;

/// The clients that a tunnel is for: those that are allowed and not denied. An agent never hears of any others.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientFilter {
    /// Empty for all.
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl ClientFilter {
    pub(crate) fn new(allow: &[IpNet], deny: &[IpNet]) -> Self {
        let canonical = |networks: &[IpNet]| networks.iter().copied().map(canonical_network).collect();
        Self { allow: canonical(allow), deny: canonical(deny) }
    }

    pub(crate) fn admits(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&ip));
        (self.allow.is_empty() || is_in(&self.allow)) && !is_in(&self.deny)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(allow: &[&str], deny: &[&str]) -> ClientFilter {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        ClientFilter::new(&networks(allow), &networks(deny))
    }

    fn admitted(filter: &ClientFilter, ips: &[&str]) -> Vec<bool> {
        ips.iter().map(|ip| filter.admits(ip.parse().unwrap())).collect()
    }

    #[test]
    fn without_lists_everybody_is_admitted() {
        assert_eq!(admitted(&filter(&[], &[]), &["192.0.2.1", "2001:db8::1"]), [true, true]);
    }

    #[test]
    fn who_is_allowed_is_admitted_and_nobody_else() {
        let filter = filter(&["192.0.2.0/24", "2001:db8::/32"], &[]);
        let ips = ["192.0.2.1", "192.0.3.1", "2001:db8::1", "2001:db9::1"];
        assert_eq!(admitted(&filter, &ips), [true, false, true, false]);
    }

    #[test]
    fn a_denial_wins() {
        let deny_only = filter(&[], &["192.0.2.0/25"]);
        assert_eq!(admitted(&deny_only, &["192.0.2.1", "192.0.2.129"]), [false, true]);
        let both = filter(&["192.0.2.0/24"], &["192.0.2.1/32"]);
        assert_eq!(admitted(&both, &["192.0.2.1", "192.0.2.2", "192.0.3.1"]), [false, true, false]);
        let wider = filter(&["192.0.2.1/32"], &["192.0.2.0/24"]);
        assert_eq!(admitted(&wider, &["192.0.2.1"]), [false]);
    }

    #[test]
    fn one_address_in_two_spellings_is_one_client() {
        let plain = filter(&["192.0.2.0/24"], &["192.0.2.1/32"]);
        assert_eq!(
            admitted(&plain, &["::ffff:192.0.2.1", "::ffff:192.0.2.2", "::ffff:192.0.3.1"]),
            [false, true, false]
        );
        let mapped = filter(&["::ffff:192.0.2.0/120"], &["::ffff:192.0.2.1/128"]);
        assert_eq!(admitted(&mapped, &["192.0.2.1", "192.0.2.2", "192.0.3.1"]), [false, true, false]);
    }
}
