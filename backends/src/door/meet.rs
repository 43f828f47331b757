use std::{net::SocketAddr, sync::Arc};

use tokio::{io::AsyncWriteExt, net::TcpStream};
use tunnel_api::Host;

use super::{
    PeerCertificate, ServerName,
    accept::Hall,
    alert::{Alert, refuse},
    client_hello::{Asked, ClientHello, HANDSHAKE, read_client_hello},
    encryption::Plain,
    first::{FirstUnit, Refusal, read_first_unit},
    lent::hear_out,
    passthrough::Passenger,
};
use crate::{
    link::Link,
    names::{Named, Spoken},
    replay::Replay,
    sockets,
    tls::Audience,
};

/// What a connection turned out to be.
#[derive(Debug)]
pub(super) enum Met {
    /// It speaks HTTP with us.
    Guest(Box<Guest>),
    /// It speaks TLS with a tunnel's agent.
    Passenger(Passenger),
}

/// A connection that speaks HTTP, perhaps by TLS that ends here.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) first: FirstUnit,
    pub(super) link: Link,
    /// How it is taken that it is plain, if it is.
    pub(super) plain: Option<Plain>,
    pub(super) certificate: Option<PeerCertificate>,
    pub(super) server_name: Option<ServerName>,
}

impl Hall {
    /// Finds out what a connection is. The caller bounds the time.
    pub(super) async fn meet(&self, socket: TcpStream, peer: SocketAddr) -> Result<Met, Refusal> {
        // Not one byte is held for a connection that says nothing.
        let mut first = [0];
        if socket.peek(&mut first).await? == 0 {
            let _ = sockets::finish(&socket);
            return Err(Refusal::Ended);
        }
        if first[0] == HANDSHAKE {
            return self.meet_by_tls(socket).await;
        }
        let mut link = Link::Plain(socket);
        let first = first_unit(&mut link).await?;
        let plain = Some(self.terms.encryption.of_plain(peer.ip()));
        Ok(Met::Guest(Box::new(Guest { first, link, plain, certificate: None, server_name: None })))
    }

    async fn meet_by_tls(&self, mut socket: TcpStream) -> Result<Met, Refusal> {
        let ClientHello { server_name, bytes } = match read_client_hello(&mut socket).await {
            Ok(client_hello) => client_hello,
            Err(Refusal::Malformed) => {
                refuse(socket, Alert::DecodeError).await;
                return Err(Refusal::Malformed);
            }
            Err(other) => return Err(other),
        };
        if let Some(named) = server_name.host().and_then(|host| self.tunnel_of(host)) {
            return Ok(Met::Passenger(Passenger { named, socket, said: bytes }));
        }
        let Some(tls) = &self.terms.tls else {
            let named = server_name != Asked::Nobody;
            refuse(socket, if named { Alert::UnrecognizedName } else { Alert::HandshakeFailure }).await;
            return Err(Refusal::NoTls);
        };
        let stream = match tls.accept(Replay::new(bytes, socket), self.audience(&server_name)).await {
            Ok(stream) => stream,
            Err((error, socket)) => {
                say_goodbye(socket).await;
                return Err(Refusal::Handshake(error));
            }
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate = shown.map(|der| PeerCertificate(Arc::from(der.as_ref())));
        let mut link = Link::tls(stream);
        let first = first_unit(&mut link).await?;
        let server_name = Some(ServerName(server_name.host().cloned()));
        Ok(Met::Guest(Box::new(Guest { first, link, plain: None, certificate, server_name })))
    }

    /// Whose TLS this is, if it is a tunnel's own.
    fn tunnel_of(&self, host: &Host) -> Option<Arc<Named>> {
        self.terms.names.as_ref()?.find(host).filter(|named| named.spoken == Spoken::Tls)
    }

    /// Web clients are not asked for a certificate: a browser would ask its user for one.
    fn audience(&self, asked: &Asked) -> Audience {
        let names = self.terms.names.as_ref().zip(asked.host());
        let is_tunnels = names.is_some_and(|(names, host)| names.has_in_domain(host) || names.find(host).is_some());
        if is_tunnels { Audience::WebClients } else { Audience::Callers }
    }
}

/// Whoever says something else is closed in order, and hears what it is told about it.
async fn first_unit(link: &mut Link) -> Result<FirstUnit, Refusal> {
    let first = read_first_unit(link).await;
    match &first {
        Err(Refusal::TooLong) => hear_out(link.socket()).await,
        Err(_) => drop(sockets::finish(link.socket())),
        Ok(_) => {}
    }
    first
}

/// Closes what the peer may still be talking on, so that it hears why: the alert is sent already.
async fn say_goodbye(socket: Replay<TcpStream>) {
    let (_, mut socket) = socket.into_parts();
    let _ = sockets::finish(&socket);
    let _ = socket.shutdown().await;
    hear_out(&socket).await;
}
