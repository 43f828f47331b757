use std::time::SystemTime;

use crate::{Labels, PublicAddress, TunnelId, TunnelName};

/// A tunnel as its owner sees it. Its URI is a secret and is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelInfo {
    /// Its id.
    pub id: TunnelId,
    /// The owner's name for it.
    pub name: Option<TunnelName>,
    /// Where clients connect, the preferred address first.
    pub addresses: Vec<PublicAddress>,
    /// The backend that runs it.
    pub backend: String,
    /// Where it stands.
    pub state: TunnelState,
    /// Agent connections that can take a client now.
    pub sessions: u32,
    /// Clients being served now.
    pub streams: u32,
    /// Bytes from clients to agents.
    pub bytes_to_agent: u64,
    /// Bytes from agents to clients.
    pub bytes_to_client: u64,
    /// Dial-ins reset because they came from elsewhere.
    pub strangers: u64,
    /// Clients reset because the tunnel is not for them, or because they were too many.
    pub refused_clients: u64,
    /// When it was opened.
    pub open_time: SystemTime,
    /// When it closes by itself unless an agent comes.
    pub expire_time: Option<SystemTime>,
    /// The owner's notes.
    pub labels: Labels,
}

/// Where a tunnel stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelState {
    /// No agent has dialled in yet.
    Waiting,
    /// An agent is there.
    Online,
    /// Its agents are gone and the address is held for them.
    Offline,
}

/// Which part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Only ids above this one.
    pub after: Option<TunnelId>,
    /// At most this many.
    pub limit: usize,
}

impl Page {
    /// What one page holds at the most.
    pub const MAX: usize = 1000;
}
