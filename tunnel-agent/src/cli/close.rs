use std::io::{self, BufRead, IsTerminal, Read};

use tunnel_api::{Caller, TunnelBackend, TunnelError, TunnelId, TunnelName, TunnelRef, TunnelUri};

use super::{args::Close, failure::Failure, screen::Screen, server::Server};

/// `tunnel close`.
pub(crate) async fn run(args: &Close, server: &Server, screen: &Screen) -> Result<(), Failure> {
    let (shown, candidates) = match args.tunnel.as_str() {
        "-" => ("the tunnel", vec![TunnelRef::Uri(uri_from_stdin(screen)?)]),
        text => (text, named(text)?),
    };
    let backend = server.connect().await?;
    for tunnel in &candidates {
        match backend.close_tunnel(&Caller::embedded(), tunnel).await {
            Ok(()) => {
                screen.note(&format!("closed {shown}"));
                return Ok(());
            }
            Err(TunnelError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::new(match args.tunnel.as_str() {
        "-" => "no open tunnel has this URI; it may have closed already".to_owned(),
        text => format!("no open tunnel has the name or id {text}; `tunnel list` shows those that are there"),
    }))
}

/// As an id first, if it looks like one of ours, and then as a name.
fn named(text: &str) -> Result<Vec<TunnelRef>, Failure> {
    if text.contains("://") {
        return Err(Failure::usage(URI_ON_ARGV));
    }
    let name: TunnelName =
        text.parse().map_err(|error| Failure::usage(format!("not a tunnel's name or id: {error}")))?;
    Ok(id(text).map(TunnelRef::Id).into_iter().chain([TunnelRef::Name(name)]).collect())
}

/// Ids are `t-` and 16 hexadecimal digits.
pub(crate) fn id(text: &str) -> Option<TunnelId> {
    let digits = text.strip_prefix("t-")?;
    let is_ours = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    is_ours.then(|| text.parse().ok()).flatten()
}

/// One line, and no more of it than a URI may have.
fn uri_from_stdin(screen: &Screen) -> Result<TunnelUri, Failure> {
    let stdin = io::stdin().lock();
    if stdin.is_terminal() {
        screen.say("the tunnel's URI:");
    }
    let mut line = Vec::new();
    stdin
        .take(TunnelUri::MAX_LEN as u64 + 2)
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::new(format!("cannot read the URI from stdin: {error}")))?;
    let line = String::from_utf8_lossy(&line);
    if line.trim().is_empty() {
        return Err(Failure::usage("nothing came on stdin; write the tunnel's URI there: tunnel close - < FILE"));
    }
    line.trim().parse().map_err(|error| Failure::usage(format!("what came on stdin is no tunnel URI: {error}")))
}

const URI_ON_ARGV: &str = "a tunnel's URI is a secret, and arguments can be seen by everybody on this machine
  give it on stdin: tunnel close - < FILE";
