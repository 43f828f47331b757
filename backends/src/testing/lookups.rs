//! A tunnel is found by its owner, by its URI in whatever spelling, and by nobody and nothing else.

use tunnel_api::{CloseReason, OpenTunnel, Page, TunnelError, TunnelRef, TunnelUri, WatchFilter, What};

use super::{
    Rig, Stage,
    rig::{WAITING, named, request, tunnel_name},
};

/// Those that mean the same to anybody who reads URIs.
pub async fn every_spelling_of_a_uri_finds_its_tunnel(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let tunnel = stage.open(WAITING).await;
    let uri = tunnel.uri.expose();
    let (scheme, rest) = uri.split_once("://").expect("a URI");
    let mut spellings = vec![uri.to_owned(), format!("{}://{rest}", scheme.to_uppercase())];
    if tunnel.uri.target() == "/" {
        spellings.push(format!("{uri}/"));
    }
    for spelling in spellings {
        let found = stage.address(&spelling.parse().expect("a URI")).await;
        assert_eq!(found.ok().as_ref(), Some(&tunnel.address), "{spelling}");
    }
}

/// However much it looks like one.
pub async fn no_other_uri_finds_anything(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let tunnel = stage.open(WAITING).await;
    let (uri, host, port) = (tunnel.uri.expose(), tunnel.uri.host(), tunnel.uri.port());
    let at = format!("{host}:{port}");
    let elsewhere = |at_other: String| uri.replace(&at, &at_other);
    for other in [
        elsewhere(format!("{host}:{}", port ^ 1)),
        elsewhere(format!("{host}:{}", tunnel.address.port())),
        elsewhere(format!("127.0.0.2:{port}")),
        elsewhere(format!("localhost:{port}")),
        elsewhere(format!("stranger@{at}")),
        format!("{uri}/path"),
        format!("{uri}?query"),
        format!("{uri}#fragment"),
        format!("x{uri}"),
        tunnel.address.to_http(),
    ] {
        let other: TunnelUri = other.parse().unwrap_or_else(|error| panic!("{other}: {error}"));
        let found = stage.address(&other).await;
        assert!(matches!(found, Err(TunnelError::NotFound)), "{}: {found:?}", other.expose());
        let closed = stage.close(TunnelRef::Uri(other.clone())).await;
        assert!(matches!(closed, Err(TunnelError::NotFound)), "{}: {closed:?}", other.expose());
    }
    assert_eq!(stage.address(&tunnel.uri).await.ok(), Some(tunnel.address));
}

/// The same answer as for one that never was.
pub async fn a_closed_tunnel_is_not_found(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let tunnel = stage.open_named("gone").await;
    stage.close(TunnelRef::Id(tunnel.id.clone())).await.expect("the tunnel closes");
    let found = stage.address(&tunnel.uri).await;
    assert!(matches!(found, Err(TunnelError::NotFound)), "{found:?}");
    for by in [TunnelRef::Uri(tunnel.uri), TunnelRef::Id(tunnel.id), TunnelRef::Name(tunnel_name("gone"))] {
        let closed = stage.close(by).await;
        assert!(matches!(closed, Err(TunnelError::NotFound)), "{closed:?}");
    }
    assert_eq!(stage.list().await, []);
}

/// Not even with its URI.
pub async fn nobody_else_finds_a_tunnel(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let tunnel = stage.open_named("mine").await;
    let other = stage.called_by("other");
    let found = other.address(&tunnel.uri).await;
    assert!(matches!(found, Err(TunnelError::NotFound)), "{found:?}");
    let mine = TunnelRef::Name(tunnel_name("mine"));
    for by in [TunnelRef::Uri(tunnel.uri.clone()), TunnelRef::Id(tunnel.id.clone()), mine] {
        let closed = other.close(by).await;
        assert!(matches!(closed, Err(TunnelError::NotFound)), "{closed:?}");
    }
    assert_eq!(stage.address(&tunnel.uri).await.ok(), Some(tunnel.address));
}

/// Neither that it is there nor what happens to it.
pub async fn nobody_else_sees_a_tunnel(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let other = stage.called_by("other");
    let tunnel = stage.open(WAITING).await;
    let mut watch = other.watch_from_the_present_on(WatchFilter::default()).await;
    assert_eq!(watch.what().await, What::Ready);
    let by_id = WatchFilter { id: Some(tunnel.id.clone()), ..WatchFilter::default() };
    let mut watch_by_id = other.watch_from_the_present_on(by_id).await;
    assert_eq!(watch_by_id.what().await, What::Ready);
    assert_eq!(other.list().await, []);

    stage.close(TunnelRef::Id(tunnel.id)).await.expect("the tunnel closes");
    let own = other.open(WAITING).await;
    let first = watch.next().await;
    assert_eq!(first.tunnel, Some(own.id.clone()), "{first:?}");
    assert_eq!(other.list().await.len(), 1);
    other.close(TunnelRef::Id(own.id.clone())).await.expect("one's own tunnel closes");
    assert_eq!(watch.closed(&own.id).await, CloseReason::Requested);
}

/// None is missing and none comes twice.
pub async fn a_list_comes_in_pages(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let mut opened = Vec::new();
    for _ in 0..5 {
        opened.push(stage.open(WAITING).await.id);
    }
    opened.sort();
    let (mut listed, mut lengths) = (Vec::new(), Vec::new());
    loop {
        let page = Page { after: listed.last().cloned(), limit: 2 };
        let part = stage.backend.list_tunnels(&stage.caller, &page).await.expect("a page");
        lengths.push(part.len());
        listed.extend(part.into_iter().map(|info| info.id));
        if lengths.last() != Some(&2) {
            break;
        }
    }
    assert_eq!(listed, opened);
    assert_eq!(lengths, [2, 2, 1]);
}

/// And not ignored.
pub async fn a_field_that_cannot_be_honoured_is_refused(rig: &dyn Rig) {
    let stage = Stage::new(rig);
    let mut cases = vec![
        (OpenTunnel { backend: Some("no-such-backend".to_owned()), ..request(1) }, "backend"),
        (OpenTunnel { address: "gopher://".parse().expect("an address request"), ..request(1) }, "address"),
        (
            OpenTunnel { address: "tcp://elsewhere.example".parse().expect("an address request"), ..request(1) },
            "address",
        ),
        (OpenTunnel { dial_within: Some(std::time::Duration::ZERO), ..request(1) }, "dial_within"),
    ];
    if !rig.carries_many() {
        cases.push((OpenTunnel { connections: Some(u32::MAX), ..named("big") }, "connections"));
    }
    for (wanted, blamed) in cases {
        let refused = stage.try_open(wanted).await;
        assert!(
            matches!(&refused, Err(TunnelError::Invalid { field, .. }) if field == blamed),
            "{blamed}: {refused:?}"
        );
    }
    assert_eq!(stage.list().await, []);
}
