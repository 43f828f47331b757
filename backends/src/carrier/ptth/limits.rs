//! HTTP/2's settings on both ends of a session. The `h2` crate's own are for browsers and web servers.

use std::time::Duration;

/// What a session may hold that its readers have not read. Each stream's window is a share of it.
pub(super) const BUDGET: u32 = 64 * 1024 * 1024;

/// The least share. With so many streams a session is full.
pub(super) const LEAST_WINDOW: u32 = 16 * 1024;
pub(super) const MOST_STREAMS: u32 = BUDGET / LEAST_WINDOW;

/// Every stream's window until something has been measured, if the budget has so much for each: up to 256 streams.
pub(super) const FIRST_WINDOW: u32 = 256 * 1024;

/// The least where many fill the path together, if the budget has so much for each: two frames, one to be read while the other one comes.
pub(super) const SHARED_WINDOW: u32 = 128 * 1024;

/// The most, whatever is measured: it fills 100 ms at 160 MB/s.
pub(super) const MOST_WINDOW: u32 = 16 * 1024 * 1024;

/// The streams' windows say what may be on its way; the connection's must never stop a stream that may send (a grant cannot
/// be taken back, so that after changes their sum can be a few times the budget), and is as large as the protocol allows.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Written and not yet sent, for each stream.
const SEND_BUFFER: usize = 64 * 1024;

/// Larger than HTTP/2's 16 KiB: a quarter of the headers, and a stream still yields to the others often enough.
const FRAME: u32 = 64 * 1024;

/// Of a request.
#[cfg(feature = "dial")]
const LONGEST_HEAD: u32 = 16 * 1024;

/// Of an answer, some of which have dozens of cookies; as much as where connections are carried. What does not fit one frame and is too
/// long costs the session at the `h2` crate's, so our agent does not send it.
pub(super) const LONGEST_ANSWER_HEAD: u32 = FRAME;

/// Frames of a stream that was reset here may still be on their way: they are let pass for so long, for so many streams at
/// once. What comes later is answered with a reset, which HTTP/2 libraries bound for good reason; so many in a session's life.
const RESET_REMEMBERED: Duration = Duration::from_secs(30);
const RESETS_REMEMBERED: usize = 64 * 1024;
const RESETS_OF_THE_FORGOTTEN: usize = 16 * 1024;

/// Streams that the server has opened and reset before our agent has looked at them.
#[cfg(feature = "dial")]
const RESETS_UNSEEN: usize = 2 * MOST_STREAMS as usize;

/// How many resets a second our agent bears, as it tells the server. Nobody gets more, whatever they bear: what is reset has
/// to be remembered.
pub(super) const RESETS_A_SECOND: u32 = 2000;
const _: () =
    assert!(RESETS_A_SECOND as u64 * RESET_REMEMBERED.as_secs() + RESETS_SAVED as u64 <= RESETS_REMEMBERED as u64);

/// Turns of resets that are saved up while nothing is reset.
pub(super) const RESETS_SAVED: u32 = 500;

/// The `h2` crate ends a session when too many small DATA frames are unread, which any client can bring about whose service
/// does not read, and counts those of forgotten streams for ever. We pack them instead (`inbox.rs`).
const SMALL_FRAMES: usize = usize::MAX;

/// The side that opens streams: the server.
#[cfg(feature = "serve")]
pub(super) fn caller() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        // None before the agent's settings have come.
        .initial_max_send_streams(0)
        .initial_window_size(FIRST_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(LONGEST_ANSWER_HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(RESETS_REMEMBERED)
        .reset_stream_duration(RESET_REMEMBERED)
        .max_local_error_reset_streams(Some(RESETS_OF_THE_FORGOTTEN))
        .data_frame_budget(SMALL_FRAMES);
    builder
}

/// The side that answers: the agent.
#[cfg(feature = "dial")]
pub(super) fn answerer() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(MOST_STREAMS)
        .initial_window_size(FIRST_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(LONGEST_HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(RESETS_REMEMBERED)
        .reset_stream_duration(RESET_REMEMBERED)
        .max_local_error_reset_streams(Some(RESETS_OF_THE_FORGOTTEN))
        .max_pending_accept_reset_streams(RESETS_UNSEEN)
        .data_frame_budget(SMALL_FRAMES)
        // Clients' upgrades, where the tunnel carries requests.
        .enable_connect_protocol();
    builder
}

/// Of 2^30 stream ids a session has used nearly all: it takes no new streams, and another one has to replace it.
#[cfg(not(test))]
pub(super) const LAST_STREAM: u32 = (1 << 31) - (1 << 16);

/// In tests so soon that it happens: ids are odd, so after ten streams.
#[cfg(test)]
pub(super) const LAST_STREAM: u32 = 19;
