//! What a request costs before it is known whose it is: its host made canonical, and found among 5,000.

use std::{collections::BTreeSet, hint::black_box, sync::Arc, time::Duration};

use criterion::Criterion;
use tokio::runtime::Runtime;
use tunnel_api::{Caller, Host, OpenTunnel, TunnelBackend};
use tunnel_backends::{
    carrier::ptth::Gate,
    front::named::NamedFronts,
    mux::MuxConfig,
    names::{Names, localhost},
    ports::{PortPool, PortRange},
    quarantine::Quarantine,
    tunnels::Tunnels,
};

pub(crate) fn bench(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let names = Names::new(localhost(), [], Quarantine::new(Duration::ZERO));
    let backend = runtime.block_on(fill(names.clone()));
    let mut group = criterion.benchmark_group("name");
    for (which, text, is_there) in [("found", "T2500.localhost", true), ("unknown", "nobody.localhost", false)] {
        let find = |text: &str| text.parse::<Host>().ok().and_then(|host| names.find(&host));
        assert_eq!(find(text).is_some(), is_there);
        group.bench_function(which, |bencher| bencher.iter(|| find(black_box(text))));
    }
    group.finish();
    drop(backend);
}

async fn fill(names: Arc<Names>) -> impl TunnelBackend {
    let ports = PortPool::new(PortRange::Kernel, BTreeSet::new());
    let door = ([127, 0, 0, 1], 8010).into();
    let named = NamedFronts { names, port: 8010, is_encrypted: false };
    let config = MuxConfig { names: Some(named), ..MuxConfig::new("mux", Tunnels::new(), ports, Gate::new(), door) };
    let backend = config.build();
    for number in 0..5000 {
        let address = format!("http://t{number}").parse().expect("an address");
        let request = OpenTunnel { address, ..OpenTunnel::default() };
        backend.open_tunnel(&Caller::embedded(), request).await.expect("a tunnel");
    }
    backend
}
