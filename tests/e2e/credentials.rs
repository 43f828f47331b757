//! With credentials configured everybody needs some, gets what they grant and nothing of anybody else's, and loses it when they are
//! taken back.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tunnel_api::{
    Caller, OpenTunnel, TunnelBackend, TunnelError,
    rpc::{
        self, Connect,
        v1::{
            CloseReason, CloseTunnelRequest, GetTunnelAddressRequest, ListTunnelsRequest, OpenTunnelRequest,
            WatchTunnelsRequest, client::TunnelClient, close_tunnel_request::Tunnel, watch_tunnels_response::Event,
        },
    },
    tls::{ClientCertificate, ClientTls},
};
use tunnel_backends::ports::PortRange;
use tunnel_server::{Running, auth::Token};
use tunnel_tests::{
    certificates::Certificates,
    client::{Ended, at, get, hear_out},
    credentials::{Authorized, Bearer, CredentialsFile, rpc_as},
    limit::within,
    server::{self, channel, pool, server_with},
};

async fn server_for(file: &CredentialsFile) -> Running {
    server_with(|config| config.credentials = Some(file.path())).await
}

async fn open(rpc: &mut Authorized, request: OpenTunnelRequest) -> Result<(String, String), Status> {
    let opened = rpc.open_tunnel(request).await?.into_inner();
    Ok((opened.id, opened.uri))
}

async fn ids(rpc: &mut Authorized) -> Vec<String> {
    let listed = rpc.list_tunnels(ListTunnelsRequest::default()).await.expect("a list").into_inner();
    listed.tunnels.into_iter().map(|tunnel| tunnel.id).collect()
}

fn named(name: &str) -> OpenTunnelRequest {
    OpenTunnelRequest { name: name.to_owned(), ..OpenTunnelRequest::default() }
}

#[tokio::test]
async fn whoever_has_no_good_credentials_gets_the_same_refusal_for_every_call() {
    within(async {
        let file = CredentialsFile::new();
        let alice = file.add("alice");
        let server = server_for(&file).await;
        let (_, uri) = open(&mut rpc_as(&server, &alice).await, named("blog")).await.unwrap();

        let mut refusals = Vec::new();
        let hash = alice.hash().to_string();
        for forged in [Token::generate().expose(), &alice.expose()[..40], &hash, "", &alice.expose().to_uppercase()] {
            let mut rpc = TunnelClient::with_interceptor(channel(&server).await, Bearer::new(forged));
            refusals.push(rpc.open_tunnel(OpenTunnelRequest::default()).await.unwrap_err());
            refusals.push(rpc.get_tunnel_address(GetTunnelAddressRequest { uri: uri.clone() }).await.unwrap_err());
        }
        let mut rpc = server::rpc(&server).await;
        refusals.push(rpc.open_tunnel(OpenTunnelRequest::default()).await.unwrap_err());
        refusals.push(rpc.list_tunnels(ListTunnelsRequest::default()).await.unwrap_err());
        refusals.push(rpc.watch_tunnels(WatchTunnelsRequest::default()).await.unwrap_err());
        let name = Some(Tunnel::Name("blog".to_owned()));
        refusals.push(rpc.close_tunnel(CloseTunnelRequest { tunnel: name }).await.unwrap_err());

        assert_eq!(refusals.len(), 14);
        for refusal in &refusals {
            assert_eq!(refusal.code(), Code::Unauthenticated, "{refusal:?}");
            assert_eq!(refusal.message(), refusals[0].message());
            assert!(refusal.message().contains("--token-file") && refusal.message().contains("token new"));
        }
    })
    .await;
}

#[tokio::test]
async fn health_and_the_front_page_need_none() {
    within(async {
        let file = CredentialsFile::new();
        let server = server_for(&file).await;
        let mut health: HealthClient<Channel> = HealthClient::new(channel(&server).await);
        health.check(HealthCheckRequest::default()).await.unwrap();
        assert_eq!(get(server.addr(), "/").await.unwrap().0, 200);
        assert_eq!(get(server.addr(), "/other").await.unwrap().0, 401);
    })
    .await;
}

#[tokio::test]
async fn an_owner_sees_closes_and_takes_over_nothing_of_another_ones() {
    within(async {
        let file = CredentialsFile::new();
        let (alice, bob) = (file.add("alice"), file.add("bob"));
        let server = server_for(&file).await;
        let (mut alice, mut bob) = (rpc_as(&server, &alice).await, rpc_as(&server, &bob).await);
        let (id, uri) = open(&mut alice, named("blog")).await.unwrap();

        let (other, other_uri) = open(&mut bob, named("blog")).await.unwrap();
        assert!(id != other && uri != other_uri, "a name is its owner's");
        assert_eq!((ids(&mut alice).await, ids(&mut bob).await), (vec![id.clone()], vec![other]));
        let asked = bob.get_tunnel_address(GetTunnelAddressRequest { uri: uri.clone() }).await.unwrap_err();
        assert_eq!(asked.code(), Code::NotFound);
        for tunnel in [Tunnel::Uri(uri), Tunnel::Id(id.clone())] {
            let closed = bob.close_tunnel(CloseTunnelRequest { tunnel: Some(tunnel) }).await.unwrap_err();
            assert_eq!((closed.code(), closed.message()), (Code::NotFound, asked.message()));
        }
        let mut watch = bob.watch_tunnels(WatchTunnelsRequest { id, ..Default::default() }).await.unwrap().into_inner();
        let first = watch.message().await.unwrap().unwrap().event.unwrap();
        assert!(matches!(first, Event::Ready(_)), "{first:?}");
    })
    .await;
}

#[tokio::test]
async fn what_is_not_granted_is_refused_before_anything_is_allocated() {
    within(async {
        let file = CredentialsFile::new();
        let ports = tunnel_tests::server::ports(4);
        let (first, last) = (*ports.start(), *ports.end());
        let alice = file.add_with("alice", |new| {
            new.backends = vec!["tcp".to_owned()];
            new.ports = vec![first.to_string()];
        });
        let server = server_with(|config| {
            config.credentials = Some(file.path());
            config.ports.public = PortRange::Between(ports);
        })
        .await;
        let mut alice = rpc_as(&server, &alice).await;

        for (request, grant) in [
            (OpenTunnelRequest { backend: "mux".to_owned(), ..Default::default() }, "backends"),
            (OpenTunnelRequest { address: format!("tcp://:{last}"), ..Default::default() }, "ports"),
            (OpenTunnelRequest { dial_from: vec!["192.0.2.0/24".to_owned()], ..Default::default() }, "dial_from"),
            (OpenTunnelRequest { caller_address: "192.0.2.1".to_owned(), ..Default::default() }, "dial_from"),
        ] {
            let refusal = open(&mut alice, request).await.unwrap_err();
            assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal:?}");
            assert!(refusal.message().contains(&format!("`{grant}`")), "{}", refusal.message());
        }
        assert!(ids(&mut alice).await.is_empty());
        let by_number = OpenTunnelRequest { address: format!("tcp://:{first}"), ..Default::default() };
        open(&mut alice, by_number).await.unwrap();
        open(&mut alice, OpenTunnelRequest::default()).await.expect("a port of the server's choice needs no grant");
    })
    .await;
}

#[tokio::test]
async fn revoking_a_token_cuts_what_it_opened_within_five_seconds_and_nothing_else() {
    within(async {
        let file = CredentialsFile::new();
        let (alice, bob) = (file.add("alice"), file.add("bob"));
        let server = server_for(&file).await;
        let (mut alice, mut bob) = (rpc_as(&server, &alice).await, rpc_as(&server, &bob).await);
        let opened = alice.open_tunnel(named("blog")).await.unwrap().into_inner();
        let _agent = TcpStream::connect(at(&opened.uri)).await.unwrap();
        let mut client = TcpStream::connect(at(&opened.address)).await.unwrap();
        let mut watch = alice.watch_tunnels(WatchTunnelsRequest::default()).await.unwrap().into_inner();
        let (bobs, _) = open(&mut bob, named("blog")).await.unwrap();

        let since = Instant::now();
        file.revoke("alice");

        assert_eq!(hear_out(&mut client).await, (vec![], Ended::Reset));
        let told = loop {
            match watch.message().await {
                Ok(Some(event)) => {
                    if let Some(Event::Closed(closed)) = &event.event {
                        assert_eq!(closed.reason(), CloseReason::Revoked);
                    }
                }
                Ok(None) => panic!("the watch ended without a word"),
                Err(status) => break status,
            }
        };
        assert_eq!(told.code(), Code::Unauthenticated, "{told:?}");
        assert_eq!(open(&mut alice, named("blog")).await.unwrap_err().code(), Code::Unauthenticated);
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        assert_eq!(ids(&mut bob).await, [bobs]);
    })
    .await;
}

/// The operator has changed `owner` in its entry.
#[tokio::test]
async fn a_token_that_becomes_another_owners_leaves_nothing_of_the_first_ones_open() {
    within(async {
        let file = CredentialsFile::new();
        let token = file.add("alice");
        let server = server_for(&file).await;
        let mut rpc = rpc_as(&server, &token).await;
        let opened = rpc.open_tunnel(named("blog")).await.unwrap().into_inner();
        let mut client = TcpStream::connect(at(&opened.address)).await.unwrap();
        let mut watch = rpc.watch_tunnels(WatchTunnelsRequest::default()).await.unwrap().into_inner();

        let text = std::fs::read_to_string(file.path()).unwrap();
        std::fs::write(file.path(), text.replace("\"alice\"", "\"carol\"")).unwrap();

        assert_eq!(hear_out(&mut client).await, (vec![], Ended::Reset));
        while watch.message().await.is_ok() {}
        assert!(ids(&mut rpc).await.is_empty(), "it is carol's now, who has none");
    })
    .await;
}

#[tokio::test]
async fn a_token_ends_when_it_expires() {
    within(async {
        let file = CredentialsFile::new();
        let alice = file.add_with("alice", |new| new.expires_in = Some(Duration::from_secs(3)));
        let server = server_for(&file).await;
        let mut alice = rpc_as(&server, &alice).await;
        let opened = alice.open_tunnel(named("blog")).await.unwrap().into_inner();
        let mut watch = alice.watch_tunnels(WatchTunnelsRequest::default()).await.unwrap().into_inner();

        while watch.message().await.is_ok() {}

        assert_eq!(open(&mut alice, named("blog")).await.unwrap_err().code(), Code::Unauthenticated);
        // Its port closes with the tunnel, at the latest a moment after its watchers were told.
        while TcpStream::connect(at(&opened.address)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_that_is_added_is_good_at_once_and_a_broken_file_changes_nothing() {
    within(async {
        let file = CredentialsFile::new();
        let alice = file.add("alice");
        let server = server_for(&file).await;
        let mut alice = rpc_as(&server, &alice).await;
        let (id, _) = open(&mut alice, named("blog")).await.unwrap();

        let good = std::fs::read_to_string(file.path()).unwrap();
        std::fs::write(file.path(), "[[token]]\nid = ").unwrap();
        let bob = Token::generate();
        let mut as_bob = rpc_as(&server, &bob).await;
        let entry = format!(
            "{good}\n[[token]]\nid = 'k-bob'\nowner = 'bob'\nhash = '{}'\n[token.grants]\nbackends = ['*']\n",
            bob.hash()
        );
        assert_eq!(ids(&mut alice).await, std::slice::from_ref(&id));
        std::fs::write(file.path(), entry).unwrap();
        while as_bob.list_tunnels(ListTunnelsRequest::default()).await.is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(ids(&mut alice).await, [id]);
    })
    .await;
}

/// Which port was chosen for it is nobody's grant, but it is its owner's past.
#[tokio::test]
async fn an_owner_may_ask_again_for_the_port_that_it_had() {
    within(async {
        let file = CredentialsFile::new();
        let (alice, bob) = (file.add("alice"), file.add("bob"));
        let server = server_with(|config| {
            config.credentials = Some(file.path());
            config.ports.public = pool(3);
        })
        .await;
        let (mut alice, mut bob) = (rpc_as(&server, &alice).await, rpc_as(&server, &bob).await);
        let opened = alice.open_tunnel(OpenTunnelRequest::default()).await.unwrap().into_inner();
        let tunnel = Some(Tunnel::Id(opened.id));
        alice.close_tunnel(CloseTunnelRequest { tunnel }).await.unwrap();

        let again = OpenTunnelRequest { address: opened.address.clone(), ..Default::default() };
        let refusal = open(&mut bob, again.clone()).await.unwrap_err();
        assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal:?}");
        assert_eq!(alice.open_tunnel(again).await.unwrap().into_inner().address, opened.address);
    })
    .await;
}

#[tokio::test]
async fn the_process_itself_needs_no_credentials() {
    within(async {
        let file = CredentialsFile::new();
        let server = server_for(&file).await;
        server.backend().open_tunnel(&Caller::embedded(), OpenTunnel::default()).await.unwrap();
    })
    .await;
}

/// What stands in the credentials file of somebody who shows a certificate.
fn certificate(id: &str, owner: &str, told_by: &str) -> String {
    format!(
        "\n[[certificate]]\nid = '{id}'\nowner = '{owner}'\n{told_by}\n\
         [certificate.grants]\nbackends = ['*']\nclients = ['0.0.0.0/0', '::/0']\n"
    )
}

/// A call by TLS, with a certificate and with a token, if there are any; gives the refusal, or whose tunnel it was.
async fn call(
    server: &Running,
    certificates: &Certificates,
    shown: Option<ClientCertificate>,
    token: Option<&Token>,
) -> Result<String, TunnelError> {
    let connect = Connect::to(server.url()).tls(ClientTls::new(certificates.trust(), shown));
    let connect = match token {
        Some(token) => connect.token(rpc::Token::value(token.expose()).unwrap()),
        None => connect,
    };
    let remote = connect.connect().await.expect("it answers");
    let us = Caller::embedded();
    let request = OpenTunnel { name: Some("whose".parse().unwrap()), ..OpenTunnel::default() };
    let opened = remote.open_tunnel(&us, request).await?;
    Ok(opened.id.to_string())
}

#[tokio::test]
async fn a_client_certificate_is_as_good_as_a_token_and_never_makes_up_for_a_forged_one() {
    within(async {
        let (file, certificates) = (CredentialsFile::new(), Certificates::new());
        for name in ["build", "pinned", "stranger"] {
            certificates.issue(name, &[&format!("{name}.example")]);
        }
        let (alice, bob) = (file.add("alice"), file.add("bob"));
        let pinned = format!("fingerprint = '{}'", certificates.fingerprint("pinned"));
        let entries =
            certificate("c-build", "alice", "subject = 'Build.example'") + &certificate("c-pin", "bob", &pinned);
        let text = std::fs::read_to_string(file.path()).unwrap();
        std::fs::write(file.path(), text + &entries).unwrap();
        let server = server_with(|config| {
            certificates.serve(config);
            config.tls.as_mut().unwrap().client_ca = Some(certificates.path("ca.pem"));
            config.credentials = Some(file.path());
        })
        .await;
        let shown = |name: &str| Some(certificates.client(name));
        let call = async |shown, token: Option<&Token>| call(&server, &certificates, shown, token).await;

        // Given whose is whose by their tokens: the same name gives the same tunnel.
        let (alices, bobs) = (call(None, Some(&alice)).await.unwrap(), call(None, Some(&bob)).await.unwrap());
        assert_eq!(call(shown("build"), None).await.unwrap(), alices);
        assert_eq!(call(shown("pinned"), None).await.unwrap(), bobs);
        assert_eq!(call(shown("build"), Some(&alice)).await.unwrap(), alices);
        assert_eq!(call(shown("stranger"), Some(&alice)).await.unwrap(), alices);

        let forged = Token::generate();
        for (shown, token) in [
            (shown("build"), Some(&bob)),
            (shown("build"), Some(&forged)),
            (shown("stranger"), None),
            (shown("stranger"), Some(&forged)),
            (None, None),
        ] {
            let refused = call(shown, token).await.unwrap_err();
            assert!(matches!(refused, TunnelError::Unauthenticated { .. }), "{refused:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_nobodys() {
    within(async {
        let (file, certificates, others) = (CredentialsFile::new(), Certificates::new(), Certificates::new());
        others.issue("build", &["build.example"]);
        std::fs::write(file.path(), certificate("c-build", "alice", "subject = 'build.example'")).unwrap();
        let server = server_with(|config| {
            certificates.serve(config);
            config.tls.as_mut().unwrap().client_ca = Some(certificates.path("ca.pem"));
            config.credentials = Some(file.path());
        })
        .await;
        let tls = ClientTls::new(certificates.trust(), Some(others.client("build")));
        // In TLS 1.3 the client has finished before the server looks at its certificate.
        let remote = Connect::to(server.url()).tls(tls).connect().await.expect("it answers");
        let refused = remote.open_tunnel(&Caller::embedded(), OpenTunnel::default()).await.unwrap_err();
        assert!(matches!(refused, TunnelError::Unauthenticated { .. }), "{refused:?}");
        assert!(refused.to_string().contains("our client certificate"), "{refused}");
    })
    .await;
}
