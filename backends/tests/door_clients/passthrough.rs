use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::spawn_blocking,
};
use tunnel_api::OpenTunnel;
use tunnel_backends::{
    composed::Times,
    door::DoorTerms,
    testing::{
        client::{Heard, abort, hear, hear_exactly, pattern, say, say_all},
        eventually, soon,
    },
};

use crate::site::{ACCESS_DENIED, INTERNAL_ERROR, Issued, Site, alert, client_hello, dial};

#[tokio::test]
async fn a_clients_tls_reaches_its_agent_untouched() {
    let (site, issued) = (Site::new(), Issued::to("db.localhost"));
    let tunnel = site.open("tls://db").await;
    assert_eq!(tunnel.address.to_string(), format!("tls://db.localhost:{}", site.door.addr().port()));
    let (agent, client) = (dial(&tunnel).await, site.connect().await);
    let (agent, client) = tokio::join!(issued.accept(agent), issued.connect(client, "db.localhost"));
    let (mut agent, mut client) = (agent.unwrap(), client.unwrap());
    assert_eq!(agent.get_ref().1.server_name(), Some("db.localhost"));
    let much = pattern(1, 1 << 20);
    let upload = async {
        client.write_all(&much).await.unwrap();
        client.shutdown().await.unwrap();
        hear(&mut client).await
    };
    let answer = async {
        let mut heard = Vec::new();
        agent.read_to_end(&mut heard).await.unwrap();
        agent.write_all(b"got it").await.unwrap();
        agent.shutdown().await.unwrap();
        heard
    };
    let (told, heard) = soon("an exchange", async { tokio::join!(upload, answer) }).await;
    assert!(heard == much, "{} bytes of {}", heard.len(), much.len());
    assert_eq!(told, Heard::finished_after(b"got it"));
}

#[tokio::test]
async fn what_was_read_for_the_name_is_said_to_the_agent_first_and_the_rest_follows() {
    let site = Site::new();
    let tunnel = site.open("tls://db").await;
    let (mut agent, mut client) = (dial(&tunnel).await, site.connect().await);
    let hello = client_hello("DB.localhost");
    say(&mut client, &[&hello[..], b"and more"].concat()).await;
    say_all(&mut client, b", later").await;
    assert_eq!(hear(&mut agent).await, Heard::finished_after(&[&hello[..], b"and more, later"].concat()));
}

/// As some middleboxes and some attackers do.
#[tokio::test]
async fn a_client_hello_in_records_and_segments_of_one_byte_finds_its_agent() {
    let site = Site::new();
    let tunnel = site.open("tls://db").await;
    let (mut agent, mut client) = (dial(&tunnel).await, site.connect().await);
    let records: Vec<u8> =
        client_hello("db.localhost")[5..].iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]).collect();
    for byte in &records {
        say(&mut client, &[*byte]).await;
    }
    assert_eq!(hear_exactly(&mut agent, records.len()).await, records);
}

#[tokio::test]
async fn openssls_client_talks_to_the_agent() {
    let (site, issued) = (Site::new(), Issued::to("db.localhost"));
    let tunnel = site.open("tls://db").await;
    let agent = dial(&tunnel).await;
    let client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-servername", "db.localhost", "-connect"])
        .arg(site.door.addr().to_string())
        .arg("-CAfile")
        .arg(issued.path("ca"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut client) = client else { return println!("skipped: no openssl here") };
    let mut agent = soon("a handshake", issued.accept(agent)).await.unwrap();
    client.stdin.as_mut().unwrap().write_all(b"ping").unwrap();
    assert_eq!(hear_exactly(&mut agent, 4).await, b"ping");
    agent.write_all(b"pong").await.unwrap();
    agent.shutdown().await.unwrap();
    let said = soon("an end", spawn_blocking(move || client.wait_with_output())).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "pong");
}

#[tokio::test]
async fn a_clients_reset_reaches_the_agent_as_one() {
    let site = Site::new();
    let tunnel = site.open("tls://db").await;
    let (mut agent, mut client) = (dial(&tunnel).await, site.connect().await);
    let hello = client_hello("db.localhost");
    say(&mut client, &hello).await;
    assert_eq!(hear_exactly(&mut agent, hello.len()).await, hello);
    abort(client).await;
    assert_eq!(hear(&mut agent).await, Heard::reset_after(b""));
}

#[tokio::test]
async fn an_agents_reset_reaches_the_client_as_one() {
    let site = Site::new();
    let tunnel = site.open("tls://db").await;
    let (mut agent, mut client) = (dial(&tunnel).await, site.connect().await);
    let hello = client_hello("db.localhost");
    say(&mut client, &hello).await;
    assert_eq!(hear_exactly(&mut agent, hello.len()).await, hello);
    say(&mut agent, b"half an ans").await;
    abort(agent).await;
    assert_eq!(hear(&mut client).await, Heard::reset_after(b"half an ans"));
}

#[tokio::test]
async fn a_client_without_an_agent_is_told_by_an_alert() {
    let times = Times { client_wait: Duration::from_millis(50), ..Times::default() };
    let site = Site::with(DoorTerms::default(), times, 64);
    let _tunnel = site.open("tls://db").await;
    let mut client = site.connect().await;
    say(&mut client, &client_hello("db.localhost")).await;
    assert_eq!(hear(&mut client).await, Heard::finished_after(&alert(INTERNAL_ERROR)));
}

#[tokio::test]
async fn a_client_that_is_kept_out_is_told_by_an_alert() {
    let site = Site::new();
    let client_deny = vec!["127.0.0.0/8".parse().unwrap()];
    let address = "tls://db".parse().unwrap();
    let _tunnel = site.open_with(OpenTunnel { address, client_deny, ..OpenTunnel::default() }).await;
    let mut client = site.connect().await;
    say(&mut client, &client_hello("db.localhost")).await;
    assert_eq!(hear(&mut client).await, Heard::finished_after(&alert(ACCESS_DENIED)));
}

#[tokio::test]
async fn a_client_that_gives_up_waiting_costs_no_dial_in() {
    let site = Site::new();
    let tunnel = site.open("tls://db").await;
    let mut first = site.connect().await;
    say(&mut first, &client_hello("db.localhost")).await;
    eventually("it is known whose it is", async || site.clients_waiting() == 1).await;
    abort(first).await;
    eventually("it is missed", async || site.clients_waiting() == 0).await;
    let (mut agent, mut second) = (dial(&tunnel).await, site.connect().await);
    let hello = client_hello("db.localhost");
    say(&mut second, &hello).await;
    assert_eq!(hear_exactly(&mut agent, hello.len()).await, hello);
}

#[tokio::test]
async fn clients_beyond_those_that_may_wait_get_their_turn() {
    let site = Site::with(DoorTerms::default(), Times::default(), 1);
    let tunnel = site.open("tls://db").await;
    let hello = client_hello("db.localhost");
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = site.connect().await;
        say(&mut client, &hello).await;
        clients.push(client);
    }
    for _ in 0..3 {
        let mut agent = dial(&tunnel).await;
        assert_eq!(hear_exactly(&mut agent, hello.len()).await, hello);
        clients.push(agent);
    }
}

/// A thousand of them must not be thrown out by those who come.
#[tokio::test]
async fn whoever_is_matched_to_a_tunnel_has_no_seat_that_others_could_want() {
    let site = Site::with(DoorTerms { waiting: 1, ..DoorTerms::default() }, Times::default(), 64);
    let tunnel = site.open("tls://db").await;
    let hello = client_hello("db.localhost");
    let mut waiting = site.connect().await;
    say(&mut waiting, &hello).await;
    eventually("it is known whose it is", async || site.clients_waiting() == 1).await;
    let _silent = [site.connect().await, site.connect().await];
    let mut agent = dial(&tunnel).await;
    assert_eq!(hear_exactly(&mut agent, hello.len()).await, hello);
}
