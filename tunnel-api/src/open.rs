use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;

use crate::{AddressRequest, Carry, PublicAddress, TunnelError, TunnelId, TunnelName, TunnelUri};

/// The caller's own notes on a tunnel.
pub type Labels = BTreeMap<String, String>;

/// What to open. The default is a fine request; each field is documented in the .proto.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenTunnel {
    /// Which backend, by its name in the config.
    pub backend: Option<String>,
    /// The public address wanted.
    pub address: AddressRequest,
    /// The owner's own name for the tunnel.
    pub name: Option<TunnelName>,
    /// How many dial-ins may wait at once, where each carries one client.
    pub connections: Option<u32>,
    /// Begin each client's bytes with a PROXY v2 header.
    pub proxy_protocol: bool,
    /// How long the tunnel may stay undialled.
    pub dial_within: Option<Duration>,
    /// Who may dial in; empty for the caller's own address.
    pub dial_from: Vec<IpNet>,
    /// Which clients may come; empty for all that the caller's credentials grant.
    pub client_allow: Vec<IpNet>,
    /// Which of those may not.
    pub client_deny: Vec<IpNet>,
    /// What travels to the agents; `None` for whatever suits the address and the backend.
    pub carry: Option<Carry>,
    /// The address of the one on whose behalf the call is made.
    pub caller_address: Option<IpAddr>,
    /// The caller's notes.
    pub labels: Labels,
}

impl OpenTunnel {
    const MAX_LABELS: usize = 32;
    const MAX_LABEL_KEY: usize = 64;
    const MAX_LABEL_VALUE: usize = 256;
    const MAX_NETWORKS: usize = 64;

    /// The bounds that hold whatever the backend. The RPC face checks them; an embedding program may too.
    pub fn check_bounds(&self) -> Result<(), TunnelError> {
        if self.labels.len() > Self::MAX_LABELS {
            return Err(TunnelError::invalid("labels", format!("more than {}; send fewer", Self::MAX_LABELS)));
        }
        if self
            .labels
            .iter()
            .any(|(k, v)| k.is_empty() || k.len() > Self::MAX_LABEL_KEY || v.len() > Self::MAX_LABEL_VALUE)
        {
            let why =
                format!("keys are 1 to {} bytes long, values at most {}", Self::MAX_LABEL_KEY, Self::MAX_LABEL_VALUE);
            return Err(TunnelError::invalid("labels", why));
        }
        for (field, networks) in
            [("dial_from", &self.dial_from), ("client_allow", &self.client_allow), ("client_deny", &self.client_deny)]
        {
            if networks.len() > Self::MAX_NETWORKS {
                return Err(TunnelError::invalid(field, format!("more than {} networks", Self::MAX_NETWORKS)));
            }
        }
        Ok(())
    }
}

/// The tunnel that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedTunnel {
    /// Names it in logs, lists and events.
    pub id: TunnelId,
    /// Where and how the agent dials in.
    pub uri: TunnelUri,
    /// Where clients connect.
    pub address: PublicAddress,
    /// When it closes if nobody has dialled in by then.
    pub dial_by: SystemTime,
    /// Who may dial in.
    pub dial_from: Vec<IpNet>,
    /// How many dial-ins may wait at once.
    pub connections: u32,
    /// Which clients may come; empty for all.
    pub client_allow: Vec<IpNet>,
    /// Which of those may not.
    pub client_deny: Vec<IpNet>,
    /// What travels to the agents.
    pub carry: Carry,
}
