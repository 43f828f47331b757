//! The `mux` backend keeps every promise of the kit in TLS, too.

use std::{
    fs,
    sync::{Arc, OnceLock},
};

use tunnel_api::{
    TunnelBackend,
    tls::{ClientTls, Fingerprint, Trust},
};
use tunnel_backends::{
    carrier::ptth::Gate,
    door::{DoorTerms, Encryption},
    mux::MuxConfig,
    testing::{self, BehindDoor, Rig, Setup},
    tls::{ServerTls, TlsFiles},
    tunnels::{Tunnels, TunnelsConfig},
};

struct MuxInTls;

impl Rig for MuxInTls {
    fn backend(&self, setup: Setup) -> Arc<dyn TunnelBackend> {
        // Nobody may come plain, so that nothing is tried on the wrong wire.
        let encryption = Encryption { terminated_by: Vec::new(), plain_from: Vec::new() };
        let terms = DoorTerms { tls: Some(certificate()), encryption, ..DoorTerms::default() };
        let gate = Gate::new();
        let tunnels = Tunnels::with(TunnelsConfig { quotas: setup.quotas, ..TunnelsConfig::default() });
        BehindDoor::with(
            terms,
            |http| gate.clone().in_front_of(http),
            |door| {
                let config = MuxConfig::new("mux", tunnels, setup.public_ports, gate.clone(), door);
                MuxConfig { times: setup.times, ..config }.build()
            },
        )
    }

    fn carries_many(&self) -> bool {
        true
    }
}

/// One for all promises, and trusted by all agents.
fn certificate() -> Arc<ServerTls> {
    static CERTIFICATE: OnceLock<Arc<ServerTls>> = OnceLock::new();
    let make = || {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let directory = tempfile::tempdir().expect("a directory");
        let (certificate, key) = (directory.path().join("certificate.pem"), directory.path().join("key.pem"));
        fs::write(&certificate, own.cert.pem()).expect("a file");
        fs::write(&key, own.signing_key.serialize_pem()).expect("a file");
        testing::trust(&ClientTls::new(Trust::fingerprint(Fingerprint::of(own.cert.der())), None));
        ServerTls::load(TlsFiles { certificate, key, client_ca: None }).expect("a pair")
    };
    CERTIFICATE.get_or_init(make).clone()
}

tunnel_backends::conformance!(MuxInTls);
