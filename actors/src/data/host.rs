//! What a data core gives to the rules that run on it.
//!
//! **Owns** the trait between the queue actors and the executor: clock, replies, background tasks.
//! **Lives on** each data core; the tests bring their own.
//! **Invariants** a reply to a peer of another core takes the road its request came by; a reply to
//! a peer that is gone is dropped silently.
//! **Limits** those of the session's out buffer and of the mesh.
//! **Not here** sockets (runtime), which request goes where (`router`).

use std::future::Future;

use bytes::{Bytes, BytesMut};
use gantry_protocol::command::ExtValue;
use gantry_protocol::command::writer;
use gantry_runtime::budget::shared::Held;
use gantry_runtime::metrics::{Counts, Profile, Timing};
use gantry_runtime::net::PeerRef;

use super::router::CoreWord;
use super::words::ReplyTo;
use crate::refusal::{BusyCause, Refusal};
use crate::seam::{CoreNumber, ToControl};

/// A data core as its actors see it.
pub trait Host: 'static {
    /// Lets `write` append whole frames for `peer`; what it appended leaves with this tick.
    fn write(&self, peer: PeerRef, write: impl FnOnce(&mut BytesMut)) {
        self.write_timed(peer, |out| {
            write(out);
            None
        });
    }

    /// As [`Host::write`], for the answer to a request that is timed until it has left; `write`
    /// says so far how, unless it has appended nothing.
    fn write_timed(&self, peer: PeerRef, write: impl FnOnce(&mut BytesMut) -> Option<Timing>);

    /// As [`Host::write_timed`], for whole frames that were made already; long ones are better not
    /// copied.
    fn write_made(&self, peer: PeerRef, frames: Bytes, timing: Option<Timing>) {
        self.write_timed(peer, |out| {
            out.extend_from_slice(&frames);
            timing
        });
    }

    /// Ms since the Unix epoch, as of this tick.
    fn wall_ms(&self) -> u64;

    /// Ms since the Unix epoch, read now.
    fn wall_ms_now(&self) -> u64;

    /// µs of a clock that never goes back, as of this tick.
    fn mono_us(&self) -> u64;

    /// The same, read now.
    fn mono_us_now(&self) -> u64;

    /// Where the time of this core's requests goes.
    fn profile(&self) -> &Profile;

    /// What this core has counted.
    fn counts(&self) -> Counts;

    /// A refusal because too much is asked at once; it is counted.
    fn busy(&self, cause: BusyCause, why: &str) -> Refusal {
        self.profile().refused(cause.stage(), cause.cause());
        Refusal::busy(cause, why)
    }

    /// Hands a word to another core (or, by the same road, to this one).
    ///
    /// # Errors
    /// The word comes back when too many wait for that core.
    fn send_core(&self, core: CoreNumber, word: CoreWord) -> Result<(), Box<CoreWord>>;

    /// Whether replies to other cores' peers wait here because the road there was full.
    fn has_late_replies(&self) -> bool {
        false
    }

    /// Hands a message to the control plane.
    ///
    /// # Errors
    /// The message comes back when the mailbox is full. When the control plane is gone it
    /// is dropped.
    fn offer_control(&self, message: ToControl) -> Result<(), Box<ToControl>>;

    /// As [`Host::offer_control`]; false when the mailbox is full.
    fn send_control(&self, message: ToControl) -> bool {
        self.offer_control(message).is_ok()
    }

    /// Closes a connection of this core.
    fn close_peer(&self, peer: PeerRef);

    /// Waits at least `ms`.
    fn sleep_ms(&self, ms: u64) -> impl Future<Output = ()> + 'static;

    /// Lets everything else that is ready on this core run, and what comes from outside come in.
    fn breathe(&self) -> impl Future<Output = ()> + 'static {
        std::future::ready(())
    }

    /// Runs a task in the background of this core.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    /// Runs housekeeping in the background of this core, after everything else.
    fn spawn_clean(&self, task: impl Future<Output = ()> + 'static) {
        self.spawn(task);
    }

    /// Ms of [`Host::mono_us`].
    fn mono_ms(&self) -> u64 {
        self.mono_us() / 1000
    }

    /// Writes a reply, unless nobody waits for one.
    fn reply(
        &self,
        to: ReplyTo,
        code: i32,
        remark: Option<&str>,
        ext: Option<&[(&str, ExtValue<'_>)]>,
        body: &[&[u8]],
    ) {
        self.reply_timed((to, None), code, remark, ext, body);
    }

    /// As [`Host::reply`], perhaps to a request that is timed until its answer has left.
    fn reply_timed(
        &self,
        (to, timing): (ReplyTo, Option<Timing>),
        code: i32,
        remark: Option<&str>,
        ext: Option<&[(&str, ExtValue<'_>)]>,
        body: &[&[u8]],
    ) {
        if to.one_way {
            return;
        }
        self.write_timed(to.peer, |out| {
            let written = writer::write_reply(out, to.encoding, to.opaque, code, remark, ext, body);
            if let Err(error) = written {
                tracing::warn!(code, %error, "a reply was too large and is replaced");
                let remark = Some("the reply exceeds the largest frame");
                // A short reply always fits.
                let short = writer::write_reply(out, to.encoding, to.opaque, 1, remark, None, &[]);
                debug_assert!(short.is_ok(), "a short reply always fits");
            }
            timing
        });
    }

    /// Whether memory for replies is left, and this peer has read enough of its own; otherwise
    /// nothing is read for its pull. Half of the memory is kept for peers that have read all.
    fn has_reply_room(&self, peer: PeerRef) -> bool {
        let _ = peer;
        true
    }

    /// Whether this peer has still to read some of what it was sent; false of other cores' peers.
    fn has_unread(&self, peer: PeerRef) -> bool {
        let _ = peer;
        false
    }

    /// Counts a reply that is being made beside the connections' buffers.
    fn hold_reply(&self, bytes: usize) -> Option<Held> {
        let _ = bytes;
        None
    }

    /// Tells a client why not.
    fn refuse(&self, to: ReplyTo, refusal: &Refusal) {
        self.refuse_timed(to, refusal, None);
    }

    /// As [`Host::refuse`], after a wait.
    fn refuse_timed(&self, to: ReplyTo, refusal: &Refusal, timing: Option<Timing>) {
        let remark = Some(refusal.remark.as_str());
        self.reply_timed((to, timing), refusal.code, remark, None, &[]);
    }
}
