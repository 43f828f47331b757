//! What a changed config changes while the server runs, and what only a restart does.

use super::Config;

impl Config {
    /// The keys in which another config differs that take effect at the next start only.
    pub(crate) fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
        // Without the dots, so that a new key is not forgotten here.
        let Self {
            listen,
            insecure,
            credentials,
            default_backend,
            trusted_proxies,
            tls_terminated_by,
            tls,
            drain,
            state,
            quarantine,
            advertise,
            names,
            ports,
            limits: _, // can be changed
            door,
            admin,
            access_log,
            backends,
        } = self;
        [
            ("listen", *listen != other.listen),
            ("insecure", *insecure != other.insecure),
            ("credentials", *credentials != other.credentials),
            ("default_backend", *default_backend != other.default_backend),
            ("trusted_proxies", *trusted_proxies != other.trusted_proxies),
            ("tls_terminated_by", *tls_terminated_by != other.tls_terminated_by),
            ("tls", *tls != other.tls),
            ("drain", *drain != other.drain),
            ("state", *state != other.state),
            ("quarantine", *quarantine != other.quarantine),
            ("advertise", *advertise != other.advertise),
            ("names", *names != other.names),
            ("ports", *ports != other.ports),
            ("door", *door != other.door),
            ("admin", *admin != other.admin),
            ("access_log", *access_log != other.access_log),
            ("backends", *backends != other.backends),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_needs_a_restart_is_named() {
        let (before, same) = (Config::default(), Config::default());
        assert!(before.fixed_differences(&same).is_empty());
        let text = "drain = \"1s\"\n[ports]\nextra_ports = [2222]\n[backends.tcp.tcp]\n";
        let after = Config::parse(text, Path::new("t.toml")).unwrap();
        assert_eq!(before.fixed_differences(&after), ["drain", "ports", "backends"]);
    }
}
