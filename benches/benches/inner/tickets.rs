//! What a dial-in costs before it is known to be good.

use std::hint::black_box;

use criterion::Criterion;
use tunnel_api::TunnelId;
use tunnel_backends::tickets::Tickets;

pub(crate) fn bench(criterion: &mut Criterion) {
    let (tickets, id) = (Tickets::new(), "t-288364b108163abc".parse::<TunnelId>().expect("an id"));
    let (good, forged) = (tickets.issue(&id), Tickets::new().issue(&id));
    let mut group = criterion.benchmark_group("ticket");
    for (name, ticket, is_good) in [("good", good, true), ("forged", forged, false)] {
        assert_eq!(tickets.admits(&id, &ticket), is_good);
        group.bench_function(name, |bencher| bencher.iter(|| tickets.admits(black_box(&id), black_box(&ticket))));
    }
    group.finish();
}
