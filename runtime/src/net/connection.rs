//! Reading one connection: bytes in, whole frames out to the handler.
//!
//! **Owns** the bytes of a frame whose end has not arrived yet, and the cutting of what has.
//! **Lives on** the data core that accepted the connection: one task each.
//! **Invariants** frames reach the handler in wire order, all complete ones of a read in one call;
//! nothing is read while the connection is clogged; a length that cannot be a frame ends the
//! connection before a byte is reserved for it.
//! **Limits** one frame as `gantry_protocol::frame` says; one read is `READ_BYTES`; incomplete
//! frames of all connections of the core together as `assembly` says. An idle connection
//! holds no buffer.
//! **Not here** writing (`writer`), the idle limit (`net::sweep`).

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use gantry_protocol::frame::{self, Frame};

use super::admission::Place;
use super::session::{CloseReason, Session};
use super::{FrameHandler, Net, assembly};
use crate::shard::breathe;

/// The start of a frame whose end has not arrived.
struct Partial {
    bytes: BytesMut,
    /// Bytes of the whole frame, length word included; `None` until the length word is complete.
    whole: Option<usize>,
}

/// The task of one connection.
pub(super) async fn run<H: FrameHandler>(net: Rc<Net<H>>, session: Rc<Session>, place: Place) {
    net.handler.on_open(&session);
    let reason = read_until_end(&net, &session).await;
    let reason = session.close_reason().unwrap_or(reason);
    if matches!(
        reason,
        CloseReason::BadFrame
            | CloseReason::NoMemory
            | CloseReason::SlowReader
            | CloseReason::SlowSender
    ) {
        net.metrics.count(|counts| counts.expelled += 1);
    }
    net.peers.remove(session.id());
    session.end(reason);
    drop(place);
    net.metrics.count(|counts| counts.connections -= 1);
    tracing::debug!(peer = %session.peer_addr(), ?reason, "connection ended");
    net.handler.on_close(&session);
}

async fn read_until_end<H: FrameHandler>(net: &Rc<Net<H>>, session: &Rc<Session>) -> CloseReason {
    let mut partial = None;
    // When the first byte of a frame came whose end has not.
    let mut partial_us = 0;
    loop {
        if session.is_clogged() {
            session.assembling.borrow_mut().pause();
            session.until_unclogged().await;
            let now_ms = net.clock.mono_us_now() / 1_000;
            session.assembling.borrow_mut().resume(now_ms);
        }
        let had_partial = partial.is_some();
        let step = poll_fn(|cx| poll_step(net, session, &mut partial, cx)).await;
        let (mut frames, full) = match step {
            Ok(step) => step,
            Err(reason) => return reason,
        };
        if !session.is_open() && !session.is_finished() {
            return CloseReason::Peer;
        }
        let read_us = net.clock.mono_us();
        let first_us = if had_partial { partial_us } else { read_us };
        if partial.is_some() && (!had_partial || !frames.is_empty()) {
            partial_us = read_us;
        }
        if session.is_listening() && !frames.is_empty() {
            net.handler.on_frames(session, &mut frames);
            if net.metrics.profile().is_on() {
                let now_us = net.clock.mono_us_now();
                net.handler.on_frames_done(first_us, read_us, now_us);
            }
        }
        frames.clear();
        net.frames.set(frames);
        // A read that filled the scratch is followed by another at once: a peer that never stops
        // sending must not keep the core from its other sessions.
        if full {
            breathe().await;
        }
    }
}

/// One read, what it completes and whether it filled the scratch. Runs without an await, so the
/// core's scratch is free again after it.
fn poll_step<H: FrameHandler>(
    net: &Rc<Net<H>>,
    session: &Rc<Session>,
    partial: &mut Option<Partial>,
    cx: &mut Context<'_>,
) -> Poll<Result<(Vec<Frame>, bool), CloseReason>> {
    let mut scratch = net.scratch.borrow_mut();
    let read = match session.poll_read(cx, &mut scratch) {
        Poll::Pending => return Poll::Pending,
        Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(CloseReason::Peer)),
        Poll::Ready(Ok(read)) => read,
    };
    net.clock.refresh();
    session.note_read(net.clock.mono_ms());
    let mut frames = net.frames.take();
    let fresh = scratch.get(..read).unwrap_or_default();
    let cut = if session.is_finished() {
        // Nobody wants it, and an end of the reading here would cost the peer its last answers.
        *partial = None;
        Ok(())
    } else {
        cut(net, session, (partial, fresh), &mut frames)
    };
    net.metrics.count(|counts| {
        counts.reads += 1;
        counts.bytes_in += read as u64;
        counts.frames_in += frames.len() as u64;
    });
    let full = read == scratch.len();
    Poll::Ready(cut.map(|()| (frames, full)))
}

/// Appends to `frames` what `fresh` completes and keeps the rest in `partial`.
fn cut<H>(
    net: &Net<H>,
    session: &Session,
    (partial, mut fresh): (&mut Option<Partial>, &[u8]),
    frames: &mut Vec<Frame>,
) -> Result<(), CloseReason> {
    while let Some(open) = partial.as_mut() {
        // Fewer than four bytes so far: complete the length word first.
        let wanted = open.whole.unwrap_or(frame::LENGTH_WORD_BYTES);
        let need = wanted.saturating_sub(open.bytes.len());
        let (more, rest) = fresh.split_at(need.min(fresh.len()));
        if more.len() < need || open.whole.is_none() {
            assembly::keep(net, session, more.len())?;
        }
        // The declared length is only a claim: memory grows with the bytes that really arrive.
        open.bytes.extend_from_slice(more);
        fresh = rest;
        if more.len() < need {
            return Ok(());
        }
        if open.whole.is_none() {
            open.whole = declared(&open.bytes)?;
            continue;
        }
        let mut done = partial.take().map(|open| open.bytes).unwrap_or_default();
        session.assembling.borrow_mut().end();
        take_all(&mut done, frames)?;
    }
    let complete = complete_prefix(fresh)?;
    let (ready, rest) = fresh.split_at(complete.min(fresh.len()));
    if !ready.is_empty() {
        // One copy out of the hot scratch buys frames that pin no more than this read.
        take_all(&mut BytesMut::from(ready), frames)?;
    }
    if !rest.is_empty() {
        let whole = declared(rest)?;
        assembly::keep(net, session, rest.len())?;
        *partial = Some(Partial {
            bytes: BytesMut::from(rest),
            whole,
        });
    }
    Ok(())
}

/// How many leading bytes are whole frames.
fn complete_prefix(bytes: &[u8]) -> Result<usize, CloseReason> {
    let mut end = 0;
    while let Some(whole) = declared(bytes.get(end..).unwrap_or_default())? {
        if bytes.len() - end < whole {
            break;
        }
        end += whole;
    }
    Ok(end)
}

fn take_all(block: &mut BytesMut, frames: &mut Vec<Frame>) -> Result<(), CloseReason> {
    while let Some(frame) = frame::take_frame(block).map_err(|_| CloseReason::BadFrame)? {
        frames.push(frame);
    }
    Ok(())
}

fn declared(bytes: &[u8]) -> Result<Option<usize>, CloseReason> {
    frame::frame_bytes_wanted(bytes).map_err(|_| CloseReason::BadFrame)
}
